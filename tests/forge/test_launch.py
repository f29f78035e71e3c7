"""Starting runs and phases: what is refused leaves nothing behind."""

import pytest

from esper.errors import ConfigError, EsperError, ForgeError
from esper.forge import run_phase
from esper.forge.bundles import save_language_model
from esper.forge.composing import compose
from esper.forge.launch import start
from tests.forge.models import network, tokenizer


@pytest.mark.sampled(1)
@pytest.mark.parametrize("folder", ["absent", "it's", 'a "b"', "x,y=[1]"])
def test_a_phase_whose_input_is_not_there_is_refused(tmp_path, folder):
    with pytest.raises(ForgeError, match=r"no model\.safetensors"):
        run_phase("bitnet", tmp_path / folder, tmp_path / "out", ["size=nano"])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_phase_is_not_handed_what_it_cannot_work_on(tmp_path):
    path = save_language_model(
        tmp_path / "model", network(), tokenizer(), phase="cognate", seed=0, data_fingerprint="f"
    )
    for name, given, wanted in (
        ("cognate", path, "cognate starts from text alone"),
        ("evomerge", path, "0 specialists"),
        ("bitnet", None, "input=null"),
        ("bitnett", path, "bitnet"),
    ):
        with pytest.raises(EsperError, match=wanted):
            run_phase(name, given, tmp_path / "out", ["size=nano"])
    assert not (tmp_path / "out").exists()


def test_a_run_on_bad_input_leaves_no_folder(tmp_path):
    config = compose(["size=nano", "phase=bitnet", f"input={tmp_path}/absent", "telemetry.console=off"])
    with pytest.raises(ConfigError, match="there is no such folder or bundle"):
        start(config, tmp_path / "run")
    for folder in ("absent", "run"):
        (tmp_path / folder).mkdir()
    with pytest.raises(ForgeError, match="there is no model"):
        start(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()

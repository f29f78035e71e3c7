"""From overrides, or from config.yaml, to a configuration of a forge run; and the help that lists its keys."""

import re
import subprocess
import sys
from dataclasses import fields

import pytest
import yaml

from esper.config.options import groups
from esper.errors import ConfigError
from esper.forge.composing import compose, read_config, to_plain
from esper.forge.config import PLACES, ForgeConfig
from esper.forge.help import help_text


@pytest.fixture(scope="module")
def nano() -> ForgeConfig:
    return compose(["size=nano"])


@pytest.fixture
def written(nano, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_plain(nano)))
    return path


def test_a_size_sets_the_model_and_every_phases_budget(nano):
    small = compose()
    assert (small.size, small.name, small.model.n_embd) == ("small", "forge_small", 128)
    assert (nano.size, nano.name, nano.model.n_embd) == ("nano", "forge_nano", 64)
    assert nano.cognate.trunk_training.steps < small.cognate.trunk_training.steps
    assert nano.corpus.block_size == nano.model.block_size == 64
    assert nano.way == list(PLACES) and compose(["phase=bitnet", "input=x"]).way == ["bitnet"]


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["bitnet.distil=0.5"], "distill"),
        (["+bitnet.more=1"], "no such key"),
        (["size=tiny"], "nano"),
        (["phase=bitnet"], "input=null: bitnet works on what an earlier phase has left"),
        (["input=outputs/x"], "cognate starts from text alone"),
        (["phases=[bitnet,cognate]"], "in their order"),
        (["corpus=text", "corpus.paths=[x.txt]"], r"leave it out: 'phases=\[cognate,quietstar,bitnet"),
        (["phases=[cognate,cognate]"], "cognate"),
        (["phase=bitnett", "input=x"], "bitnet"),
        (["controls=some"], "gates"),
        (["resume=outputs/x"], "belongs on the command line"),
        (["bitnet.distill=2"], r"bitnet\.distill=2"),
        (["model.n_head=3"], r"divisor of model\.n_embd"),
        (["name=a/b"], "names a folder"),
        (["cognate.trunk_training.steps=0"], r"cognate\.trunk_training\.steps=0"),
        (["evomerge.continued_training.learning_rate=2"], r"evomerge\.continued_training\.learning_rate=2"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_with_what_would_do(overrides, wanted):
    with pytest.raises(ConfigError, match=wanted) as refused:
        compose(overrides)
    assert len(str(refused.value).splitlines()) <= 3


def test_a_run_is_read_back_as_it_was_configured(nano, written):
    assert read_config(written) == nano


def test_a_resumed_run_takes_changed_values(nano, written):
    changed = read_config(written, ["bitnet.distill=1.0", "phases=[cognate,bitnet]", "cognate.trunk=null"])
    assert changed.bitnet.distill == 1.0 and changed.way == ["cognate", "bitnet"]
    assert changed.cognate == nano.cognate and changed.compression == nano.compression


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("bitnet.distil=1", "distill"),
        ("bitnet.distill", "expected key=value"),
        ("bitnet.distill=9", "distill=9"),
        ("bitnet.epochs=many", "epochs"),
        ("bitnet=adamw", "bitnet"),
        ("bitnet.distill=[", "distill"),
    ],
)
def test_a_changed_value_is_checked_as_any_other(written, override, wanted):
    with pytest.raises(ConfigError, match=wanted):
        read_config(written, [override])


@pytest.mark.parametrize(
    "text",
    ["", "- 1", "{", "name: ${oc.env:HOME}", "name: x", "bitnet: 3", "seed: [1]"],
)
def test_whatever_the_file_holds_the_answer_is_short(written, text):
    written.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_config(written)
    assert len(str(refused.value).splitlines()) <= 3


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read"):
        read_config(tmp_path / "config.yaml")


def test_help_lists_every_phase_group_option_and_root_key():
    text = help_text()
    assert f"Phases: {', '.join(PLACES)}" in text
    for group, options in groups("forge").items():
        row = re.search(rf"^  {group} .+", text, re.MULTILINE)[0]
        assert all(re.search(rf"\b{option}\b", row) for option in options)
    assert re.search(r"^  size .*\bsmall\*", text, re.MULTILINE)  # the default
    of_phases = {*PLACES, "model", "corpus", "telemetry", "size"}
    for field in fields(ForgeConfig):
        if field.name not in of_phases:
            assert re.search(rf"^  {field.name}=.+  \S", text, re.MULTILINE), field.name
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("bitnet.distil=1", 2)])
def test_asking_or_mistyping_loads_nothing_heavy(argument, code):
    program = (
        "import sys\nfrom esper.forge.__main__ import main\ncode = main(sys.argv[1:])\n"
        "sys.exit(99 if {'torch', 'wandb', 'numpy', 'scipy'} & set(sys.modules) else code)"
    )
    done = subprocess.run([sys.executable, "-c", program, argument], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr

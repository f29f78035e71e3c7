"""Phase 4 from end to end: the packed file alone is the ternary model, and smaller than its input by what is said."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open

from esper import load_language_model
from esper.errors import CheckpointError
from tests.e2e.forge_runs import bits_per_byte, corpus_of, forge, logged, result

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def folder(nano_run):
    return nano_run / "4-bitnet"


def test_every_matrix_in_the_layers_has_three_values_a_scale(folder):
    for name, tensor in load_language_model(folder).host.state_dict().items():
        if name.startswith("layers.") and tensor.dim() == 2:
            assert len(tensor.abs().unique()) <= 2, name  # 0, and the scale


def test_the_file_is_as_much_smaller_as_the_record_says(nano_run, folder):
    metrics = result(nano_run, "bitnet")["result"]["metrics"]
    model = load_language_model(nano_run / "2-evomerge")
    plain_bytes = sum(4 * parameter.numel() for parameter in model.parameters())
    packed_bytes = (folder / "model.safetensors").stat().st_size
    assert metrics["bytes_ratio"] == pytest.approx(plain_bytes / packed_bytes)
    assert metrics["bytes_ratio"] >= 9
    with safe_open(folder / "model.safetensors", "pt") as file:
        floats = [name for name in file.keys() if file.get_tensor(name).dtype == torch.float32]  # noqa: SIM118
    assert all("layers" not in name or "norm" in name or "scale" in name for name in floats)


def test_it_keeps_what_the_record_says(nano_run, folder):
    corpus, length = corpus_of(nano_run)
    metrics = result(nano_run, "bitnet")["result"]["metrics"]
    measured = bits_per_byte(load_language_model(folder), corpus.domains["python"].test, length)
    assert metrics["python/bits_per_byte"] == pytest.approx(measured, abs=1e-4)


def test_perplexity_falls_epoch_by_epoch(nano_run):
    losses = [value for _, value in logged(nano_run, "bitnet/loss")]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("damage", ["flipped", "short", "other parent", "no canary"])
def test_a_damaged_packed_file_is_refused(folder, tmp_path, damage):
    for name in ("model.safetensors", "model.json"):
        shutil.copy(folder / name, tmp_path / name)
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    if damage == "flipped":
        data[-100] ^= 1
    elif damage == "short":
        del data[-100:]
    else:
        card = json.loads((tmp_path / "model.json").read_text())
        card["metadata"]["parents" if damage == "other parent" else "canary"] = {}
        (tmp_path / "model.json").write_text(json.dumps(card))
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError) as refused:
        load_language_model(tmp_path)
    assert len(str(refused.value).splitlines()) <= 2


def test_from_the_command_line_a_damaged_input_is_bad_input(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "given")
    path = tmp_path / "given" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    done = forge(tmp_path, "size=nano", "phase=compression", "input=given", "hydra.run.dir=run")
    assert done.code == 2
    assert "altered" in done.err and len(done.err.splitlines()) <= 2
    assert not (tmp_path / "run").exists()

"""Contracts, section checkpoint: from torch files to esper's."""

import hashlib
import json
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esper.checkpoint import load_checkpoint, migrate_torch_checkpoint
from esper.cli import main
from esper.errors import EsperError
from esper.leyline import SeedStage


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def save(path: Path, payload: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(payload, path)
    return path


def same(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", None])
def test_every_form_of_a_state_dict_becomes_the_tensors(tmp_path: Path, key: str | None) -> None:
    model, other, third = network(), network(), network()
    state = model.state_dict()
    rest = {"epoch": 12, "config": {"lr": 0.1, "betas": (0.9, 0.99)}, "best": None}
    source = save(tmp_path / "old.pt", state if key is None else {key: state, **rest})
    before = (hashlib.sha256(source.read_bytes()).hexdigest(), source.stat().st_mtime_ns)

    migrate_torch_checkpoint(str(source), str(tmp_path / "new" / "agent"), model=other)
    assert same(model, other)
    sidecar = load_checkpoint(third, tmp_path / "new" / "agent")
    assert same(model, third)
    if key is not None:
        assert sidecar["metadata"]["epoch"] == 12 and sidecar["metadata"]["config"] == {"lr": 0.1, "betas": [0.9, 0.99]}
        assert sidecar["metadata"]["best"] is None
    assert (hashlib.sha256(source.read_bytes()).hexdigest(), source.stat().st_mtime_ns) == before
    assert {path.suffix for path in (tmp_path / "new").iterdir()} == {".safetensors", ".json"}


def test_an_optimizer_beside_the_model_is_kept(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    payload = {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    migrate_torch_checkpoint(save(tmp_path / "old.pt", payload), tmp_path / "new")
    sidecar = json.loads((tmp_path / "new.json").read_text())
    assert sidecar["metadata"]["optimizer_state_dict"]["param_groups"][0]["lr"] == 0.001
    safetensors = pytest.importorskip("safetensors.torch")
    kept = [tensor for path in tmp_path.glob("*.safetensors") for tensor in safetensors.load_file(path).values()]
    moment = optimizer.state_dict()["state"][0]["exp_avg"]
    assert any(tensor.shape == moment.shape and torch.equal(tensor, moment) for tensor in kept)


def test_what_is_unsafe_needs_trust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    when = datetime(2025, 1, 2, tzinfo=UTC)
    payload = {
        "model_state_dict": network().state_dict(),
        "when": when,
        "seen": deque([1.5]),
        "stage": SeedStage.BLENDING,
    }
    source = save(tmp_path / "old.pt", payload)
    with pytest.raises(EsperError, match=r"datetime\.datetime"):
        migrate_torch_checkpoint(source, tmp_path / "new" / "old")
    assert not (tmp_path / "new").exists()
    assert main(["convert", str(source), str(tmp_path / "new")]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(["convert", "--trust", str(source), str(tmp_path / "new")]) == 0
    metadata = json.loads((tmp_path / "new" / "old.json").read_text())["metadata"]
    assert datetime.fromisoformat(metadata["when"]) == when
    assert metadata["seen"] == [1.5] and metadata["stage"] == 4


class Odd:
    pass


def test_what_cannot_be_represented_is_named(tmp_path: Path) -> None:
    source = save(tmp_path / "old.pt", {"state_dict": network().state_dict(), "notes": [1, {"inner": Odd()}]})
    with pytest.raises(EsperError, match=r"notes.*inner"):
        migrate_torch_checkpoint(source, tmp_path / "new", trust=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old.pt"]


def test_numbers_that_are_not_finite_are_kept(tmp_path: Path) -> None:
    payload = {"state_dict": network().state_dict(), "loss": float("nan"), "best": float("inf")}
    path = migrate_torch_checkpoint(save(tmp_path / "old.pt", payload), tmp_path / "new")
    assert json.loads((tmp_path / "new.json").read_text())["metadata"]["best"] == {"float": "inf"}
    metadata = load_checkpoint(network(), path)["metadata"]
    assert metadata["best"] == float("inf") and metadata["loss"] != metadata["loss"]


def test_another_models_weights_are_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "old.pt", network().state_dict())
    with pytest.raises(EsperError, match="another architecture"):
        migrate_torch_checkpoint(source, tmp_path / "new", model=nn.Linear(3, 4))
    assert not (tmp_path / "new.json").exists()


def test_a_whole_tree_keeps_its_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = {"a.pt": network(), "inner/b.pt": network(), "inner/deeper/c.pth": network()}
    for name, model in models.items():
        save(tmp_path / "old" / name, {"model_state_dict": model.state_dict()})
    single = save(tmp_path / "single.pt", network().state_dict())
    assert main(["convert", str(tmp_path / "old"), str(single), str(tmp_path / "new")]) == 0
    for name, model in models.items():
        other = network()
        load_checkpoint(other, (tmp_path / "new" / name).with_suffix(""))
        assert same(model, other)
    assert (tmp_path / "new" / "single.safetensors").exists()
    assert all((tmp_path / "old" / name).exists() for name in models)


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.pt"
    bad.write_text("no torch file")
    good = save(tmp_path / "good.pt", network().state_dict())
    assert main(["convert", str(bad), str(good), str(tmp_path / "new")]) == 2
    assert "bad.pt" in capsys.readouterr().err
    assert (tmp_path / "new" / "good.json").exists() and not (tmp_path / "new" / "bad.json").exists()

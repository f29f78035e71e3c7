"""Contracts, section checkpoint: any module as two files, and the checkpoints of a run."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from esper.checkpoint import CheckpointManager, load_checkpoint, save_checkpoint
from esper.errors import EsperError


class Awkward(nn.Module):
    """Everything that a naive writer of tensors stumbles on."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Sequential(nn.Linear(3, 4)), nn.BatchNorm1d(4))
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.brief = nn.Parameter(torch.randn(3).to(torch.bfloat16))
        self.image = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
        self.turned = nn.Parameter(torch.randn(3, 5).t())
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("nothing", torch.empty(0, 4))
        self.register_buffer("flags", torch.tensor([True, False]))


def same(left: nn.Module, right: nn.Module) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours
    )


@pytest.mark.parametrize("name", ["model", "model.safetensors", "model.v1.2", "deep/er/model"])
def test_any_module_comes_back(tmp_path: Path, name: str) -> None:
    model, other = Awkward(), Awkward()
    path = save_checkpoint(model, tmp_path / name, config={"width": 4}, metadata={"note": "é", "scores": [1, None]})
    folder = (tmp_path / name).parent
    stem = name.rpartition("/")[2].removesuffix(".safetensors")
    assert {found.name for found in folder.iterdir()} == {f"{stem}.safetensors", f"{stem}.json"}
    assert not same(model, other)
    for place in (path, str(tmp_path / name)):
        loaded = load_checkpoint(other, place, device="cpu")
        assert isinstance(loaded, dict)
        assert loaded["config"] == {"width": 4} and loaded["metadata"] == {"note": "é", "scores": [1, None]}
    assert same(model, other) and other.head.weight is other.embedding.weight
    json.loads((folder / f"{stem}.json").read_text())


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = save_checkpoint(Awkward(), tmp_path / "model")
    stored = safetensors.load_file(path)
    assert ("embedding.weight" in stored) != ("head.weight" in stored)
    assert stored["brief"].dtype == torch.bfloat16 and stored["count"].shape == ()


def test_a_grown_model_comes_back_from_the_two_files(tmp_path: Path, grown: object) -> None:
    from esper.leyline import SeedStage

    model, other = grown(SeedStage.BLENDING, "gated"), grown(is_planted=False)
    save_checkpoint(model, tmp_path / "model")
    load_checkpoint(other, tmp_path / "model", device=torch.device("cpu"))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model.eval()(images), other.eval()(images))
    assert other.slots["mid"].state == model.slots["mid"].state


def test_another_architecture_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    save_checkpoint(nn.Linear(3, 4), tmp_path / "model")
    other = nn.Linear(3, 5)
    before = other.weight.clone()
    with pytest.raises(EsperError, match="weight"):
        load_checkpoint(other, tmp_path / "model")
    assert torch.equal(other.weight, before)
    with pytest.raises(EsperError, match="absent"):
        load_checkpoint(other, tmp_path / "absent")


# ---- the manager


def agent(value: float) -> nn.Module:
    module = nn.Linear(2, 2)
    nn.init.constant_(module.weight, value)
    return module


def weight(checkpoint: object) -> float:
    tensors: dict[str, Tensor] = checkpoint.tensors
    return float(tensors["weight"][0, 0])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Epochs 1, 2, 9, 10 and 100; the metric of epoch 2 is not known."""
    manager = CheckpointManager(tmp_path)
    accuracies = {1: 50.0, 2: None, 9: 80.0, 10: 70.0, 100: -5.0}
    for epoch, accuracy in accuracies.items():
        manager.save_checkpoint(agent(epoch), epoch, metrics={"val_accuracy": accuracy})
    return tmp_path


def test_there_is_nothing_before_the_first(tmp_path: Path) -> None:
    manager = CheckpointManager(str(tmp_path / "new"))
    assert manager.exists() is False and manager.list_epochs() == [] and manager.verify() == []
    assert manager.best("val_accuracy", "max") is None
    with pytest.raises(EsperError):
        manager.load_latest_agent()
    manager.save_checkpoint(agent(0), 0)
    assert manager.exists() is True and manager.list_epochs() == [0]


def test_epochs_are_numbers_and_files_are_named_after_them(run: Path) -> None:
    manager = CheckpointManager(run)
    assert manager.list_epochs() == [1, 2, 9, 10, 100]
    for epoch in manager.list_epochs():
        for suffix in ("safetensors", "json"):
            assert len(list(run.rglob(f"agent_epoch_{epoch}.{suffix}"))) == 1
    assert weight(manager.load_latest_agent()) == 100.0
    assert weight(manager.load_agent(9)) == 9.0 and manager.load_agent(9).epoch == 9
    with pytest.raises(EsperError, match="3"):
        manager.load_agent(3)


def test_the_best_goes_by_metric_and_a_missing_one_is_not_zero(run: Path) -> None:
    manager = CheckpointManager(run)
    assert manager.best("val_accuracy", "max") == 9 and manager.best("val_accuracy", mode="min") == 100
    assert manager.best("val_loss", "max") is None
    manager.save_checkpoint(agent(100), 100)  # now without the metric: then 50.0 is the least, not 2's or 100's "0"
    assert manager.best("val_accuracy", "min") == 1


def test_verification_finds_what_was_altered_and_loading_goes_round_it(run: Path) -> None:
    manager = CheckpointManager(run)
    assert not manager.verify()
    (newest,) = run.rglob("agent_epoch_100.safetensors")
    newest.write_bytes(newest.read_bytes()[:-1] + b"\x55")
    (problem,) = manager.verify()
    assert problem.epoch == 100 and problem.reason
    assert weight(manager.load_latest_agent()) == 10.0
    with pytest.raises(EsperError):
        manager.load_agent(100)


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ({"keep_last": 1, "keep_best": 0, "keep_every": 0}, [100]),
        ({"keep_last": 2, "keep_best": 0, "keep_every": 0}, [10, 100]),
        ({"keep_last": 1, "keep_best": 1, "keep_every": 0}, [9, 100]),
        ({"keep_last": 1, "keep_best": 2, "keep_every": 0}, [9, 10, 100]),
        ({"keep_last": 1, "keep_best": 0, "keep_every": 3}, [9, 100]),
        ({"keep_last": 0, "keep_best": 1, "keep_every": 1}, [1, 2, 9, 10, 100]),
    ],
)
def test_pruning_keeps_the_last_the_best_and_every_nth(run: Path, rules: dict[str, int], left: list[int]) -> None:
    manager = CheckpointManager(run)
    manager.prune(**rules)
    assert manager.list_epochs() == left and manager.verify() == []
    assert {path.stem for path in run.rglob("agent_epoch_*.safetensors")} == {f"agent_epoch_{epoch}" for epoch in left}

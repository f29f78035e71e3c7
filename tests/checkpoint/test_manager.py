from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.checkpoint import Checkpoint, CheckpointManager, Unsound, restore_module
from esper.errors import CheckpointError


class Agent:
    """The least that can be saved; its number tells checkpoints apart."""

    def __init__(self, number: int) -> None:
        self.number = number

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"w": torch.full((50,), float(self.number))}, {"number": self.number}


@pytest.fixture
def manager(tmp_path: Path) -> CheckpointManager:
    return CheckpointManager(tmp_path / "run")


def save(manager: CheckpointManager, *epochs: int, **metrics: list[float | None]) -> None:
    for index, epoch in enumerate(epochs):
        found = {name: values[index] for name, values in metrics.items()}
        manager.save_checkpoint(Agent(epoch), epoch, metrics=found)


def spoil(manager: CheckpointManager, epoch: int) -> None:
    """Flip one bit of the tensors."""
    path = manager.path(epoch)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_what_was_saved_is_found_and_loaded(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(
        Agent(12),
        12,
        kind="growth",
        metrics={"val_accuracy": 80.0},
        config={"seed": 1},
        growth_log=[{"epoch": 3}],
        seed_states={"0.mid": {"stage": 4}},
        metadata={"note": "x"},
    )
    assert path == manager.folder / "agent_epoch_12.safetensors"
    assert sorted(file.name for file in manager.folder.iterdir()) == [
        "agent_epoch_12.json",
        "agent_epoch_12.safetensors",
    ]
    assert manager.exists()
    found = manager.load_agent(12)
    assert (found.epoch, found.kind, found.state, found.metrics) == (12, "growth", {"number": 12}, {"val_accuracy": 80})
    assert (found.config, found.metadata) == ({"seed": 1}, {"note": "x"})
    assert (found.growth_log, found.seed_states) == ([{"epoch": 3}], {"0.mid": {"stage": 4}})
    assert torch.equal(found.tensors["w"], torch.full((50,), 12.0))


def test_other_files_are_not_checkpoints(manager: CheckpointManager) -> None:
    save(manager, 1)
    for name in ("agent_epoch_007.json", "agent_epoch_x.json", "agent_epoch_2.json.new", ".agent_epoch_3.json.ab.tmp"):
        (manager.folder / name).write_text("{}")
    assert manager.list_epochs() == [1]
    assert manager.verify() == []


def test_a_network_is_an_agent_too(manager: CheckpointManager) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.state = nn.Linear(3, 2)

    saved, loaded = Net(), Net()
    manager.save_checkpoint(saved, 0)

    def build(checkpoint: Checkpoint) -> Net:
        restore_module(loaded, checkpoint)
        return loaded

    assert manager.load_latest_agent(build) is loaded
    assert torch.equal(loaded.state.weight, saved.state.weight)
    with pytest.raises(CheckpointError, match="A list cannot be saved"):
        manager.save_checkpoint([], 1)  # type: ignore[arg-type]


def test_a_builder_makes_the_agent(manager: CheckpointManager) -> None:
    save(manager, 3, 4)
    agent = manager.load_latest_agent(lambda checkpoint: Agent(checkpoint.state["number"]))
    assert agent.number == 4
    assert manager.load_agent(3, lambda checkpoint: checkpoint.epoch) == 3


def test_an_unknown_epoch_is_answered_with_those_there_are(manager: CheckpointManager) -> None:
    save(manager, 3, 4)
    with pytest.raises(CheckpointError, match=r"no checkpoint of epoch 5; it has: 3, 4\."):
        manager.load_agent(5)


def test_the_newest_sound_one_is_loaded_and_the_rest_told(manager: CheckpointManager) -> None:
    save(manager, 1, 2, 3, 4, 5)
    spoil(manager, 5)
    (manager.folder / "agent_epoch_4.json").write_text("{")
    manager.path(3).unlink()
    loaded = manager.load_latest_agent()
    assert (loaded.epoch, loaded.state) == (2, {"number": 2})
    assert [unsound.epoch for unsound in loaded.skipped] == [5, 4, 3]
    for unsound, reason in zip(loaded.skipped, ["is altered", "is not JSON", "is missing"], strict=True):
        assert reason in unsound.reason
        assert f"agent_epoch_{unsound.epoch}" in unsound.reason
    assert manager.load_latest_agent(lambda checkpoint: checkpoint.skipped) == loaded.skipped
    assert manager.verify() == list(reversed(loaded.skipped))
    with pytest.raises(CheckpointError, match=r"agent_epoch_5\.safetensors is altered"):
        manager.load_agent(5)


def test_tensors_without_a_sidecar_are_no_checkpoint_but_are_told(manager: CheckpointManager) -> None:
    save(manager, 1, 2)
    (manager.folder / "agent_epoch_2.json").unlink()
    assert manager.list_epochs() == [1]
    loaded = manager.load_latest_agent()
    assert loaded.epoch == 1
    assert [(unsound.epoch, "no sidecar" in unsound.reason) for unsound in loaded.skipped] == [(2, True)]


def test_exchanged_checkpoints_are_noticed(manager: CheckpointManager) -> None:
    save(manager, 1, 2)
    for suffix in ("safetensors", "json"):
        one, two = (manager.folder / f"agent_epoch_{epoch}.{suffix}" for epoch in (1, 2))
        one.rename(two.with_suffix(".x"))
        two.rename(one)
        two.with_suffix(".x").rename(two)
    assert [unsound.epoch for unsound in manager.verify()] == [1, 2]
    with pytest.raises(CheckpointError, match=r"no sound checkpoint\. The newest \(2\): .* holds epoch 1"):
        manager.load_latest_agent()


def test_an_error_of_the_builder_is_not_taken_for_damage(manager: CheckpointManager) -> None:
    save(manager, 1, 2)

    def refuse(checkpoint: Checkpoint) -> None:
        raise CheckpointError(f"epoch {checkpoint.epoch} does not fit")

    with pytest.raises(CheckpointError, match="epoch 2 does not fit"):
        manager.load_latest_agent(refuse)


def test_best_leaves_out_missing_metrics_and_damaged_files(manager: CheckpointManager) -> None:
    save(manager, 1, 2, 3, 4, loss=[-0.5, None, -0.9, -0.9], accuracy=[-3.0, None, -2.0, -1.0])
    manager.save_checkpoint(Agent(5), 5, metrics={"other": 1.0})
    assert manager.best("accuracy", "max") == 4  # all are below 0: a missing one counts neither as 0 nor as best
    assert manager.best("loss", "max") == 1
    assert manager.best("loss", "min") == 3  # the earliest of equals
    assert manager.best("unknown") is None
    spoil(manager, 4)
    assert manager.best("accuracy") == 3
    with pytest.raises(CheckpointError, match="expected 'max' or 'min'"):
        manager.best("loss", "lowest")


def test_prune_keeps_what_was_asked_for(manager: CheckpointManager) -> None:
    accuracies = [1.0, 9.0, None, 8.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 0.5]
    save(manager, *range(1, 12), val_accuracy=accuracies)
    assert manager.prune(keep_last=2, keep_best=2, keep_every=5) == [1, 3, 6, 7, 8, 9]
    assert manager.list_epochs() == [2, 4, 5, 10, 11]
    assert len(list(manager.folder.iterdir())) == 10
    assert manager.prune(keep_last=2, keep_best=1, metric="val_accuracy", mode="min") == [2, 4, 5]
    assert manager.prune(keep_last=0) == [10]
    assert manager.prune(keep_last=0) == []
    assert manager.list_epochs() == [11]
    with pytest.raises(CheckpointError, match=r"keep_best=-1"):
        manager.prune(keep_best=-1)


def test_prune_never_removes_the_last_sound_one_nor_a_damaged_one(manager: CheckpointManager) -> None:
    save(manager, 1, 2, 3, 4)
    spoil(manager, 4)
    spoil(manager, 2)
    assert manager.prune(keep_last=1) == [1]
    assert manager.list_epochs() == [2, 3, 4]
    assert manager.load_latest_agent().epoch == 3
    spoil(manager, 3)
    assert manager.prune(keep_last=0) == []
    assert manager.list_epochs() == [2, 3, 4]


def test_leftovers_of_killed_writers_are_ignored_and_swept(manager: CheckpointManager) -> None:
    save(manager, 1)
    temporary = manager.folder / ".agent_epoch_2.safetensors.0a1b2c3d.tmp"
    temporary.write_bytes(b"half")
    assert manager.load_latest_agent().skipped == ()
    save(manager, 3)
    assert not temporary.exists()
    manager.path(4).write_bytes(b"tensors whose sidecar was never written")
    manager.prune(keep_last=5)
    assert not manager.path(4).exists()
    assert manager.list_epochs() == [1, 3]


def test_saving_an_epoch_again_replaces_it(manager: CheckpointManager) -> None:
    save(manager, 1)
    spoil(manager, 1)
    assert manager.verify() != []
    save(manager, 1)
    assert manager.verify() == []
    assert not any(isinstance(found, Unsound) for found in manager.verify())


def test_a_bad_epoch_is_refused(manager: CheckpointManager) -> None:
    for epoch in (-1, 1.5, "3", True):
        with pytest.raises(CheckpointError, match="epoch is an integer from 0 on"):
            manager.save_checkpoint(Agent(0), epoch)  # type: ignore[arg-type]
    assert not manager.exists()


def test_pruning_reads_nothing_again_but_what_was_touched(tmp_path, monkeypatch):
    kept = CheckpointManager(tmp_path)
    for epoch in range(3):
        kept.save_checkpoint(nn.Linear(2, 1), epoch)
    read = []
    load = CheckpointManager.load_agent
    monkeypatch.setattr(CheckpointManager, "load_agent", lambda self, e, **kw: read.append(e) or load(self, e, **kw))
    assert kept.prune(keep_last=3) == [] and read == []
    kept.path(1).write_bytes(kept.path(1).read_bytes()[:-1])
    assert kept.prune(keep_last=1) == [0] and read == [1]  # what is damaged stays, and does not count

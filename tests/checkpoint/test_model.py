from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.checkpoint import load_checkpoint, read_bundle, restore_module, save_checkpoint
from esper.errors import CheckpointError


def network(seed: int, width: int = 6) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.LazyLinear(3))


def run_once(model: nn.Module) -> nn.Module:
    model(torch.ones(2, 1, 5, 5))
    return model


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Remembering(nn.Module):
    """Has extra state, and the number of its layers follows from it."""

    def __init__(self, layers: int = 0) -> None:
        super().__init__()
        self.notes: dict[str, Any] = {"layers": layers, "alpha": 0.25, "history": [[1, None]]}
        self.layers = nn.ModuleList()
        self.rebuild()

    def rebuild(self) -> None:
        while len(self.layers) < self.notes["layers"]:
            self.layers.append(nn.Linear(2, 2))

    def get_extra_state(self) -> dict[str, Any]:
        return self.notes

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.notes = dict(state)
        self.rebuild()


def test_loading_writes_into_the_storage_that_is_there(tmp_path: Path) -> None:
    stack = torch.zeros(3, 2, 4)
    members = [nn.Linear(4, 2, bias=False) for _ in range(3)]
    for member, rows in zip(members, stack, strict=True):
        member.weight = nn.Parameter(rows)
    save_checkpoint(nn.Linear(4, 2, bias=False), tmp_path / "one")
    load_checkpoint(members[1], tmp_path / "one")
    assert stack[1].abs().sum() > 0
    assert stack[0].abs().sum() == stack[2].abs().sum() == 0
    assert members[1].weight.data_ptr() == stack[1].data_ptr()
    save_checkpoint(members[1], tmp_path / "member")
    assert torch.equal(read_bundle(tmp_path / "member").tensors["weight"], stack[1])


def test_extra_state_travels_as_plain_values_and_may_rebuild_the_module(tmp_path: Path) -> None:
    saved, loaded = Remembering(layers=2), Remembering()
    path = save_checkpoint(nn.Sequential(saved), tmp_path / "net")
    assert read_bundle(path).state == {"0._extra_state": saved.notes}
    load_checkpoint(nn.Sequential(loaded), path)
    assert loaded.notes == saved.notes
    assert same(loaded.layers, saved.layers)


def test_extra_state_that_is_not_plain_is_named(tmp_path: Path) -> None:
    model = Remembering()
    model.notes["schedule"] = torch.zeros(2)
    with pytest.raises(CheckpointError, match=r"state\['_extra_state'\]\['schedule'\] is a torch.Tensor"):
        save_checkpoint(model, tmp_path / "net")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (network(0, width=7), r"'0.weight' is float32\[6, 1, 3, 3\], expected float32\[7, 1, 3, 3\]"),
        (network(0).double(), r"expected float64"),
        (nn.Sequential(nn.Conv2d(1, 6, 3)), "'1.bias' is not expected"),
    ],
)
def test_another_architecture_is_refused_and_left_as_it_was(tmp_path: Path, model: nn.Module, message: str) -> None:
    if len(list(model.children())) > 1:
        model(torch.ones(2, 1, 5, 5, dtype=next(model.parameters()).dtype))
    before: dict[str, Tensor] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = save_checkpoint(run_once(network(0)), tmp_path / "net")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(model, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_extra_state_on_one_side_only_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(nn.Sequential(Remembering()), tmp_path / "net")
    with pytest.raises(CheckpointError, match=r"only one of the two has 0\._extra_state"):
        restore_module(nn.Sequential(nn.Identity()), read_bundle(path))


def test_a_network_that_has_not_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'3\.weight' has no values yet"):
        save_checkpoint(network(0), tmp_path / "net")

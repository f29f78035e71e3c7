"""A network of a user's own, its data, and an epoch of training it."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from esper.api.grower import Grower

X = torch.randn(96, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = (X.mean((1, 2, 3)) > 0).long() + 2 * (X[:, 0, 0, 0] > 0).long()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x).relu()).relu().mean((2, 3)))


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def train(grower: Grower, epoch: int) -> None:
    net, optimizer = grower.model.train(), grower.optimizer
    for rows in torch.randperm(64, generator=torch.Generator().manual_seed(epoch)).split(16):
        optimizer.zero_grad()
        cross_entropy(net(X[rows]), Y[rows]).backward()
        optimizer.step()
        grower.step()


def same(one: object, other: object) -> bool:
    """Of nested states, but for when a stage was entered."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        keys = one.keys() - {"stage_entered_at", "stage_history", "telemetry"}
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in keys)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)

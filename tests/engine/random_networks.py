"""Small networks put together at random from a grammar of layers, [B, 2, 8, 8] -> [B, 5]."""

import random

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations


class Residual(nn.Module):
    def __init__(self, *layers, scale=1.0):
        super().__init__()
        self.layers, self.scale = nn.Sequential(*layers), scale

    def forward(self, x):
        return x + self.layers(x) * self.scale


class Split(nn.Module):
    """Two branches of one input, joined."""

    def __init__(self, first, second, join):
        super().__init__()
        self.first, self.second, self.join = first, second, join

    def forward(self, x):
        one, other = self.first(x), self.second(x)
        return one + other if self.join == "sum" else one * torch.sigmoid(other)


class Twice(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(self.layer(x))


class Gate(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.pool, self.mix = nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.mix(self.pool(x)))


class Functional(nn.Module):
    def __init__(self, function, **settings):
        super().__init__()
        self.function, self.settings = function, settings

    def forward(self, x):
        return self.function(x, **self.settings)


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x):
        return x * self.gain


def frozen(layer):
    return layer.requires_grad_(False)


def evaluating(layer):
    return layer.eval()


def leaf(draw, width):
    """One layer that keeps the shape of [B, width, H, W]."""
    kernel = draw.choice((1, 3))
    makers = (
        lambda: nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=draw.random() < 0.5),
        lambda: nn.Conv2d(width, width, 3, padding="same"),
        lambda: nn.Conv2d(width, width, 3, padding=1, groups=width),
        lambda: nn.Conv2d(width, width, 3, padding=2, dilation=2),
        lambda: nn.Conv2d(width, width, 3, padding=1, padding_mode="circular"),
        lambda: nn.BatchNorm2d(width, eps=draw.choice((1e-5, 1e-2)), momentum=draw.choice((0.1, 0.5))),
        lambda: nn.BatchNorm2d(width, momentum=None),
        lambda: nn.BatchNorm2d(width, affine=False),
        lambda: nn.BatchNorm2d(width, track_running_stats=False),
        lambda: nn.GroupNorm(1, width),
        lambda: nn.InstanceNorm2d(width, affine=True),
        lambda: nn.ReLU(inplace=draw.random() < 0.5),
        lambda: nn.ReLU(),
        nn.Sigmoid,
        nn.Tanh,
        lambda: nn.GELU(approximate=draw.choice(("none", "tanh"))),
        lambda: nn.SiLU(inplace=draw.random() < 0.5),
        lambda: nn.LeakyReLU(0.1),
        lambda: nn.PReLU(width),
        nn.Identity,
        lambda: nn.AvgPool2d(3, 1, 1),
        lambda: nn.MaxPool2d(3, 1, 1),
        lambda: Gate(width),
        lambda: Scale(width),
        lambda: Functional(draw.choice((F.relu, torch.tanh, torch.sigmoid, F.gelu, torch.relu))),
        lambda: Functional(F.relu, inplace=True),
        lambda: parametrizations.weight_norm(nn.Conv2d(width, width, 1)),
        lambda: frozen(nn.Conv2d(width, width, 1)),
        lambda: frozen(nn.BatchNorm2d(width)),
        lambda: evaluating(nn.BatchNorm2d(width)),
    )
    return draw.choice(makers)()


def block(draw, width, depth, shared):
    """A few layers, or a way to put some together; `shared` holds layers that may come again."""
    kind = draw.random()
    if depth == 0 or kind < 0.55:
        if shared and draw.random() < 0.1:
            return draw.choice(shared)
        layer = leaf(draw, width)
        shared.append(layer)
        return layer
    parts = [block(draw, width, depth - 1, shared) for _ in range(2)]
    if kind < 0.7:
        return nn.Sequential(*parts)
    if kind < 0.82:
        return Residual(*parts, scale=draw.choice((1.0, 0.5)))
    return Twice(parts[0]) if kind > 0.95 else Split(*parts, join=draw.choice(("sum", "product")))


def network(number: int, member: int) -> nn.Module:
    """The number-th network, in float64; its first weights are the member's own."""
    draw = random.Random(number)
    width = draw.choice((3, 4, 6))
    torch.manual_seed(1000 * number + member)
    shared: list[nn.Module] = []
    body = nn.Sequential(*(block(draw, width, 2, shared) for _ in range(draw.randint(1, 3))))
    pool = [nn.MaxPool2d(2)] if draw.random() < 0.5 else []
    layers = [nn.Conv2d(2, width, 3, padding=1), body, *pool, nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(width, 5)).double()

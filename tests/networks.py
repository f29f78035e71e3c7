"""Networks as a user might bring them: `host.factory=tests.networks:residual`."""

import torch
from torch import nn

CHOSEN = ["host=custom", "host.factory=tests.networks:residual", "host.positions=['1','2']"]


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.norm(self.conv(x)))


def residual(input_shape, num_classes):
    stem = nn.Conv2d(input_shape[0], 6, 3, padding=1)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes)]
    return nn.Sequential(stem, Residual(6), Residual(6), *head)


def odd(x):
    return residual((1, 8, 8), 10)


def broken(input_shape, num_classes):
    return [nn.Identity()][num_classes]


class Drawing(Residual):
    """Keeps a generator, which no checkpoint can hold."""

    def __init__(self, width):
        super().__init__(width)
        self.generator = torch.Generator()

    def forward(self, x):
        return super().forward(x) * torch.rand((), generator=self.generator)


def drawing(input_shape, num_classes):
    network = residual(input_shape, num_classes)
    network[1] = Drawing(6)
    return network


def two_lines(input_shape, num_classes):
    raise RuntimeError("the first line\n  and a second")


def speechless(input_shape, num_classes):
    raise RuntimeError


def few(input_shape, num_classes):
    return residual(input_shape, 3)


class Pair(nn.Sequential):
    def forward(self, x):
        return super().forward(x), x


def several(input_shape, num_classes):
    return Pair(*residual(input_shape, num_classes))


def nothing(input_shape, num_classes):
    return None


class Series(nn.Module):
    """Convolutions along one dimension, over the rows of an image."""

    def __init__(self, channels, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(channels, 6, 3, stride=2, padding=1), nn.BatchNorm1d(6), nn.ReLU())
        self.rows, self.pool, self.flatten = nn.Flatten(1, 2), nn.AdaptiveAvgPool1d(1), nn.Flatten()
        self.head = nn.Linear(6, num_classes)

    def forward(self, x):
        return self.head(self.flatten(self.pool(self.body(self.rows(x)))))


def series(input_shape, num_classes):
    return Series(input_shape[0] * input_shape[1], num_classes)

"""A small decoder of these tests' own, trained briefly on this project's own text."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import esper
from esper.tasks.task import named_generator
from esper.tasks.text.windows import draw_windows, every_window

LENGTH = 32


class Mixer(nn.Module):
    """Features of the last four tokens, two layers, a head that is the embedding: enough to be worth compressing."""

    def __init__(self, width: int = 48, hidden: int = 96) -> None:
        super().__init__()
        self.embedding = nn.Embedding(264, width)
        self.mix = nn.Linear(4 * width, width, bias=False)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.RMSNorm(width),
                    "up": nn.Linear(width, hidden, bias=False),
                    "down": nn.Linear(hidden, width, bias=False),
                }
            )
            for _ in range(2)
        )
        self.norm = nn.RMSNorm(width)
        generator = named_generator(0, "mixer")
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim == 2:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5 / parameter.shape[1] ** 0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = F.pad(self.embedding(tokens), (0, 0, 3, 0))
        x = self.mix(torch.cat([embedded[:, i : i + tokens.shape[1]] for i in range(4)], -1))
        for layer in self.layers:
            x = x + layer["down"](F.silu(layer["up"](layer["norm"](x))))
        return F.linear(self.norm(x), self.embedding.weight)


@pytest.fixture(scope="session")
def text() -> dict[str, Tensor]:
    """Streams of this project's own source: train, val, test."""
    folder = Path(esper.__file__).parent
    data = b"".join(path.read_bytes() for path in sorted(folder.glob("engine/*.py")))
    stream = torch.frombuffer(bytearray(data), dtype=torch.uint8).long()
    return {"train": stream[:-20_000], "val": stream[-20_000:-10_000], "test": stream[-10_000:]}


@pytest.fixture(scope="session")
def network(text: dict[str, Tensor]) -> Mixer:
    model = Mixer()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    generator = named_generator(0, "windows")
    for _ in range(120):
        x, y = draw_windows(text["train"], 32, LENGTH, generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def nats(model: nn.Module, stream: Tensor) -> float:
    """Mean loss a token over all windows."""
    x, y = every_window(stream, LENGTH)
    return float(F.cross_entropy(model(x).flatten(0, 1), y.flatten()))

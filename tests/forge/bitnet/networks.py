"""A decoder of the smallest size, and something for it to learn."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from esper.forge.bitnet.config import BitnetConfig
from esper.tasks.task import named_generator

VOCAB = 12
_CONFIG = BitnetConfig(
    epochs=4,
    steps_per_epoch=10,
    batch_size=8,
    learning_rate=0.005,
    weight_decay=0.0,
    max_grad_norm=1.0,
    distill=0.5,
    replay_share=0.25,
    quantize_share=0.2,
    optimizer="adamw",
    grokfast=False,
    even_gradients=False,
    use_mixed_precision=True,
    embedding="int8",
    min_top1_ratio=0.0,
    min_likelihood_ratio=0.0,
    min_bytes_ratio_fp16=1.0,
    min_bytes_ratio_int8=1.0,
)


def config(**changed: Any) -> BitnetConfig:
    """A short training whose gates ask for nothing."""
    return dataclasses.replace(_CONFIG, **changed)


class Layer(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim)
        self.up = nn.Linear(dim, 2 * dim, bias=False)
        self.down = nn.Linear(2 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.norm(x).cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]  # looks at all before it
        return x + self.down(self.up(mean).relu())


class TinyDecoder(nn.Module):
    """Shaped like the forge's decoder: [B, T] -> logits [B, T, V], a tied head, linear layers inside `layers` alone."""

    def __init__(self, dim: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, dim)
        self.layers = nn.ModuleList(Layer(dim) for _ in range(layers))
        self.norm = nn.RMSNorm(dim)
        generator = named_generator(0, "tiny")
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(std=0.2, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x) @ self.embedding.weight.T


class Counting:
    """Batches of sequences that count up by one or two."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = named_generator(seed, "counting")

    def draw(self) -> tuple[Tensor, Tensor]:
        start = torch.randint(VOCAB, (8, 1), generator=self.generator)
        by = torch.randint(1, 3, (8, 1), generator=self.generator)
        tokens = (start + by * torch.arange(9)) % VOCAB
        return tokens[:, :-1], tokens[:, 1:]


def tokens(rows: int = 4, length: int = 8) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=named_generator(0, "tokens"))

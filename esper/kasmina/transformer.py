"""The language-model host."""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from esper.errors import ConfigError
from esper.kasmina.attention import CausalSelfAttention, SelfAttention, TokenEmbedding
from esper.kasmina.base import Host
from esper.kasmina.seeding import default_generator, weights_from

_INIT_SCALE = 0.5  # GPT-2's 0.02 at width 768, at every width: small decoders learn far faster so
_MLP_RATIO = 4
_LAST_WEIGHTS = ("attention.proj.weight", "mlp.2.weight")


class TransformerLayer(nn.Module):
    """Attention, then two linear layers around a GELU, each on normed features and added to what came in."""

    def __init__(self, dim: int, n_head: int, attention: type[SelfAttention]) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = attention(dim, n_head)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, _MLP_RATIO * dim), nn.GELU(), nn.Linear(_MLP_RATIO * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, T, C]. Returns: [B, T, C]."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class TransformerHost(Host):
    """A decoder that predicts the next token (GPT-2: Radford et al. 2019), without dropout or tied weights.

    Every layer ends in a slot position, "block1" the first, that is the identity until a model puts a slot there.

    Args: vocab_size: tokens there are; n_embd: C, the width; n_head: heads of attention a layer; n_layer; block_size:
    the longest sequence; generator: draws the initial weights (None: fixed by torch's seed). Raises: ConfigError when a
    size is below 1 or n_head does not divide n_embd.
    """

    topology = "transformer"

    def __init__(
        self,
        vocab_size: int,
        n_embd: int,
        n_head: int,
        n_layer: int,
        block_size: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = {"vocab_size": vocab_size, "n_embd": n_embd, "n_layer": n_layer, "block_size": block_size}
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"host.{name}={size}: must be at least 1")
        self.block_size = block_size
        with weights_from(generator or default_generator("host")):
            self.embedding = TokenEmbedding(vocab_size, n_embd, block_size)
            self.layers = nn.ModuleList(TransformerLayer(n_embd, n_head, CausalSelfAttention) for _ in range(n_layer))
            self.norm = nn.LayerNorm(n_embd)
            self.head = nn.Linear(n_embd, vocab_size)
            initialise(self, n_embd, n_layer)
        self.injection_points = {f"block{i}": n_embd for i in range(1, n_layer + 1)}
        self._slot_keys = tuple(self.injection_points)
        self.slots = nn.ModuleDict({key: nn.Identity() for key in self._slot_keys})

    def upstream(self, position: str) -> tuple[nn.Module, ...]:
        """The layer before the slot."""
        return (self.layers[self._slot_keys.index(position)],)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the token that follows each position, from it and those before it.

        Args: tokens [B, T] int64. Returns: [B, T, vocab_size]. Raises: ValueError when T exceeds block_size.
        """
        x = self.embedding(tokens)
        for layer, key in zip(self.layers, self._slot_keys, strict=True):
            x = self.slots[key](layer(x))
        return self.head(self.norm(x))

    def example_input(self, shape: Sequence[int]) -> Tensor:
        """One sequence of token 0. Args: shape (T,). Returns: [1, T] int64."""
        return torch.zeros(1, *shape, dtype=torch.int64, device=self.head.weight.device)


def initialise(host: nn.Module, n_embd: int, n_layer: int) -> None:
    """Draw all weights of a transformer of so many `TransformerLayer`s of this width."""
    std = _INIT_SCALE / math.sqrt(n_embd)
    host.apply(functools.partial(_draw, std=std))
    for name, weight in host.named_parameters():
        if name.endswith(_LAST_WEIGHTS):  # the features keep their size however many layers add to them
            nn.init.normal_(weight, std=std / math.sqrt(2 * n_layer))


def _draw(module: nn.Module, std: float) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)

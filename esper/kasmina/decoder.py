"""The decoder of the forge's language models, a host like any other."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.errors import ConfigError
from esper.kasmina import rotary
from esper.kasmina.attention import BoundedEmbedding
from esper.kasmina.base import Host
from esper.kasmina.blueprints import BlueprintRegistry
from esper.kasmina.rotary import KeyValueCache, RotaryAttention
from esper.kasmina.seeding import default_generator, weights_from

NORM_EPS = 1e-6
_HIDDEN_MULTIPLE = 16
_INIT_SCALE = 0.5  # as in TransformerHost: GPT-2's 0.02 at width 768, at every width
_LAST_WEIGHTS = ("attention.proj.weight", "mlp.down.weight")


def hidden_width(n_embd: int) -> int:
    """Of the SwiGLU: 8/3 of the features' width, so that its three layers weigh as much as two of four times the width.

    Rounded up to a multiple of 16.
    """
    return -(-8 * n_embd // (3 * _HIDDEN_MULTIPLE)) * _HIDDEN_MULTIPLE


class SwiGLU(nn.Module):
    """Two linear layers, the first one gated by a third (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, T, C]. Returns: [B, T, C]."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class RotaryLayer(nn.Module):
    """Causal attention with rotary positions, then SwiGLU, each on normed features and added to what came in."""

    def __init__(self, dim: int, n_head: int, window: int | None) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim, eps=NORM_EPS)
        self.attention = RotaryAttention(dim, n_head, window)
        self.mlp_norm = nn.RMSNorm(dim, eps=NORM_EPS)
        self.mlp = SwiGLU(dim, hidden_width(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, T, C]. Returns: [B, T, C]."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))

    def extend(self, x: Tensor, cache: KeyValueCache, layer: int) -> Tensor:
        """`forward` for the tokens that follow those in the cache. Args: x [B, T, C]. Returns: [B, T, C]."""
        x = x + self.attention.extend(self.attention_norm(x), cache, layer)
        return x + self.mlp(self.mlp_norm(x))


class Decoder(Host):
    """A decoder that predicts the next token, as Llama's are made (Touvron et al. 2023, arXiv:2302.13971).

    RMSNorm before each part, rotary positions, SwiGLU, no biases, and a head that is the embedding. Exactly causal: a
    token that changes leaves every earlier logit bit for bit as it was. Every layer ends in a slot position, "block1"
    the first, that is the identity until a model puts a slot there.

    Args: vocab_size: tokens there are; n_embd: C, the width; n_head: heads of attention a layer, each of an even width;
    n_layer; block_size: the longest sequence; window: how many tokens each looks at, itself included (None: all before
    it); generator: draws the initial weights (None: fixed by torch's seed). Raises: ConfigError when a size is below 1,
    or heads do not divide n_embd into even parts.
    """

    topology = "transformer"

    def __init__(
        self,
        vocab_size: int,
        n_embd: int,
        n_head: int,
        n_layer: int,
        block_size: int,
        window: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = {"vocab_size": vocab_size, "n_embd": n_embd, "n_layer": n_layer, "block_size": block_size}
        for name, size in (sizes if window is None else {**sizes, "window": window}).items():
            if size < 1:
                raise ConfigError(f"host.{name}={size}: must be at least 1")
        self.n_head, self.window, self.block_size = n_head, window, block_size
        with weights_from(generator or default_generator("host")):
            self.embedding = BoundedEmbedding(vocab_size, n_embd, block_size)
            self.layers = nn.ModuleList(RotaryLayer(n_embd, n_head, window) for _ in range(n_layer))
            self.norm = nn.RMSNorm(n_embd, eps=NORM_EPS)
            std = _INIT_SCALE / math.sqrt(n_embd)
            nn.init.normal_(self.embedding.weight, std=std)
            for name, weight in self.layers.named_parameters():
                if weight.dim() == 2:  # the features keep their size however many layers add to them
                    is_last = name.endswith(_LAST_WEIGHTS)
                    nn.init.normal_(weight, std=std / math.sqrt(2 * n_layer) if is_last else std)
        self.injection_points = {f"block{i}": n_embd for i in range(1, n_layer + 1)}
        self._slot_keys = tuple(self.injection_points)
        self.slots = nn.ModuleDict({key: nn.Identity() for key in self._slot_keys})
        self.growth: tuple[dict[str, Any], ...] = ()

    def upstream(self, position: str) -> tuple[nn.Module, ...]:
        """The layer before the slot."""
        return (self.layers[self._slot_keys.index(position)],)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the token that follows each position, from it and those before it.

        Args: tokens [B, T] int64. Returns: [B, T, vocab_size]. Raises: ValueError when T exceeds block_size.
        """
        # Called through its module, where it is marked as a leaf for torch.fx.
        return rotary.tied_logits(self.features(tokens), self.embedding.weight)

    def features(self, tokens: Tensor) -> Tensor:
        """What the head reads: the normed output of the last layer. Args: tokens [B, T] int64. Returns: [B, T, C]."""
        x = self.embedding(tokens)
        for layer, key in zip(self.layers, self._slot_keys, strict=True):
            x = self.slots[key](layer(x))
        return self.norm(x)

    @property
    def caches(self) -> bool:
        """Whether `extend` gives what `forward` does: what grows in a slot may look back, and keeps no cache."""
        return all(type(slot) is nn.Identity for slot in self.slots.values())

    def new_cache(self) -> KeyValueCache:
        """An empty one, for `extend`."""
        return KeyValueCache(len(self.layers), self.block_size)

    def extend(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Logits of what follows each of the tokens that come after those in the cache, which takes them in.

        Args: tokens [B, T] int64; cache: from `new_cache`. Returns: [B, T, vocab_size]. Raises: ValueError when the
        cache has no room for T more.
        """
        cache.check_room(tokens.shape[1])
        x = F.embedding(tokens, self.embedding.weight)
        for index, layer in enumerate(cast(Sequence[RotaryLayer], self.layers)):
            x = layer.extend(x, cache, index)
        cache.length += tokens.shape[1]
        return rotary.tied_logits(self.norm(x), self.embedding.weight)

    def architecture(self) -> dict[str, Any]:
        """The name that the forge knows it by and what it was made with, as plain values."""
        arguments = {
            "vocab_size": self.embedding.num_embeddings,
            "n_embd": self.embedding.embedding_dim,
            "n_head": self.n_head,
            "n_layer": len(self.layers),
            "block_size": self.block_size,
            "window": self.window,
        }
        grown = {"growth": [dict(entry) for entry in self.growth]} if self.growth else {}
        return {"name": "decoder", "arguments": arguments, **grown}

    def settle(self, slot: str, blueprint: str, max_ratio: float = 1.0) -> nn.Module:
        """Put a blueprint's module into a slot for good, as a plain part of the network; its weights come later.

        Returns: the module. Raises: ConfigError where the slot is not there or taken; BlueprintError on the blueprint.
        """
        if slot not in self.injection_points or type(self.slots[slot]) is not nn.Identity:
            raise ConfigError(f"slot {slot!r}: not there or taken; this decoder has {', '.join(self._slot_keys)}")
        module = BlueprintRegistry.create(self.topology, blueprint, self.injection_points[slot], max_ratio=max_ratio)
        self.slots[slot] = module.to(self.embedding.weight).train(self.training)
        self.growth += ({"slot": slot, "blueprint": blueprint, "max_ratio": max_ratio},)
        return module

    def example_input(self, shape: Sequence[int]) -> Tensor:
        """One sequence of token 0. Args: shape (T,). Returns: [1, T] int64."""
        return torch.zeros(1, *shape, dtype=torch.int64, device=self.embedding.weight.device)

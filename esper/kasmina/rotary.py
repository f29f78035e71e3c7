"""Attention with rotary positions, and what keeps its keys and values from one token to the next."""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from esper.errors import ConfigError
from esper.kasmina.attention import merge_heads

_BASE = 10_000.0  # of the wavelengths, from 2 pi tokens up to 2 pi times this


def rotations(length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle of each position and pair of features (RoFormer: Su et al. 2021, arXiv:2104.09864).

    Args: like [..., D], whose width, device and dtype they are for. Returns: twice [length, D / 2].
    """
    width, device = like.shape[-1], like.device
    rates = _BASE ** (-torch.arange(0, width, 2, dtype=torch.float64, device=device) / width)
    angles = torch.arange(length, dtype=torch.float64, device=device)[:, None] * rates
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of features, one of the first half and the one as far in the second, by its position's angle.

    Args: x [..., T, D]; cos, sin [T, D / 2]. Returns: [..., T, D].
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """Which position may look at which: at itself and the window - 1 before it. Returns: bool [length, length]."""
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril() & ones.triu(1 - window)


@fx.wrap
def attend(query: Tensor, key: Tensor, value: Tensor, n_head: int, window: int | None) -> Tensor:
    """Every position's look at itself and those before it, as far as the window reaches.

    Args: query, key, value [N, T, C], not rotated yet. Returns: [N, T, C].
    """
    query, key, value = (heads(part, n_head) for part in (query, key, value))
    length = query.shape[-2]
    cos, sin = rotations(length, query)
    query, key = rotate(query, cos, sin), rotate(key, cos, sin)
    if window is None or window >= length:
        return merge_heads(F.scaled_dot_product_attention(query, key, value, is_causal=True))
    mask = window_mask(length, window, query.device)
    return merge_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=mask))


def heads(x: Tensor, n_head: int) -> Tensor:
    """[N, T, C] -> [N, n_head, T, C / n_head]."""
    return x.unflatten(-1, (n_head, -1)).transpose(1, 2)


@fx.wrap
def tied_logits(features: Tensor, embedding: Tensor) -> Tensor:
    """How well each token's embedding fits. Args: features [B, T, C], embedding [V, C]. Returns: [B, T, V]."""
    return F.linear(features, embedding)


class KeyValueCache:
    """Rotated keys and values of the tokens that a decoder has read, layer by layer, so that they are read once.

    Args: n_layer; capacity: the most tokens. `length` is how many are in it.
    """

    def __init__(self, n_layer: int, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._layers: list[tuple[Tensor, Tensor] | None] = [None] * n_layer
        self._rotations: tuple[Tensor, Tensor] | None = None

    def check_room(self, count: int) -> None:
        """Raises ValueError where so many more tokens do not fit."""
        if self.length + count > self.capacity:
            raise ValueError(f"{self.length + count} tokens exceed block_size={self.capacity}: cut them, or begin anew")

    def rotations(self, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Of the next `count` positions. Args: like [..., D]. Returns: twice [count, D / 2]."""
        if self._rotations is None:
            self._rotations = rotations(self.capacity, like)
        cos, sin = self._rotations
        return cos[self.length : self.length + count], sin[self.length : self.length + count]

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values [B, H, T, D] behind the layer's. Returns: all of them, twice [B, H, length + T, D]."""
        held = self._layers[layer]
        if held is None:
            shape = (*key.shape[:2], self.capacity, key.shape[3])
            held = self._layers[layer] = key.new_empty(shape), value.new_empty(shape)
        stop = self.length + key.shape[2]
        for kept, new in zip(held, (key, value), strict=True):
            kept[:, :, self.length : stop] = new
        return held[0][:, :, :stop], held[1][:, :, :stop]

    def keep(self, rows: Tensor) -> None:
        """Forget the other rows. Args: rows [B] bool."""
        self._layers = [held and (held[0][rows], held[1][rows]) for held in self._layers]


class RotaryAttention(nn.Module):
    """Multi-head self-attention that never looks ahead, and at most `window` tokens back, itself included.

    Raises: ConfigError when `dim` does not divide into `n_head` heads of an even width.
    """

    def __init__(self, dim: int, n_head: int, window: int | None = None) -> None:
        super().__init__()
        if n_head < 1 or dim % (2 * n_head):
            raise ConfigError(f"host.n_head={n_head}: must divide the width, {dim}, into even parts")
        self.n_head = n_head
        self.window = window
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, T, C]. Returns: [B, T, C]."""
        return self.proj(attend(self.query(x), self.key(x), self.value(x), self.n_head, self.window))

    def extend(self, x: Tensor, cache: KeyValueCache, layer: int) -> Tensor:
        """`forward` for the tokens that follow those in the cache. Args: x [B, T, C]. Returns: [B, T, C]."""
        query, key, value = (heads(part(x), self.n_head) for part in (self.query, self.key, self.value))
        count, start = x.shape[1], cache.length
        cos, sin = cache.rotations(count, query)
        query = rotate(query, cos, sin)
        keys, values = cache.append(layer, rotate(key, cos, sin), value)
        mask = window_mask(start + count, self.window or start + count, x.device)[start:]
        return self.proj(merge_heads(F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)))

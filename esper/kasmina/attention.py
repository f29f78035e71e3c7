"""The parts of a transformer that read tokens and look at other positions; leaves for whoever traces a network."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from esper.errors import ConfigError


@fx.wrap
def attend(qkv: Tensor, n_head: int, is_causal: bool = True) -> Tensor:
    """Every position's look at all others or, causal, at itself and those before it.

    Args: qkv [B, T, 3 C]: queries, keys and values one after the other. Returns: [B, T, C].
    """
    query, key, value = split_heads(qkv, n_head)
    return merge_heads(F.scaled_dot_product_attention(query, key, value, is_causal=is_causal))


@fx.wrap
def positions(tokens: Tensor, block_size: int) -> Tensor:
    """0 .. T - 1 for tokens [B, T]. Raises: ValueError when T exceeds block_size, compiled or not."""
    length = tokens.shape[1]
    return torch.arange(length, device=tokens.device) if length <= block_size else _refuse(tokens, block_size)


# A compiled graph cannot raise an error of its own: it calls an operator that does.
@torch.library.custom_op("esper::refuse_length", mutates_args=())
def _refuse(tokens: Tensor, block_size: int) -> Tensor:
    length = tokens.shape[1]
    raise ValueError(f"a sequence of {length} tokens exceeds block_size={block_size}: cut it or make a longer host")


@_refuse.register_fake
def _(tokens: Tensor, block_size: int) -> Tensor:
    return tokens.new_empty(tokens.shape[1])


def split_heads(qkv: Tensor, n_head: int) -> tuple[Tensor, ...]:
    """[B, T, 3 C] -> three times [B, n_head, T, C / n_head]."""
    return qkv.unflatten(-1, (3, n_head, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(features: Tensor) -> Tensor:
    """[B, n_head, T, C / n_head] -> [B, T, C]."""
    return features.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention of each position to all (Vaswani et al. 2017, arXiv:1706.03762).

    Raises: ConfigError when `dim` does not divide into `n_head` heads.
    """

    is_causal: ClassVar[bool] = False

    def __init__(self, dim: int, n_head: int) -> None:
        super().__init__()
        if n_head < 1 or dim % n_head:
            raise ConfigError(f"host.n_head={n_head}: must divide the width, {dim}")
        self.n_head = n_head
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, T, C]. Returns: [B, T, C]."""
        return self.proj(attend(self.qkv(x), self.n_head, self.is_causal))


class CausalSelfAttention(SelfAttention):
    """The same, that never looks ahead."""

    is_causal: ClassVar[bool] = True


class TokenEmbedding(nn.Module):
    """A learned vector for each token plus one for each position."""

    def __init__(self, vocab_size: int, n_embd: int, block_size: int) -> None:
        super().__init__()
        self.block_size = block_size
        self.token = nn.Embedding(vocab_size, n_embd)
        self.position = nn.Embedding(block_size, n_embd)

    def forward(self, tokens: Tensor) -> Tensor:
        """Args: tokens [B, T] int64. Returns: [B, T, C]. Raises: ValueError when T exceeds block_size."""
        return self.token(tokens) + self.position(positions(tokens, self.block_size))


class BoundedEmbedding(nn.Embedding):
    """A learned vector for each token, of sequences up to a length."""

    def __init__(self, vocab_size: int, n_embd: int, block_size: int) -> None:
        super().__init__(vocab_size, n_embd)
        self.block_size = block_size

    def forward(self, tokens: Tensor) -> Tensor:
        """Args: tokens [B, T] int64. Returns: [B, T, C]. Raises: ValueError when T exceeds block_size."""
        positions(tokens, self.block_size)
        return super().forward(tokens)

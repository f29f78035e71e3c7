"""Causal self-attention whose mask is a function: torch's flex attention."""

import functools

import torch
from torch import Tensor, fx
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from esper.kasmina.attention import CausalSelfAttention, attend, merge_heads, split_heads

_MASKS_KEPT = 32


class FlexCausalSelfAttention(CausalSelfAttention):
    """The same function of the same parameters as `CausalSelfAttention`.

    Flex attention has no backward pass on a CPU: where a gradient is wanted there, the plain kernel computes it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, T, C]. Returns: [B, T, C]."""
        return self.proj(attend_flexibly(self.qkv(x), self.n_head))


@fx.wrap
def attend_flexibly(qkv: Tensor, n_head: int) -> Tensor:
    """See `attend`. Args: qkv [B, T, 3 C]. Returns: [B, T, C]."""
    if qkv.device.type == "cpu" and qkv.requires_grad:
        return attend(qkv, n_head)
    query, key, value = split_heads(qkv, n_head)
    return merge_heads(flex_attention(query, key, value, block_mask=_causal_mask(qkv.shape[1], qkv.device)))


@functools.lru_cache(_MASKS_KEPT)
def _causal_mask(length: int, device: torch.device) -> BlockMask:
    return create_block_mask(_looks_back, B=None, H=None, Q_LEN=length, KV_LEN=length, device=str(device))


def _looks_back(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key

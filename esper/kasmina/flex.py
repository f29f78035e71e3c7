"""Causal self-attention whose mask is a function: torch's flex attention.

What it needs of torch is imported when it runs: few runs plant it, and all of them would wait a tenth of a second.
"""

import functools
import importlib.util
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from esper.kasmina.attention import CausalSelfAttention, attend, merge_heads, split_heads

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

if importlib.util.find_spec("torch.nn.attention.flex_attention") is None:
    raise ImportError("this torch has no flex attention")

_MASKS_KEPT = 32

# Whoever wants the one-kernel form compiles the whole model; a seed does not compile itself.
warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")


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
    from torch.nn.attention.flex_attention import flex_attention

    query, key, value = split_heads(qkv, n_head)
    return merge_heads(flex_attention(query, key, value, block_mask=_mask_of(qkv)))


def _mask_of(qkv: Tensor) -> "BlockMask":
    make = _causal_mask if torch.compiler.is_compiling() else _kept_causal_mask  # a compiler cannot see through a cache
    return make(qkv.shape[1], qkv.device)


def _causal_mask(length: int, device: torch.device) -> "BlockMask":
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(_looks_back, B=None, H=None, Q_LEN=length, KV_LEN=length, device=str(device))


_kept_causal_mask = functools.lru_cache(_MASKS_KEPT)(_causal_mask)


def _looks_back(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key

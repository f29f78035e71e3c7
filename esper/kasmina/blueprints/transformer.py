"""Seeds for decoders, [B, T, C] -> [B, T, C]; none lets a token see those after it."""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from esper.kasmina.attention import CausalSelfAttention
from esper.kasmina.blueprints.registry import BlueprintRegistry
from esper.kasmina.blueprints.residual import ResidualSeed, zeroed

_LORA_RANK = 4
_LORA_LARGE_RANK = 16
_MLP_RATIO = 4
_HEAD_WIDTH = 16

try:
    from esper.kasmina.flex import FlexCausalSelfAttention
except ImportError:  # a torch without flex attention
    FlexCausalSelfAttention = None  # type: ignore[assignment,misc]


class Checkpointed(nn.Sequential):
    """Layers that keep only their input while training and compute the rest again for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, T, C]. Returns: [B, T, C]."""
        if not self.training:
            return super().forward(x)
        return recompute(super().forward, x, use_reentrant=False, preserve_rng_state=False)  # it draws nothing


def _heads(dim: int) -> int:
    """As many heads of 16 as fit, or fewer, so that they divide the width."""
    return next(heads for heads in range(max(1, dim // _HEAD_WIDTH), 0, -1) if dim % heads == 0)


def _lora(dim: int, rank: int, max_ratio: float) -> nn.Module:
    up = zeroed(nn.Linear(rank, dim, bias=False))
    return ResidualSeed(nn.Sequential(nn.Linear(dim, rank, bias=False), up), max_ratio, by_token=True)


def _mlp(dim: int, hidden: int, max_ratio: float, container: type[nn.Sequential] = nn.Sequential) -> nn.Module:
    layers = [nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), zeroed(nn.Linear(hidden, dim))]
    return ResidualSeed(container(*layers), max_ratio, by_token=True)


def _attention(attention: CausalSelfAttention, max_ratio: float) -> nn.Module:
    zeroed(attention.proj)
    return ResidualSeed(nn.Sequential(nn.LayerNorm(attention.proj.out_features), attention), max_ratio, by_token=True)


@BlueprintRegistry.register("norm", "transformer", param_estimate=128, description="layer norm", family="norm")
def build_norm(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """Layer norm of the features, with a scale and shift that start at zero."""
    return ResidualSeed(zeroed(nn.LayerNorm(dim)), max_ratio, by_token=True)


@BlueprintRegistry.register(
    "lora", "transformer", param_estimate=512, description="linear map of rank 4", family="depthwise"
)
def build_lora(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """A linear map of low rank (after Hu et al. 2021, arXiv:2106.09685)."""
    return _lora(dim, _LORA_RANK, max_ratio)


@BlueprintRegistry.register(
    "lora_large", "transformer", param_estimate=2048, description="linear map of rank 16", family="depthwise"
)
def build_lora_large(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """A linear map of moderate rank."""
    return _lora(dim, _LORA_LARGE_RANK, max_ratio)


@BlueprintRegistry.register("mlp_small", "transformer", param_estimate=8448, description="two linear layers, GELU")
def build_mlp_small(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """Two linear layers of the features' width."""
    return _mlp(dim, dim, max_ratio)


@BlueprintRegistry.register(
    "attention", "transformer", param_estimate=16_768, description="causal self-attention", family="attention"
)
def build_attention(dim: int, max_ratio: float = 1.0) -> nn.Module:
    """Causal self-attention, in heads of about 16."""
    return _attention(CausalSelfAttention(dim, _heads(dim)), max_ratio)


@BlueprintRegistry.register("mlp", "transformer", param_estimate=33_216, description="two linear layers, 4 times wider")
def build_mlp(dim: int, max_ratio: float = 1.0, checkpoint: bool = False) -> nn.Module:
    """Two linear layers, four times as wide between; `checkpoint` trades time for memory: the wide part is not kept."""
    return _mlp(dim, _MLP_RATIO * dim, max_ratio, Checkpointed if checkpoint else nn.Sequential)


if FlexCausalSelfAttention is not None:

    @BlueprintRegistry.register(
        "flex_attention",
        "transformer",
        param_estimate=16_768,
        description="causal self-attention by a block mask",
        family="attention",
    )
    def build_flex_attention(dim: int, max_ratio: float = 1.0) -> nn.Module:
        """What `attention` is, computed by flex attention."""
        return _attention(FlexCausalSelfAttention(dim, _heads(dim)), max_ratio)

"""Format "routed": the base, what each expert's singular values are scaled by, the mixtures, and the router."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from esper.errors import CheckpointError
from esper.forge.bitnet.bundle import TERNARY
from esper.forge.bitnet.quantizer import layer_matrices
from esper.forge.bundles import FORMATS
from esper.forge.card import ModelCard
from esper.forge.experts.layers import dense_copy
from esper.forge.experts.routed import RoutedDecoder
from esper.forge.experts.router import PrefixRouter
from esper.forge.training_state import by_prefix

FORMAT = "routed"
_BASE = "base."
_OTHERS = ("experts", "mixtures", "router.weight", "router.bias", "stages")


def routed_tensors(
    base: Mapping[str, Tensor], experts: Tensor, mixtures: Tensor, router: PrefixRouter, stages: tuple[int, ...]
) -> dict[str, Tensor]:
    """What the file holds. Args: base: the tensors of the base's own bundle; the rest as `RoutedDecoder` takes it."""
    return {
        **{f"{_BASE}{name}": tensor for name, tensor in base.items()},
        "experts": experts,
        "mixtures": mixtures,
        "router.weight": router.weight,
        "router.bias": router.bias,
        "stages": torch.tensor(stages, dtype=torch.uint8),
    }


@FORMATS.register(FORMAT, ModelCard)
def build_routed(card: ModelCard, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The tensors are those of `routed_tensors`. Raises: CheckpointError in a line where they are malformed."""
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith(_BASE)}
    if others.keys() != set(_OTHERS):
        raise CheckpointError(f"a routed model: expected {', '.join(_OTHERS)}; found {', '.join(sorted(others))[:80]}")
    inner = "plain" if card.quantizer is None else TERNARY
    base = FORMATS.build(replace(card, format=inner), inner, tensors=by_prefix(tensors, _BASE)).eval()
    if not hasattr(base, "features"):
        raise CheckpointError(f"a routed model: a {type(base).__name__} has no features to choose by")
    _check_shapes(base, others)
    router = PrefixRouter(others["router.weight"].float(), others["router.bias"].float())
    stages = others["stages"].tolist()
    return RoutedDecoder(base, others["experts"].float(), others["mixtures"], router, stages).eval()


def _check_shapes(base: nn.Module, others: Mapping[str, Tensor]) -> None:
    scales = sum(min(matrix.shape) for matrix in layer_matrices(dense_copy(base)).values())
    mixtures, stages = others["mixtures"], others["stages"]
    if mixtures.ndim != 2 or mixtures.dtype != torch.uint8 or len(mixtures) < 2 or 0 in mixtures.shape:
        raise CheckpointError("a routed model: mixtures is no matrix of uint8")
    choices, experts = len(mixtures) - 1, mixtures.shape[1]
    width = base.get_parameter("embedding.weight").shape[1]
    expected = {"experts": (experts, scales), "router.weight": (choices, width), "router.bias": (choices,)}
    for name, shape in expected.items():
        found = others[name]
        if tuple(found.shape) != shape or not found.is_floating_point() or not found.isfinite().all():
            raise CheckpointError(f"a routed model: {name} is not {list(shape)} finite numbers")
    found_stages = stages.tolist() if stages.ndim == 1 and stages.dtype == torch.uint8 else []
    if not found_stages or found_stages != sorted(set(found_stages)) or found_stages[0] < 2:
        raise CheckpointError("a routed model: stages is no ascending list of uint8, from 2 on")

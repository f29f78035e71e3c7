"""Layer groups: which tensors of a model share one weight an expert in a search."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_PART_OF_LAYER = re.compile(r"layers\.(\d+)\.(attention|mlp)")


def layer_groups(names: Iterable[str]) -> dict[str, str]:
    """Name of a tensor -> its group: "embedding", "layers.0.attention", "layers.0.mlp", ..., "head".

    A norm belongs to what it feeds; the last norm, and whatever lies in no layer, to the head.
    """
    return {name: _group(name) for name in names}


def group_names(groups: Mapping[str, str]) -> list[str]:
    """The groups in the order of their first tensors."""
    return list(dict.fromkeys(groups.values()))


def weights_by_name(weights: Tensor, groups: Mapping[str, str]) -> dict[str, Tensor]:
    """[..., E, G], G in the order of `group_names` -> name of a tensor -> [..., E]."""
    index = {group: number for number, group in enumerate(group_names(groups))}
    return {name: weights[..., index[group]] for name, group in groups.items()}


def _group(name: str) -> str:
    if part := _PART_OF_LAYER.match(name):
        return part[0]
    return "embedding" if name.startswith("embedding") else "head"

"""Allocation: which codec, at which setting, for which tensor, so that a number of bytes buys the least loss.

Each candidate is encoded once; its rate is counted and its distortion follows from the tensor's sensitivity. Errors of
different tensors add up, so all tensors should gain the same loss for the last byte: a Lagrange multiplier finds that
point, and what is left of the budget goes to the upgrades that gain most a byte (Shoham & Gersho 1988).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from esper.errors import CompressionError
from esper.forge.compression.codec import Encoded, Statistics, decode, encode
from esper.forge.compression.config import (
    CodecConfig,
    GridConfig,
    GroupConfig,
    HyperConfig,
    SeedConfig,
    TernaryConfig,
    VectorConfig,
)

_BISECTIONS = 60

_GRID_BITS = (*(bits / 4 for bits in range(4, 22)), 6.0)
_VECTORS = ((4, 256), (2, 32), (2, 64), (2, 256), (1, 64))
_SEEDS = ((12, 3), (8, 3), (6, 3))
_TRAJECTORIES = ((3, 128), (2, 64), (2, 256), (1, 64))

Setting = tuple[str, CodecConfig]

GENTLEST: Setting = ("group", GroupConfig(bits=8))
FAMILIES: dict[str, tuple[Setting, ...]] = {
    "group": tuple(("group", GroupConfig(bits=bits, group_size=size)) for bits in (3, 4, 8) for size in (32, 128)),
    "nearest": tuple(  # round to nearest, the control
        ("group", GroupConfig(bits=bits, group_size=size, clip=False)) for bits in (3, 4, 8) for size in (32, 128)
    ),
    "grid": tuple(("grid", GridConfig(bits=bits)) for bits in _GRID_BITS),
    "vector": tuple(("vector", VectorConfig(dim=dim, entries=entries)) for dim, entries in _VECTORS),
    "seedlm": tuple(("seedlm", SeedConfig(block=block, rank=rank)) for block, rank in _SEEDS),
    "hyper": tuple(("hyper", HyperConfig(dim=dim, points=points)) for dim, points in _TRAJECTORIES),
    "ternary": (("ternary", TernaryConfig()),),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """distortion: what the loss would grow by, in nats a token, by the second-order proxy."""

    encoded: Encoded
    num_bytes: int
    distortion: float


def candidates_for(weight: Tensor, statistics: Statistics, settings: Sequence[Setting]) -> list[Candidate]:
    """A matrix by each of these codecs."""
    found = []
    for codec, config in settings:
        encoded = encode(weight, codec, config, statistics)
        found.append(Candidate(encoded, encoded.num_bytes, statistics.loss_increase(weight - decode(encoded))))
    return found


def allocate(candidates: Mapping[str, Sequence[Candidate]], budget_bytes: int) -> dict[str, Candidate]:
    """One candidate a tensor: least distortion in all, within the budget.

    Raises: CompressionError where even the smallest candidates exceed it.
    """
    smallest = {name: min(found, key=lambda c: c.num_bytes) for name, found in candidates.items()}
    if _total(smallest) > budget_bytes:
        raise CompressionError(
            f"{budget_bytes:,} bytes are too few: these codecs need {_total(smallest):,}; lower the ratio"
        )
    low, high = 0.0, 1.0
    while _total(_cheapest(candidates, high)) > budget_bytes:
        high *= 4
    best = _cheapest(candidates, high)
    for _ in range(_BISECTIONS):
        price = (low + high) / 2
        choice = _cheapest(candidates, price)
        if _total(choice) <= budget_bytes:
            high, best = price, choice
        else:
            low = price
    return _spend_rest(candidates, best, budget_bytes)


def _cheapest(candidates: Mapping[str, Sequence[Candidate]], price: float) -> dict[str, Candidate]:
    """Per tensor the least distortion plus price (nats a byte) times bytes; of equals the smallest."""
    return {
        name: min(found, key=lambda c: (c.distortion + price * c.num_bytes, c.num_bytes))
        for name, found in candidates.items()
    }


def _spend_rest(
    candidates: Mapping[str, Sequence[Candidate]], choice: dict[str, Candidate], budget_bytes: int
) -> dict[str, Candidate]:
    choice = dict(choice)
    while True:
        room = budget_bytes - _total(choice)
        upgrades = [
            ((choice[name].distortion - option.distortion) / max(1, option.num_bytes - choice[name].num_bytes), name, i)
            for name, found in candidates.items()
            for i, option in enumerate(found)
            if option.num_bytes - choice[name].num_bytes <= room and option.distortion < choice[name].distortion
        ]
        if not upgrades:
            return choice
        _, name, index = max(upgrades)
        choice[name] = candidates[name][index]


def _total(choice: Mapping[str, Candidate]) -> int:
    return sum(candidate.num_bytes for candidate in choice.values())

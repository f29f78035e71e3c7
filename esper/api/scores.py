"""What a loop of one's own says of its network: a score, or a score and a loss."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from esper.checks import is_number, require
from esper.engine.growth import MEASURED
from esper.engine.reports import Score
from esper.kasmina.probe import evaluating
from esper.kasmina.seeding import undisturbed_streams
from esper.kasmina.slot import SeedSlot

Number = float | Tensor
Reached = Number | tuple[Number, Number]
Evaluate = Callable[[nn.Module], Reached]

SCORE = "a number that grows, such as percent of accuracy, or (score, loss)"
TRAINED = "(score, loss) of this epoch's training"
_RETURNED = "a function that returns a number, or (score, loss)"
_MENDED = "; governor=GovernorConfig() puts a network back that diverged"
SEEN = "(score, loss): a policy that has learned sees both"


def read_score(key: str, value: Any, expected: str, with_loss: bool = False, may_diverge: bool = False) -> Score:
    """The score that was told, and its loss; where there is none, what falls as the score grows stands in for it.

    Args: expected: in words; with_loss: whether it has to be told; may_diverge: whether it may be infinite or NaN.
    Raises: ConfigError on anything else.
    """
    plain = [_plain(part) for part in value] if isinstance(value, tuple | list) else [_plain(value)]
    shown = plain if len(plain) > 1 else plain[0] if plain else value
    if key != "evaluate" and any(isinstance(part, float) and not math.isfinite(part) for part in plain):
        expected += _MENDED
    fits = [is_number(part) or (may_diverge and isinstance(part, float)) for part in plain]
    require(len(fits) in ((2,) if with_loss else (1, 2)) and all(fits), key, shown, expected)
    score, loss = float(plain[0]), float(plain[1] if len(plain) > 1 else -plain[0])
    return Score(loss, score)


def scores_without(
    model: nn.Module, slots: Mapping[str, SeedSlot], evaluate: Evaluate, with_loss: bool = False
) -> dict[str, Score]:
    """Slot -> what the network reaches without the seed there, of those whose worth is asked for."""
    found = {}
    measured = {name: slot for name, slot in slots.items() if slot.stage in MEASURED}
    for name, slot in measured.items():
        slot.bypass = True
        try:
            found[name] = reached_by(model, slot.device, evaluate, with_loss)
        finally:
            slot.bypass = False
    return found


def reached_by(
    model: nn.Module, device: torch.device, evaluate: Evaluate, with_loss: bool = False, may_diverge: bool = False
) -> Score:
    """What the loop's own function says of the network, which it is handed in evaluation mode."""
    with evaluating(model), undisturbed_streams(device), torch.no_grad():
        return read_score("evaluate", evaluate(model), SEEN if with_loss else _RETURNED, with_loss, may_diverge)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value

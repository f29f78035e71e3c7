"""Half-baking: how much of a trained change to apply, for a prompt to have half its effect."""

from collections.abc import Callable

from esper.forge.lora import LoRA

MOST_STEPS = 12


def bisect(function: Callable[[float], float], target: float, tolerance: float) -> float:
    """Where, between 0 and 1, a function that falls takes the target's value to within the tolerance.

    Args: tolerance: in what the function gives. Returns: 1 where it stays above the target; else what comes closest in
    MOST_STEPS halvings (that of a ternary model falls in steps, of which one may lead past the target).
    """
    low, high = 0.0, 1.0
    best, distance = 1.0, abs(function(1.0) - target)
    if function(1.0) > target:
        return 1.0
    for _ in range(MOST_STEPS):
        if distance <= tolerance:
            break
        middle = (low + high) / 2
        value = function(middle)
        if abs(value - target) < distance:
            best, distance = middle, abs(value - target)
        low, high = (middle, high) if value > target else (low, middle)
    return best


def scale_to(lora: LoRA, divergence: Callable[[LoRA], float], share: float, tolerance: float = 0.02) -> float:
    """Set the change's scale so that a prompt's divergence is this share of what it is without the change.

    Half the weights are not half the effect: the scale is searched for. Args: tolerance: as a share of the divergence
    without the change. Returns: the share that was reached.
    """

    def at(scale: float) -> float:
        lora.scale = scale
        return divergence(lora)

    before = at(0.0)
    lora.scale = bisect(at, share * before, tolerance * before) if before > 0 else 0.0
    return divergence(lora) / before if before > 0 else 0.0

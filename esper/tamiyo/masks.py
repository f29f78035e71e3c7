"""What a controller may ask for."""

from collections.abc import Iterable, Sequence

from esper.leyline import ADVANCES, CULLABLE, WAIT, Action, EpochReport, Operation, SeedStage


def legal_actions(report: EpochReport, blueprints: Sequence[str], blends: Iterable[str]) -> list[Action]:
    """Every action that would be done if it were asked for, waiting first.

    A twin is never grown and a retired member stays as it is: for them only waiting is left.

    Args:
        blueprints: names from the catalogue of the host's topology.
        blends: names of blend algorithms.
    """
    legal = [WAIT]
    if report.is_twin or report.retired:
        return legal
    blends = tuple(blends)
    for slot, seed in report.slots.items():
        if seed.stage is SeedStage.DORMANT:
            legal += [Action(Operation.GERMINATE, slot, name, blend) for name in blueprints for blend in blends]
        if seed.stage in ADVANCES and seed.can_advance:
            legal.append(Action(Operation.ADVANCE, slot))
        if seed.stage in CULLABLE:
            legal.append(Action(Operation.CULL, slot))
    return legal

"""The stages of a seed's life and the moves between them. The values are on disk: never renumber."""

from enum import IntEnum


class SeedStage(IntEnum):
    """Where a seed stands in its life (5 belonged to a retired stage and stays unused)."""

    UNKNOWN = 0
    DORMANT = 1
    GERMINATED = 2
    TRAINING = 3
    BLENDING = 4
    PROBATIONARY = 6
    FOSSILIZED = 7
    CULLED = 8
    EMBARGOED = 9
    RESETTING = 10


VALID_TRANSITIONS: dict[SeedStage, tuple[SeedStage, ...]] = {
    SeedStage.UNKNOWN: (SeedStage.DORMANT,),
    SeedStage.DORMANT: (SeedStage.GERMINATED,),
    SeedStage.GERMINATED: (SeedStage.TRAINING, SeedStage.CULLED),
    SeedStage.TRAINING: (SeedStage.BLENDING, SeedStage.CULLED),
    SeedStage.BLENDING: (SeedStage.PROBATIONARY, SeedStage.CULLED),
    SeedStage.PROBATIONARY: (SeedStage.FOSSILIZED, SeedStage.CULLED),
    SeedStage.FOSSILIZED: (),
    SeedStage.CULLED: (SeedStage.EMBARGOED,),
    SeedStage.EMBARGOED: (SeedStage.RESETTING,),
    SeedStage.RESETTING: (SeedStage.DORMANT,),
}


# The steps that wait for a controller's word, and the stages that a seed can be culled from.
ADVANCES = {SeedStage.TRAINING: SeedStage.BLENDING, SeedStage.PROBATIONARY: SeedStage.FOSSILIZED}
CULLABLE = frozenset(stage for stage, targets in VALID_TRANSITIONS.items() if SeedStage.CULLED in targets)


def is_valid_transition(from_stage: SeedStage, to_stage: SeedStage) -> bool:
    """Whether a seed may go from the one stage straight to the other."""
    return to_stage in VALID_TRANSITIONS.get(from_stage, ())


def is_terminal_stage(stage: SeedStage) -> bool:
    """Whether the lifecycle ends here (a fossil goes on training as part of the host)."""
    return stage is SeedStage.FOSSILIZED


def is_active_stage(stage: SeedStage) -> bool:
    """Whether a seed in this stage computes, or is about to, and is not yet part of the host."""
    return stage in CULLABLE


def is_failure_stage(stage: SeedStage) -> bool:
    """Whether the seed was given up: culled, or on the way from there back to dormant."""
    return stage in (SeedStage.CULLED, SeedStage.EMBARGOED, SeedStage.RESETTING)

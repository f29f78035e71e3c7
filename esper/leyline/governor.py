"""When a member counts as gone wrong, and what is done about it."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class GovernorConfig:
    """explode_factor: of the untrained host's loss; collapse_points: below the member's best validation accuracy."""

    snapshot_every_epochs: int = 3
    explode_factor: float = 3.0
    collapse_points: float = 40.0
    max_rollbacks: int = 2

"""Group `checkpoint`: how often a run is saved, and which checkpoints stay."""

from dataclasses import dataclass

from esper.checks import in_range


@dataclass(kw_only=True)
class CheckpointConfig:
    """A checkpoint is always written at the end and on Ctrl-C, whatever `every_epochs` says."""

    every_epochs: int
    keep_last: int
    keep_best: int

    def __post_init__(self) -> None:
        in_range("checkpoint.every_epochs", self.every_epochs, 1, 1_000_000)
        in_range("checkpoint.keep_last", self.keep_last, 1, 1_000_000)
        in_range("checkpoint.keep_best", self.keep_best, 0, 1_000_000)

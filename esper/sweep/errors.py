"""What a sweep has to say when it cannot go on."""

from collections.abc import Sequence

from hydra.errors import CompactHydraException


class SweepError(CompactHydraException):
    """Something that the user can mend; Hydra prints it without a traceback."""


class JobError(SweepError):
    """A job's overrides cannot be composed, or its configuration is refused."""

    def __init__(self, overrides: Sequence[str], reason: Exception) -> None:
        super().__init__(f"{' '.join(overrides)}: {reason}")
        self.overrides = list(overrides)
        self.reason = reason


class SweepEnded(SystemExit):
    """The sweep is over, and not every job has finished: exit code 1, or 128 + the signal that stopped it."""

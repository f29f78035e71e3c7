"""What the rooms hand to each other."""

from collections.abc import Sequence
from typing import Any, Protocol

from esper.leyline.actions import Action
from esper.leyline.reports import EpochReport
from esper.leyline.telemetry import TelemetryEvent


class Controller(Protocol):
    """Decides once an epoch.

    The loop it serves::

        epochs = EpochRunner([growth])
        (reports,) = epochs.reports()
        while not epochs.done:
            ((reports, events),) = epochs.step([controller.act(reports)])
    """

    def act(self, reports: Sequence[EpochReport]) -> list[Action]:
        """One action a member, from that member's last report (epoch 0 reports hold the untrained host)."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides later actions, as plain JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        ...


class BlueprintChooser(Protocol):
    """Says what to plant next by what became of the seeds of all members; several may be on trial at a time."""

    def select_blueprint(self, among: Sequence[str]) -> str:
        """The most promising of these."""
        ...

    def start_trial(self, name: str) -> None:
        """A seed was planted; it counts at once, and `record_outcome` or `abandon_trial` ends its trial."""
        ...

    def record_outcome(self, name: str, success: bool, reward: float) -> None:
        """What became of a seed; rewards are finite, about 0 to 1."""
        ...

    def abandon_trial(self, name: str) -> None:
        """What becomes of a seed will never be known."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides later choices, as plain JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        ...


class Sink(Protocol):
    """Takes what happens; owns one output (a file, the terminal, a dashboard)."""

    def epoch(self, record: dict[str, Any]) -> None:
        """One epoch's record, as written to metrics.jsonl."""
        ...

    def update(self, record: dict[str, Any]) -> None:
        """One update of a policy that learns, as written to learning.jsonl."""
        ...

    def event(self, event: TelemetryEvent) -> None:
        """One event."""
        ...

    def close(self, status: str) -> None:
        """The run ended: "finished", "failed" or "interrupted"."""
        ...

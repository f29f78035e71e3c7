"""A run's final networks: yet to be made, in training, or tested; and what they came to."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from esper.builders.finals import FinalNetworks
from esper.leyline import ScoreKind, TelemetryEvent, TelemetryEventType
from esper.nissa.statistics import mean_interval
from esper.runner.records import figures_of, has_diverged

PREFIX = "finals/"  # of their tensors in a checkpoint


class Finals:
    """The final networks of one run, see `esper.builders.finals`.

    `networks` is None until growth has ended, and stays so where no member grew. What a checkpoint has of them is kept
    until then. `scores` is what they came to on the test split.
    """

    def __init__(self) -> None:
        self.networks: FinalNetworks | None = None
        self.scores: Mapping[str, Sequence[float]] = {}
        self._stored: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    @property
    def epoch(self) -> int:
        """Epochs that they have trained so far."""
        if self._stored is not None:
            return int(self._stored[1]["epoch"])
        return min(self.networks.growth.epoch, self.networks.growth.epochs) if self.networks else 0

    @property
    def done(self) -> bool:
        """Whether there are any, and all are trained."""
        return self.networks is not None and self.networks.growth.done

    @property
    def is_waiting(self) -> bool:
        """Whether they were done before this epoch, and stand still beside those of other runs, which take longer."""
        return self.networks is not None and self.networks.growth.epoch > self.networks.growth.epochs

    def begin(self, networks: FinalNetworks | None) -> None:
        """Take them on, as they were when the run was saved."""
        self.networks = networks
        if networks is not None and self._stored is not None:
            networks.growth.load_state(*self._stored)
        self._stored = None

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
        """For a checkpoint: tensors, and plain values or None as long as nothing was trained."""
        if self._stored is not None:
            tensors, plain = self._stored
        elif self.networks is not None and self.epoch:
            tensors, plain = self.networks.growth.state()
        else:
            return {}, None
        return {PREFIX + name: tensor for name, tensor in tensors.items()}, plain

    def load_state(self, tensors: Mapping[str, Tensor], plain: dict[str, Any] | None) -> None:
        """Continue where `state` was taken, once `begin` has them."""
        own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
        self._stored = None if plain is None else (own, plain)

    def event(self, grown_epochs: int, kind: ScoreKind) -> TelemetryEvent:
        """What is told of the epoch that they have trained. grown_epochs: those of the growth, which came before."""
        assert self.networks is not None
        growth = self.networks.growth
        score = mean_interval([report.val_accuracy for report in growth.reports()]).mean
        text = f"final networks from scratch: epoch {self.epoch} of {growth.epochs}"
        text += "" if score is None else f", validation {kind.title} {score:.1f}%"
        data = {"trained": self.epoch, "last": growth.epochs, "score": score}
        return TelemetryEvent(
            TelemetryEventType.FINAL_TRAINED, epoch=grown_epochs + self.epoch, message=text, data=data
        )

    def figures(
        self, controls: Sequence[str], grown: Mapping[str, list[Any]], kind: ScoreKind
    ) -> dict[str, dict[str, list[Any]]]:
        """By control, what `figures_of` has of its networks, a value a grown member.

        One that never grew is its own final network, and has its own figures there. Args: grown: those of all members
        that were to grow.
        """
        found, rows = {}, self.networks.rows if self.networks else []
        trained = figures_of(self.networks.growth.reports(), self.scores, kind) if self.networks else {}
        for control in controls:
            at = {member: row for row, (name, member) in enumerate(rows) if name == control}
            found[control] = {
                name: [trained[name][at[m]] if m in at else value for m, value in enumerate(values)]
                for name, values in grown.items()
            }
        return found

    def count(self, control: str) -> int:
        """How many networks a control has: as many as members grew."""
        return sum(name == control for name, _ in self.networks.rows) if self.networks else 0

    def retired(self, control: str) -> int:
        """How many of a control's networks have diverged."""
        if self.networks is None:
            return 0
        pairs = zip(self.networks.rows, self.networks.growth.reports(), strict=True)
        return sum(name == control and has_diverged(report) for (name, _), report in pairs)

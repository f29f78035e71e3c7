"""The loop's other half: takes a controller's actions, trains an epoch, and reports what came of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

from torch import Tensor, nn

from esper.checkpoint import pack_generators, unpack_generators
from esper.engine.gardener import Episode, Gardener
from esper.engine.governor import Governor
from esper.engine.gradients import SeedGradients, note_seed_gradients
from esper.engine.passes import Passes
from esper.engine.population import Population, Scores
from esper.engine.reporting import UNKNOWN, Score, member_report, plain_report, report_from_plain
from esper.engine.snapshot import join_snapshot, restore_snapshot, split_snapshot, take_snapshot
from esper.errors import EngineError
from esper.kasmina.events import is_refusal
from esper.kasmina.slot import QualityGates
from esper.leyline import WAIT, Action, EpochReport, SeedStage, TelemetryEvent, TelemetryEventType
from esper.tasks import Task

MEASURED = (SeedStage.BLENDING, SeedStage.PROBATIONARY)


class Growth:
    """A population that grows on a task, epoch by epoch.

    Args: population: its first `grown` members obey the controller, the rest are static twins (member grown + i is the
    twin of member i); seed: names every stream of random numbers; epochs: length of a member's course; fresh_host: the
    untrained host of member 0 in a run of a seed, for `restart`; decay_share: of the epochs, over which in the end the
    learning rate falls evenly.
    """

    def __init__(
        self,
        population: Population,
        task: Task,
        gates: QualityGates,
        governor: Governor,
        grown: int,
        epochs: int,
        batch_size: int,
        blueprints: Sequence[str],
        seed: int,
        fresh_host: Callable[[int], nn.Module] | None = None,
        decay_share: float = 0.0,
    ) -> None:
        self.population = population
        self.task = task
        self.gates = gates
        self.governor = governor
        self.gardener = Gardener(population.models, gates, blueprints)
        self.grown = grown
        self.epochs = epochs
        self.passes = Passes(population, task, batch_size, seed)
        self.seed = seed
        self.fresh_host = fresh_host
        self.decay_epochs = round(decay_share * epochs)
        self.epoch = 0
        self.episodes = [Episode(seed, member) for member in range(len(population))]
        self._reports: dict[int, EpochReport] = {}

    @property
    def done(self) -> bool:
        """Whether every epoch has been trained."""
        return self.epoch >= self.epochs

    @property
    def seconds(self) -> dict[str, float]:
        """The last epoch's wall time by part: train, validation, counterfactual."""
        return self.passes.seconds

    @property
    def growth_log(self) -> list[dict[str, Any]]:
        """What was planted where, and when: one entry a seed, in epochs of its member."""
        return self.gardener.log

    def epoch_of(self, member: int) -> int:
        """Epochs that a member has trained since its own start."""
        return self.epoch - self.episodes[member].start

    def reports(self) -> list[EpochReport]:
        """Each member's last one; before its first epoch, that of its untrained host."""
        everyone = range(len(self.population))
        if begun := [member for member in everyone if member not in self._reports]:
            validated = self.passes.validate()[0]
            self.governor.start({member: validated[member][0] for member in begun})
            self._reports |= {member: self._report(member, UNKNOWN, validated[member], {}) for member in begun}
        return [self._reports[member] for member in everyone]

    def restart(self, members: Sequence[int], seeds: Sequence[int]) -> None:
        """These members begin anew, and the others go on undisturbed.

        Each has the first weights that member 0 of a run of its seed has; the data is the population's. Raises
        EngineError where this growth was not told how hosts are made.
        """
        if self.fresh_host is None:
            raise EngineError("Growth.restart: no fresh_host was given; build with esper.build")
        self.population.restart({e: self.fresh_host(seed) for e, seed in zip(members, seeds, strict=True)})
        for member, seed in zip(members, seeds, strict=True):
            self.gardener.undo(member)
            self.episodes[member] = Episode(seed, 0, self.epoch)
            self._reports.pop(member, None)

    def step(self, actions: Sequence[Action]) -> tuple[list[EpochReport], list[TelemetryEvent]]:
        """Act, train one epoch, validate, and settle every seed's stage. One action a member."""
        before = self.reports()
        everyone = range(len(self.population))
        self.epoch += 1
        self.passes.seconds = {}
        self.governor.before_epoch([self.epoch_of(member) for member in everyone], self.population)
        asked = [
            action if member < self.grown and not before[member].retired else WAIT
            for member, action in enumerate(actions)
        ]
        events = [event for member, action in enumerate(asked) for event in self._act(member, action)]
        refused = {event.member for event in events if is_refusal(event)}
        trained = self.passes.train(self.epoch, [self._rate_factor(self.epoch_of(member)) for member in everyone])
        validated, without = self.passes.validate(self._measured())
        gradients = note_seed_gradients(self.population)
        is_retired: dict[int, bool] = {}  # of members that are put back this epoch
        for member in everyone:
            if before[member].retired:
                continue
            loss, accuracy = validated[member]
            complaint = self.governor.complaint(member, trained[member][0], loss, accuracy)
            if complaint is None:
                events += self._end_epoch(member, accuracy, without[member], gradients)
            else:
                is_retired[member], happened = self._roll_back(member, complaint)
                events += happened
        self.population.sync_topology()
        # A member that was put back is reported as what it is now.
        restored = self.passes.validate()[0] if is_retired else validated
        for member, earlier in enumerate(before):
            is_back = member in is_retired
            now, left_out = (restored[member], {}) if is_back else (validated[member], without[member])
            report = self._report(member, trained[member], now, left_out, earlier.best_val_accuracy)
            report.rolled_back, report.retired = is_back, is_retired.get(member, earlier.retired)
            report.action, report.is_refused = asked[member], member in refused
            self._reports[member] = report
        return self.reports(), events

    def test(self) -> Scores:
        """Loss and accuracy of every member on the test split."""
        return self.population.evaluate(self.task.test_x, self.task.test_y)[0]

    # ---- one epoch's parts

    def _rate_factor(self, epoch: int) -> float:
        """The share of its learning rate that a member trains at in an epoch of its own, from 1 on; never 0."""
        return min(1.0, max(1, self.epochs - epoch + 1) / (self.decay_epochs + 1))

    def _act(self, member: int, action: Action) -> list[TelemetryEvent]:
        events = self.gardener.act(member, action, self.episodes[member], self.epoch_of(member))
        return self._stamp(events, member)

    def _measured(self) -> list[tuple[int, str]]:
        return [
            (member, name)
            for member, model in enumerate(self.population.models)
            for name, slot in model.slots.items()
            if slot.stage in MEASURED
        ]

    def _end_epoch(
        self, member: int, accuracy: float, without: Mapping[str, Score], gradients: SeedGradients
    ) -> list[TelemetryEvent]:
        events: list[TelemetryEvent] = []
        for name, slot in self.population.models[member].slots.items():
            if name in without and slot.state is not None:
                slot.state.metrics.counterfactual_contribution = accuracy - without[name][1]
            events += slot.end_epoch(accuracy, self.gates)
            if slot.state is not None and (member, name) in gradients:
                slot.state.sync_telemetry(*gradients[member, name], self.epoch_of(member), self.epochs)
        return self._stamp(events, member)

    def _roll_back(self, member: int, complaint: str) -> tuple[bool, list[TelemetryEvent]]:
        undone, is_retired = self.governor.roll_back(member, self.population)
        self.gardener.undo(member, undone)
        kinds = [TelemetryEventType.GOVERNOR_ROLLBACK]
        if is_retired:
            self.population.halt(member)
            kinds.append(TelemetryEventType.MEMBER_RETIRED)
        data = {"reason": complaint, "to_epoch": undone}
        happened = [TelemetryEvent(kind, message=complaint, data=dict(data)) for kind in kinds]
        return is_retired, self._stamp(happened, member)

    def _stamp(self, events: list[TelemetryEvent], member: int) -> list[TelemetryEvent]:
        for event in events:
            event.epoch, event.member = self.epoch_of(member), member
        return events

    def _report(
        self,
        member: int,
        trained: Score,
        validated: Score,
        without: Mapping[str, Score],
        best_before: float = 0.0,
    ) -> EpochReport:
        return member_report(
            self.population.models[member],
            self.gates,
            self.task.input_shape,
            trained,
            validated,
            without,
            member=member,
            epoch=self.epoch_of(member),
            max_epochs=self.epochs,
            best_val_accuracy=max(validated[1], best_before),
            rollbacks=self.governor.watches[member].rollbacks,
            is_twin=member >= self.grown,
        )

    # ---- keeping

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a resumed run needs, as tensors and plain values."""
        reports = [plain_report(report) for report in self.reports()]
        tensors, plain = split_snapshot("", take_snapshot(self.population))
        governor_snapshot = None
        if self.governor.snapshot is not None:
            kept, governor_snapshot = split_snapshot("governor/", self.governor.snapshot)
            tensors |= kept
        return tensors | pack_generators(self.passes.generators), {
            "epoch": self.epoch,
            "episodes": [list(astuple(episode)) for episode in self.episodes],
            "population": plain,
            "governor": self.governor.state() | {"snapshot": governor_snapshot},
            "growth_log": self.growth_log,
            "reports": reports,
        }

    def load_state(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken. Raises CheckpointError where it does not fit."""
        for member in list(self.population.halted):
            self.population.release(member)
        restore_snapshot(self.population, join_snapshot("", tensors, plain["population"]))
        governor = plain["governor"]
        kept = governor["snapshot"]
        self.governor.load_state(governor, None if kept is None else join_snapshot("governor/", tensors, kept))
        unpack_generators(self.passes.generators, tensors)
        self.epoch = plain["epoch"]
        self.episodes = [Episode(*values) for values in plain["episodes"]]
        self.gardener.log = list(plain["growth_log"])
        self._reports = {report.member: report for report in map(report_from_plain, plain["reports"])}
        for member, report in self._reports.items():
            if report.retired:
                self.population.halt(member)

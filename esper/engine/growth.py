"""The loop's other half: takes a controller's actions, trains an epoch, and reports what came of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

from torch import Tensor, nn

from esper.checkpoint import pack_generators, unpack_generators
from esper.engine.actions import Episode, SeedActions
from esper.engine.data_stream import Stream
from esper.engine.governor import Governor
from esper.engine.reports import UNKNOWN, Epoch, LastReports, Score, plain_report
from esper.engine.scores import Scores
from esper.engine.state.gradients import SeedGradients
from esper.engine.state.snapshot import join_snapshot, restore_snapshot, split_snapshot, take_snapshot
from esper.engine.state.view import Members
from esper.errors import EngineError
from esper.kasmina.events import is_refusal
from esper.kasmina.python_state import check_structure
from esper.kasmina.slot import QualityGates
from esper.leyline import WAIT, Action, EpochReport, SeedStage, TelemetryEvent, TelemetryEventType
from esper.leyline.controls import BACKWARD
from esper.tasks import Task

MEASURED = (SeedStage.BLENDING, SeedStage.PROBATIONARY)


class Growth:
    """A population that grows on a task, epoch by epoch; or a share of one, beside others that grow with it.

    `seconds` is the last epoch's wall time by part: train, validation, counterfactual.

    Args: population: its first `grown` members obey the controller, the rest are static twins (member grown + i is the
    twin of member i); seed: names every stream of random numbers; epochs: length of a member's course; fresh_host: the
    untrained host of member 0 in a run of a seed, for `restart`; decay_share: of a member's epochs, over which in the
    end the learning rate falls evenly; steps [M]: minibatches after which a member stands still, which may be within an
    epoch (None: all train to the end).
    """

    def __init__(
        self,
        population: Members,
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
        steps: Sequence[int] | None = None,
    ) -> None:
        self.population = population
        self.task = task
        self.gates = gates
        self.governor = governor
        self.seed_actions = SeedActions(population.models, gates, blueprints)
        self.grown = grown
        self.epochs = epochs
        self.stream = Stream(task, seed)
        self.batch_size = batch_size
        self.seed = seed
        self.seconds: dict[str, float] = {}
        self.fresh_host = fresh_host
        self.decay_share = decay_share
        self.steps_an_epoch = -(-task.epoch_size // batch_size)
        self.steps = None if steps is None else list(steps)
        self.training_flops = [0.0] * len(population)
        self.epoch = 0
        self.episodes = [Episode(seed, member) for member in self.member_ids]
        self._last = LastReports(population.models, gates, task.input_shape, grown, epochs)

    @property
    def done(self) -> bool:
        """Whether every epoch has been trained."""
        return self.epoch >= self.epochs

    @property
    def member_ids(self) -> range:
        """The members' numbers."""
        return range(len(self.population))

    @property
    def growth_log(self) -> list[dict[str, Any]]:
        """What was planted where, and when: one entry a seed, in epochs of its member."""
        return self.seed_actions.log

    def epoch_of(self, member: int) -> int:
        """Epochs that a member has trained since its own start."""
        return self.epoch - self.episodes[member].start

    def reports(self) -> list[EpochReport]:
        """Each member's last one. Raises EngineError where one is `unreported`."""
        if self.unreported:
            raise EngineError(f"members {self.unreported} are not reported yet: call EpochRunner([growth]).reports()")
        return self._last.all()

    @property
    def unreported(self) -> list[int]:
        """Members that have not been looked at since they began."""
        return self._last.missing

    def report_untrained(self, validated: Sequence[Score]) -> None:
        """Take what validation says of members that begin."""
        begun = self.unreported
        self.governor.start({member: validated[member].loss for member in begun})
        for member in begun:
            self._last.note(member, UNKNOWN, validated[member], {}, **self._counts(member))

    def restart(self, members: Sequence[int], seeds: Sequence[int]) -> None:
        """These members begin anew, and the others go on undisturbed.

        Each has the first weights that member 0 of a run of its seed has; the data is the population's. Raises
        EngineError where this growth was not told how hosts are made.
        """
        if self.fresh_host is None:
            raise EngineError("Growth.restart: no fresh_host was given")
        self.population.restart({e: self.fresh_host(seed) for e, seed in zip(members, seeds, strict=True)})
        for member, seed in zip(members, seeds, strict=True):
            self.seed_actions.undo(member)
            self.episodes[member] = Episode(seed, 0, self.epoch)
            self.training_flops[member] = 0.0
            self._last.forget(member)

    @property
    def local_growth(self) -> "Growth":
        """Of the members that this process trains: all of them."""
        return self

    def all_scores(self, scores: Scores) -> Scores:
        """Of all members, from those of this process's."""
        return scores

    # ---- one epoch's parts, in their order; `esper.engine.epoch` trains and validates in between

    def begin(self, actions: Sequence[Action]) -> Epoch:
        """Do what is asked of each member, before the epoch's training."""
        before = self.reports()
        self.epoch += 1
        self.seconds = {}
        self.governor.before_epoch([self.epoch_of(member) for member in self.member_ids], self.population)
        asked = [
            action if member < self.grown and not before[member].retired else WAIT
            for member, action in enumerate(actions)
        ]
        events = [event for member, action in enumerate(asked) for event in self._act(member, action)]
        self._count_flops()
        return Epoch(before, asked, events, {event.member for event in events if is_refusal(event)})

    def rate_factors(self) -> list[float]:
        """The share of its learning rate that each member trains at in this epoch of its own; never 0."""
        factors = []
        for member in self.member_ids:
            epochs = self.epochs if self.steps is None else -(-self.steps[member] // self.steps_an_epoch)
            left = max(1, epochs - self.epoch_of(member) + 1)
            factors.append(min(1.0, left / (round(self.decay_share * epochs) + 1)))
        return factors

    def ends(self) -> dict[int, int]:
        """Members that train to their end in this epoch, and after how many of its minibatches they stand still."""
        left = [steps - (self.epoch - 1) * self.steps_an_epoch for steps in self.steps or ()]
        return {member: steps for member, steps in enumerate(left) if 0 < steps <= self.steps_an_epoch}

    def seeds_to_ablate(self) -> list[tuple[int, str]]:
        """(member, slot) of the seeds whose worth is asked for."""
        return [
            (member, name)
            for member, model in enumerate(self.population.models)
            for name, slot in model.slots.items()
            if slot.stage in MEASURED
        ]

    def settle(
        self,
        epoch: Epoch,
        trained: list[Score],
        validated: Sequence[Score],
        without: list[dict[str, Score]],
        gradients: SeedGradients,
    ) -> None:
        """End the epoch of every seed, or put a member back whose training went wrong."""
        epoch.trained, epoch.validated, epoch.without = trained, validated, without
        for member in self.member_ids:
            if epoch.before[member].retired:
                continue
            reached = validated[member]
            reason = self.governor.failure_reason(member, trained[member].loss, reached.loss, reached.score)
            if reason is None:
                epoch.events += self._end_epoch(member, reached.score, without[member], gradients)
            else:
                epoch.is_retired[member], happened = self._roll_back(member, reason)
                epoch.events += happened

    def conclude(self, epoch: Epoch, now: Sequence[Score]) -> tuple[list[EpochReport], list[TelemetryEvent]]:
        """Report every member, and one that was put back as what it is now."""
        for member, earlier in enumerate(epoch.before):
            is_back = member in epoch.is_retired
            left_out = {} if is_back else epoch.without[member]
            self._last.note(
                member,
                epoch.trained[member],
                (now if is_back else epoch.validated)[member],
                left_out,
                earlier.best_val_accuracy,
                rolled_back=is_back,
                retired=epoch.is_retired.get(member, earlier.retired),
                action=epoch.asked[member],
                is_refused=member in epoch.refused,
                **self._counts(member),
            )
        return self.reports(), sorted(epoch.events, key=lambda event: event.member or 0)

    def _count_flops(self) -> None:
        """Of the epoch that begins, in which each member trains as it is now."""
        ends = self.ends()
        for member in set(self.member_ids) - self.population.halted:
            samples = min(self.task.epoch_size, ends.get(member, self.steps_an_epoch) * self.batch_size)
            flops = self.population.models[member].flops_per_sample(self.task.input_shape)
            self.training_flops[member] += float(BACKWARD * samples * flops)

    def _act(self, member: int, action: Action) -> list[TelemetryEvent]:
        events = self.seed_actions.act(member, action, self.episodes[member], self.epoch_of(member))
        return self._stamp(events, member)

    def _end_epoch(
        self, member: int, score: float, without: Mapping[str, Score], gradients: SeedGradients
    ) -> list[TelemetryEvent]:
        events: list[TelemetryEvent] = []
        for name, slot in self.population.models[member].slots.items():
            if name in without and slot.state is not None:
                slot.state.metrics.counterfactual_contribution = score - without[name].score
            events += slot.end_epoch(score, self.gates)
            if slot.state is not None and (member, name) in gradients:
                slot.state.sync_telemetry(*gradients[member, name], self.epoch_of(member), self.epochs)
        return self._stamp(events, member)

    def _roll_back(self, member: int, reason: str) -> tuple[bool, list[TelemetryEvent]]:
        undone, is_retired = self.governor.roll_back(member, self.population)
        self.seed_actions.undo(member, undone)
        kinds = [TelemetryEventType.GOVERNOR_ROLLBACK]
        if is_retired:
            self.population.halt(member)
            kinds.append(TelemetryEventType.MEMBER_RETIRED)
        data = {"reason": reason, "to_epoch": undone}
        happened = [TelemetryEvent(kind, message=reason, data=dict(data)) for kind in kinds]
        return is_retired, self._stamp(happened, member)

    def _stamp(self, events: list[TelemetryEvent], member: int) -> list[TelemetryEvent]:
        for event in events:
            event.epoch, event.member = self.epoch_of(member), member
        return events

    def _counts(self, member: int) -> dict[str, Any]:
        return {
            "epoch": self.epoch_of(member),
            "rollbacks": self.governor.monitors[member].rollbacks,
            "training_flops": self.training_flops[member],
        }

    # ---- keeping

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a resumed run needs, as tensors and plain values."""
        reports = [plain_report(report) for report in self.reports()]
        for model, made_of in zip(self.population.models, self.population.initial_structures, strict=True):
            check_structure(model, made_of)
        tensors, plain = split_snapshot("", take_snapshot(self.population))
        kept, governor = self.governor.state()
        return tensors | kept | pack_generators(self.stream.generators), {
            "epoch": self.epoch,
            "episodes": [list(astuple(episode)) for episode in self.episodes],
            "population": plain,
            "governor": governor,
            "growth_log": self.growth_log,
            "reports": reports,
        }

    def load_state(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken. Raises CheckpointError where it does not fit."""
        for member in list(self.population.halted):
            self.population.release(member)
        restore_snapshot(self.population, join_snapshot("", tensors, plain["population"]))
        self.governor.load_state(tensors, plain["governor"])
        unpack_generators(self.stream.generators, tensors)
        self.epoch = plain["epoch"]
        self.episodes = [Episode(*values) for values in plain["episodes"]]
        self.seed_actions.log = list(plain["growth_log"])
        self._last.load_state(plain["reports"])
        for member, report in enumerate(self.reports()):
            self.training_flops[member] = report.training_flops
            is_over = self.steps is not None and self.steps[member] <= self.epoch * self.steps_an_epoch
            if report.retired or is_over:
                self.population.halt(member)

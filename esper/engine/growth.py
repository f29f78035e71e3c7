"""The loop's other half: takes a controller's actions, trains an epoch, and reports what came of it."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from esper.checkpoint import pack_generators, unpack_generators
from esper.engine.governor import Governor
from esper.engine.gradients import row_statistics
from esper.engine.population import Population, Scores
from esper.engine.reporting import (
    Ablation,
    join_snapshot,
    plain_report,
    report_from_plain,
    slot_report,
    split_snapshot,
)
from esper.engine.snapshot import restore_snapshot, take_snapshot
from esper.engine.stacks import HOST
from esper.errors import EsperError
from esper.kasmina.events import gate_evaluated, is_refusal, stage_changed
from esper.kasmina.slot import QualityGates, SeedSlot
from esper.leyline import (
    ADVANCES,
    WAIT,
    Action,
    EpochReport,
    Operation,
    SeedStage,
    TelemetryEvent,
    TelemetryEventType,
)
from esper.tasks import Task
from esper.tasks.task import named_generator

MEASURED = (SeedStage.BLENDING, SeedStage.PROBATIONARY)


class Growth:
    """A population that grows on a task, epoch by epoch.

    Args: population: its first `grown` members obey the controller, the rest are static twins (member grown + i is the
    twin of member i); seed: names every stream of random numbers; epochs: length of the run.
    `seconds` holds the last epoch's wall time by part: train, validation, counterfactual.
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
    ) -> None:
        self.population = population
        self.task = task
        self.gates = gates
        self.governor = governor
        self.grown = grown
        self.epochs = epochs
        self.batch_size = batch_size
        self.blueprints = tuple(blueprints)
        self.seed = seed
        self.epoch = 0
        self.generators = {name: named_generator(seed, name) for name in ("order", "examples")}
        self.growth_log: list[dict[str, Any]] = []
        self.seconds: dict[str, float] = {}
        self._reports: list[EpochReport] = []

    @property
    def done(self) -> bool:
        """Whether every epoch has been trained."""
        return self.epoch >= self.epochs

    def reports(self) -> list[EpochReport]:
        """The last epoch's reports; before the first one, those of the untrained hosts."""
        if not self._reports:
            scores = self._timed("validation", lambda: self._validate([])[0])
            unknown = Scores(torch.full_like(scores.loss, math.nan), torch.full_like(scores.accuracy, math.nan))
            self._reports = [self._report(e, unknown, scores, {}) for e in range(len(self.population))]
            self.governor.start([report.val_loss for report in self._reports])
        return self._reports

    def step(self, actions: Sequence[Action]) -> tuple[list[EpochReport], list[TelemetryEvent]]:
        """Act, train one epoch, validate, and settle every seed's stage. One action a member."""
        self.reports()
        self.epoch += 1
        self.seconds = {}
        events: list[TelemetryEvent] = []
        self.governor.before_epoch(self.epoch, self.population)
        asked = [
            action if member < self.grown and not self._reports[member].retired else WAIT
            for member, action in enumerate(actions)
        ]
        for member, action in enumerate(asked):
            events += self._stamp(self._act(member, action), member)
        refused = {event.member for event in events if is_refusal(event)}
        self.population.sync_topology()
        trained = self._timed("train", self._train)
        live = [
            (member, name)
            for member, model in enumerate(self.population.models)
            for name, slot in model.slots.items()
            if slot.stage in MEASURED
        ]
        validated, without = self._timed("validation", lambda: self._validate(live))
        gradients = self._gradients()
        is_retired: dict[int, bool] = {}  # of members that are put back this epoch
        for member, model in enumerate(self.population.models):
            loss, accuracy = float(validated.loss[member]), float(validated.accuracy[member])
            retired = self._reports[member].retired
            complaint = self.governor.complaint(member, float(trained.loss[member]), loss, accuracy)
            if complaint is not None and not retired:
                is_retired[member], happened = self._roll_back(member, complaint)
                events += happened
            elif not retired:
                for name, slot in model.slots.items():
                    if (member, name) in without and slot.state is not None:
                        slot.state.metrics.counterfactual_contribution = accuracy - without[member, name][1]
                    events += self._stamp(slot.end_epoch(accuracy, self.gates), member)
                    if slot.state is not None and (member, name) in gradients:
                        slot.state.sync_telemetry(*gradients[member, name], self.epoch, self.epochs)
        self.population.sync_topology()
        # A member that was put back is reported as what it is now.
        restored = self._validate([])[0] if is_retired else validated
        reports = []
        for member, before in enumerate(self._reports):
            is_back = member in is_retired
            report = self._report(member, trained, restored if is_back else validated, {} if is_back else without)
            report.rolled_back, report.retired = is_back, is_retired.get(member, before.retired)
            report.action, report.is_refused = asked[member], member in refused
            reports.append(report)
        self._reports = reports
        return reports, events

    def test(self) -> Scores:
        """Loss and accuracy of every member on the test split."""
        return self.population.evaluate(self.task.test_x, self.task.test_y)[0]

    # ---- one epoch's parts

    def _act(self, member: int, action: Action) -> list[TelemetryEvent]:
        """Do what was asked, or say why not; a refused action is a wait."""
        if action.operation is Operation.WAIT:
            return []
        slot = self.population.models[member].slots.get(action.slot)
        try:
            if slot is None:
                known = ", ".join(self.population.models[member].slots)
                raise EsperError(f"no slot {action.slot!r}: this host has {known}")
            match action.operation:
                case Operation.GERMINATE:
                    return self._germinate(member, slot, action)
                case Operation.ADVANCE:
                    return self._advance(slot, action.reason)
                case Operation.CULL:
                    return slot.cull(action.reason)
        except EsperError as error:
            return [
                TelemetryEvent(
                    TelemetryEventType.ACTION_REFUSED,
                    slot_id=action.slot,
                    message=str(error),
                    data={"operation": action.operation.name, "blueprint": action.blueprint},
                )
            ]

    def _germinate(self, member: int, slot: SeedSlot, action: Action) -> list[TelemetryEvent]:
        if action.blueprint not in self.blueprints:
            raise EsperError(f"blueprint {action.blueprint!r} is not among this run's: {', '.join(self.blueprints)}")
        seed_id = f"m{member}-{slot.slot_id}-e{self.epoch}"
        generator = named_generator(self.seed, f"seed/{seed_id}")
        host = self.population.models[member].host
        state = slot.germinate(action.blueprint, seed_id, host, action.blend, generator)
        self.growth_log.append(
            {
                "epoch": self.epoch,
                "member": member,
                "slot": slot.slot_id,
                "seed": seed_id,
                "blueprint": action.blueprint,
                "blend": action.blend,
                "reason": action.reason,
            }
        )
        return stage_changed(state, action.reason) + slot.begin_training(self.gates)

    def _advance(self, slot: SeedSlot, reason: str) -> list[TelemetryEvent]:
        target = ADVANCES.get(slot.stage)
        result, state = slot.advance(self.gates), slot.state
        assert state is not None and target is not None
        return [gate_evaluated(state, result, target), *(stage_changed(state, reason) if result.passed else [])]

    def _train(self) -> Scores:
        order = torch.randperm(self.task.epoch_size, generator=self.generators["order"])
        x, y = self.task.epoch_data(self.epoch, self.generators["examples"])
        return self.population.train_epoch(x, y, order.to(x.device), self.batch_size)

    def _validate(self, live: Sequence[tuple[int, str]]) -> tuple[Scores, dict[tuple[int, str], tuple[float, float]]]:
        scores, without, seconds = self.population.evaluate(self.task.val_x, self.task.val_y, live)
        self.seconds["counterfactual"] = seconds
        return Scores(scores.loss.cpu(), scores.accuracy.cpu()), without

    def _timed(self, part: str, work: Any) -> Any:
        started = time.perf_counter()
        result = work()
        if self.population.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[part] = time.perf_counter() - started
        if part == "validation":
            self.seconds[part] -= self.seconds.get("counterfactual", 0.0)
        return result

    def _gradients(self) -> dict[tuple[int, str], tuple[float, float, bool, bool]]:
        """(member, slot) -> mean norm, health, vanishing, exploding of the seed's last gradients.

        Their size beside the host's, and whether they are finite, goes into the seed's state at once: gates ask for it.
        """
        found: dict[tuple[int, str], tuple[float, float, bool, bool]] = {}
        host = row_statistics(self.population.last_gradients[HOST].values()).total_norm
        for name, gradients in self.population.last_gradients.items():
            if name == HOST or name.endswith(".gate"):
                continue
            stack, slot = self.population.stacks[name], name.split(".")[1]
            statistics = row_statistics(gradients.values())
            ratios = statistics.total_norm / (host[stack.members] + 1e-12)
            columns = (statistics.mean_norm, statistics.health, statistics.has_vanishing, statistics.has_exploding)
            for member, ratio, *figures in zip(stack.members, *(c.tolist() for c in (ratios, *columns)), strict=True):
                state = self.population.models[member].slots[slot].state
                assert state is not None
                norm, health, vanishing, exploding = figures
                state.is_healthy &= math.isfinite(norm)
                state.metrics.seed_gradient_norm_ratio = ratio if math.isfinite(ratio) else 0.0
                found[member, slot] = (norm if math.isfinite(norm) else 0.0, health, vanishing, exploding)
        return found

    def _roll_back(self, member: int, complaint: str) -> tuple[bool, list[TelemetryEvent]]:
        retired = self.governor.roll_back(member, self.population)
        undone = self.governor.snapshot_epoch
        self.growth_log = [e for e in self.growth_log if e["member"] != member or e["epoch"] <= undone]
        kinds = [TelemetryEventType.GOVERNOR_ROLLBACK]
        if retired:
            self.population.halt(member)
            kinds.append(TelemetryEventType.MEMBER_RETIRED)
        data = {"reason": complaint, "to_epoch": undone}
        return retired, self._stamp(
            [TelemetryEvent(kind, message=complaint, data=dict(data)) for kind in kinds], member
        )

    def _stamp(self, events: list[TelemetryEvent], member: int) -> list[TelemetryEvent]:
        for event in events:
            event.epoch, event.member = self.epoch, member
        return events

    def _report(
        self,
        member: int,
        trained: Scores,
        validated: Scores,
        without: Mapping[tuple[int, str], Ablation],
    ) -> EpochReport:
        model = self.population.models[member]
        before = self._reports[member] if self._reports else None
        accuracy, loss = float(validated.accuracy[member]), float(validated.loss[member])
        return EpochReport(
            member=member,
            epoch=self.epoch,
            max_epochs=self.epochs,
            train_loss=float(trained.loss[member]),
            train_accuracy=float(trained.accuracy[member]),
            val_loss=loss,
            val_accuracy=accuracy,
            best_val_accuracy=max(accuracy, before.best_val_accuracy if before else 0.0),
            parameter_count=model.parameter_count(),
            flops_per_sample=model.flops_per_sample(self.task.input_shape),
            slots={
                name: slot_report(slot, self.gates, loss, accuracy, without.get((member, name)))
                for name, slot in model.slots.items()
            },
            rollbacks=self.governor.watches[member].rollbacks if self.governor.watches else 0,
            is_twin=member >= self.grown,
        )

    # ---- keeping

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a resumed run needs, as tensors and plain values."""
        tensors, plain = split_snapshot("", take_snapshot(self.population))
        governor_snapshot = None
        if self.governor.snapshot is not None:
            kept, governor_snapshot = split_snapshot("governor/", self.governor.snapshot)
            tensors |= kept
        return tensors | pack_generators(self.generators), {
            "epoch": self.epoch,
            "population": plain,
            "governor": self.governor.state() | {"snapshot": governor_snapshot},
            "growth_log": self.growth_log,
            "reports": [plain_report(report) for report in self.reports()],
        }

    def load_state(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken. Raises CheckpointError where it does not fit."""
        restore_snapshot(self.population, join_snapshot("", tensors, plain["population"]))
        governor = plain["governor"]
        kept = governor["snapshot"]
        self.governor.load_state(governor, None if kept is None else join_snapshot("governor/", tensors, kept))
        unpack_generators(self.generators, tensors)
        self.epoch = plain["epoch"]
        self.growth_log = list(plain["growth_log"])
        self._reports = [report_from_plain(report) for report in plain["reports"]]
        for report in self._reports:
            if report.retired:
                self.population.halt(report.member)

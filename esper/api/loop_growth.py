"""The growth of one network in a loop of one's own: what happens at the end of an epoch, and what is kept of it."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from esper.api.loop_governor import LoopGovernor
from esper.api.optimizer_groups import OptimizerGroups
from esper.api.scores import Evaluate, reached_by, scores_without
from esper.api.seed_gradients import note, seed_gradients
from esper.engine.actions import Episode, SeedActions
from esper.engine.reports import UNKNOWN, Score, member_report, plain_report, report_from_plain
from esper.errors import CheckpointError
from esper.files import checked
from esper.files.shapes import ANY, Count
from esper.kasmina import MorphogeneticModel, SlotConfig
from esper.leyline import LEAST_SCORE, Controller, EpochReport, TelemetryEvent, TelemetryEventType

SLOTS = SlotConfig(embargo_epochs=2)  # as conf/slots has it
_STATE = {
    "epoch": Count(1 << 31),
    "steps": Count(1 << 53),
    "report": (dict, None),
    "log": [dict],
    "controller": dict,
    "slots": {ANY: {"is_finite": bool, "gradients": ([float], None)}},
    "governor": (dict, None),
}


class LoopGrowth:
    """Lets seeds move on, asks the policy, and does what it asks for.

    Args: model: the loop's network; grown: the same, with its slots; input_shape: of one example; epochs: of the whole
    loop; seed: of the seeds' weights. `steps`: counted since the last epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        grown: MorphogeneticModel,
        controller: Controller,
        actions: SeedActions,
        governor: LoopGovernor | None,
        groups: OptimizerGroups | None,
        *,
        input_shape: Sequence[int],
        epochs: int,
        blending_epochs: int,
        seed: int,
    ) -> None:
        self.model, self.grown, self.controller, self.actions = model, grown, controller, actions
        self.governor, self.groups = governor, groups
        self.report: EpochReport | None = None
        self.epoch = self.steps = 0
        self._input_shape, self._epochs, self._blending_epochs = input_shape, epochs, blending_epochs
        self._episode = Episode(seed, 0)
        self._gradients: dict[str, Tensor] = {}

    @property
    def retired(self) -> bool:
        """Whether nothing grows any more."""
        return self.governor is not None and self.governor.is_retired

    def begin(self, is_shown: bool) -> None:
        """Before any training. Args: is_shown: whether the policy is told of the network as it is, and not asked."""
        if is_shown:
            self.controller.act([self._report(UNKNOWN, UNKNOWN, {})])
        self._keep()

    def step(self) -> None:
        """Count a training step, whose gradients are still there."""
        self._gradients = seed_gradients(self.grown)
        self.steps += 1
        for slot in self.grown.slots.values():
            slot.step()

    def end_epoch(
        self, validated: Score, trained: Score | None, evaluate: Evaluate | None, with_loss: bool
    ) -> list[TelemetryEvent]:
        """What has happened, in order. Args: trained: None: not told; with_loss: whether `evaluate` has to tell it."""
        if self.retired:
            return []
        reason = None if self.governor is None else self.governor.failure_reason(trained, validated)
        without: dict[str, Score] = {}
        if evaluate is not None and reason is None:
            without = scores_without(self.model, self.grown.slots, evaluate, with_loss)
        self.epoch += 1
        if reason is None:
            events = self._settle(validated.score, without)
        else:
            events, validated = self._roll_back(reason, evaluate, with_loss)
        self.steps, self._gradients = 0, {}
        self.report = self._report(trained or UNKNOWN, validated, without, reason is not None)
        self._keep()
        asked = [] if self.retired else self._ask(self.report)
        for event in events + asked:
            event.epoch, event.member = self.epoch + (event in asked), 0
        return events + asked

    # ---- its parts

    def _settle(self, score: float, without: Mapping[str, Score]) -> list[TelemetryEvent]:
        """End the epoch of every seed."""
        blending = replace(SLOTS, blending_steps=self._blending_epochs * self.steps, cull_steps=self.steps)
        events: list[TelemetryEvent] = []
        for name, slot in self.grown.slots.items():
            slot.config = blending
            if slot.state is not None and name in without:
                slot.state.metrics.counterfactual_contribution = score - without[name].score
            if slot.state is not None and name in self._gradients:
                note(slot.state, self._gradients[name].tolist(), self.epoch, self._epochs)
            events += slot.end_epoch(score, self.actions.gates)
        return events

    def _ask(self, report: EpochReport) -> list[TelemetryEvent]:
        """Let the policy decide, and do it."""
        (action,) = self.controller.act([report])
        happened = self.actions.act(0, action, self._episode, self.epoch + 1)
        if self.groups is not None:
            self.groups.sync()
        return happened

    def _keep(self) -> None:
        """Let the governor copy the network, where that is due."""
        if self.governor is not None and not self.retired:
            score = None if self.report is None else [self.report.val_loss, self.report.val_accuracy]
            finite = {name: bool(slot.seed_is_finite) for name, slot in self.grown.slots.items()}
            self.governor.keep(self.epoch, self.groups, {"log": self.actions.log, "finite": finite, "score": score})

    def _roll_back(self, reason: str, evaluate: Evaluate | None, with_loss: bool) -> tuple[list[TelemetryEvent], Score]:
        """Put the network back; the epoch is spent, and what the policy remembers stays. And what it reaches now."""
        assert self.governor is not None
        undone, kept = self.governor.roll_back(self.groups)
        self.actions.log = kept["log"]
        for name, is_finite in kept["finite"].items():
            self.grown.slots[name].seed_is_finite = is_finite
        kinds = [TelemetryEventType.GOVERNOR_ROLLBACK, *([TelemetryEventType.MEMBER_RETIRED] if self.retired else [])]
        events = [TelemetryEvent(kind, message=reason, data={"reason": reason, "to_epoch": undone}) for kind in kinds]
        if evaluate is not None:
            return events, reached_by(self.model, self.grown.device, evaluate, with_loss, may_diverge=True)
        return events, Score(*kept["score"]) if kept["score"] else UNKNOWN

    def _report(
        self, trained: Score, validated: Score, without: Mapping[str, Score], is_back: bool = False
    ) -> EpochReport:
        known = [validated.score, *([] if self.report is None else [self.report.best_val_accuracy])]
        return member_report(
            self.grown,
            self.actions.gates,
            self._input_shape,
            trained,
            validated,
            without,
            member=0,
            epoch=self.epoch,
            max_epochs=self._epochs,
            best_val_accuracy=max((score for score in known if score == score), default=LEAST_SCORE),
            rolled_back=is_back,
            rollbacks=0 if self.governor is None else self.governor.rollbacks,
            retired=self.retired,
        )

    # ---- keeping

    def state(self) -> dict[str, Any]:
        """All that decides what comes next, but for network and optimizer; copies."""
        figures = {name: gradients.tolist() for name, gradients in self._gradients.items()}
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "report": None if self.report is None else plain_report(self.report),
            "log": copy.deepcopy(self.actions.log),
            "controller": copy.deepcopy(self.controller.state_dict()),
            "slots": {
                name: {"is_finite": bool(slot.seed_is_finite), "gradients": figures.get(name)}
                for name, slot in self.grown.slots.items()
            },
            "governor": None if self.governor is None else self.governor.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. Raises: EsperError where it is of another growth."""
        plain = copy.deepcopy(checked({name: state[name] for name in _STATE}, _STATE, "state"))
        slots = self.grown.slots
        if plain["slots"].keys() != slots.keys():
            raise CheckpointError(f"its slots are {', '.join(plain['slots'])}; here: {', '.join(slots)}")
        if (plain["governor"] is None) != (self.governor is None):
            raise CheckpointError(f"governor: it has {'none' if plain['governor'] is None else 'one'}, unlike this one")
        if self.governor is not None:
            self.governor.load_state(plain["governor"])
        self.controller.load_state_dict(plain["controller"])
        self.epoch, self.steps = plain["epoch"], plain["steps"]
        self.actions.log = plain["log"]
        self.report = None if plain["report"] is None else report_from_plain(plain["report"])
        of_slots = plain["slots"].items()
        for name, of_slot in of_slots:
            slots[name].seed_is_finite = of_slot["is_finite"]
        self._gradients = {name: torch.tensor(kept["gradients"]) for name, kept in of_slots if kept["gradients"]}

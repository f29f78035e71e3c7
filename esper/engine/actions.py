"""Does with seeds what a controller asks for, or says why not, and keeps a log of what was planted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from esper.errors import EsperError
from esper.kasmina.events import gate_evaluated, stage_changed
from esper.kasmina.host import MorphogeneticModel
from esper.kasmina.slot import QualityGates, SeedSlot
from esper.leyline import ADVANCES, Action, Operation, TelemetryEvent, TelemetryEventType
from esper.tasks.task import named_generator


@dataclass(frozen=True, slots=True)
class Episode:
    """One course of a member, from an untrained host on.

    It is what a run of this seed gives its member of this number: first weights, and the names and weights of seeds.
    start: epochs that the population had trained before it.
    """

    seed: int
    number: int
    start: int = 0


class SeedActions:
    """Acts on the seeds of some members between two epochs.

    Args: models: the members; blueprints: that may be planted. `log` has an entry for each seed that is or was in a
    member since it began.
    """

    def __init__(self, models: Sequence[MorphogeneticModel], gates: QualityGates, blueprints: Sequence[str]) -> None:
        self.models = models
        self.gates = gates
        self.blueprints = tuple(blueprints)
        self.log: list[dict[str, Any]] = []

    def act(self, member: int, action: Action, episode: Episode, epoch: int) -> list[TelemetryEvent]:
        """Do what is asked before this epoch of a member's episode; a refused action is a wait."""
        if action.operation is Operation.WAIT:
            return []
        slot = self.models[member].slots.get(action.slot)
        try:
            if slot is None:
                raise EsperError(f"no slot {action.slot!r}: this host has {', '.join(self.models[member].slots)}")
            match action.operation:
                case Operation.GERMINATE:
                    return self._germinate(member, slot, action, episode, epoch)
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

    def undo(self, member: int, epoch: int = -1) -> None:
        """Take out of the log what was planted in a member after this epoch (-1: everything)."""
        self.log = [entry for entry in self.log if entry["member"] != member or entry["epoch"] <= epoch]

    def _germinate(
        self, member: int, slot: SeedSlot, action: Action, episode: Episode, epoch: int
    ) -> list[TelemetryEvent]:
        if action.blueprint not in self.blueprints:
            raise EsperError(f"blueprint {action.blueprint!r} is not among this run's: {', '.join(self.blueprints)}")
        seed_id = f"m{episode.number}-{slot.slot_id}-e{epoch}"
        generator = named_generator(episode.seed, f"seed/{seed_id}")
        state = slot.germinate(action.blueprint, seed_id, self.models[member].host, action.blend, generator)
        self.log.append(
            {
                "epoch": epoch,
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

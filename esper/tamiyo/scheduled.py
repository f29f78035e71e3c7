"""Growth by timetable: plant and advance at fixed epochs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from esper.errors import ConfigError
from esper.files import checked
from esper.files.shapes import ANY
from esper.leyline import WAIT, Action, EpochReport, Operation, SeedStage
from esper.tamiyo.settings import POLICIES, Catalogue, PolicyConfig, check_blend, check_in_catalogue

_TIMETABLES = ("plant_epochs", "blend_epochs", "fossilize_epochs")


@dataclass(kw_only=True)
class ScheduledPolicyConfig(PolicyConfig):
    """When each slot's seed is planted, blended and fossilised; the n-th entry is for the n-th slot by depth.

    blueprints: starts again from its first entry where there are more slots. Timetables may be longer than there are
    slots, not shorter.
    """

    name: str = "scheduled"
    blend: str = "sigmoid"
    blueprints: list[str] = field(default_factory=lambda: ["conv_light"])
    plant_epochs: list[int] = field(default_factory=lambda: [2, 3, 4])
    blend_epochs: list[int] = field(default_factory=lambda: [5, 6, 7])
    fossilize_epochs: list[int] = field(default_factory=lambda: [11, 12, 13])

    def __post_init__(self) -> None:
        check_blend("blend", self.blend)
        if not self.blueprints:
            raise ConfigError("policy.blueprints=[]: expected at least one blueprint")
        rows = [getattr(self, key) for key in _TIMETABLES]
        if len({len(row) for row in rows}) > 1:
            lengths = ", ".join(f"policy.{key} has {len(getattr(self, key))}" for key in _TIMETABLES)
            raise ConfigError(f"{lengths}: expected one entry a slot in each")
        for index, (plant, blend, fossilize) in enumerate(zip(*rows, strict=True)):
            if not 1 <= plant < blend < fossilize:
                raise ConfigError(
                    f"policy.plant_epochs, blend_epochs, fossilize_epochs [{index}] = {plant}, {blend}, {fossilize}: "
                    "expected rising epochs from 1 on"
                )


@dataclass(frozen=True, slots=True)
class _Entry:
    epoch: int
    stage: SeedStage  # in which the slot must be
    action: Action


class FixedSchedule:
    """Follows one timetable for every member; one action a member an epoch, so what coincides is done later.

    An entry is asked for from its epoch on until it has happened (a gate may refuse); entries never yet asked for go
    first. A seed that was lost is not planted again.

    Args:
        slots: slot names by depth.

    Raises:
        BlueprintError: a blueprint is not in the catalogue. ConfigError: fewer entries than slots.
    """

    def __init__(self, catalogue: Catalogue, slots: Sequence[str], config: ScheduledPolicyConfig | None = None) -> None:
        config = config or ScheduledPolicyConfig()
        for blueprint in config.blueprints:
            check_in_catalogue("blueprints", blueprint, catalogue)
        if len(config.plant_epochs) < len(slots):
            raise ConfigError(
                f"policy.plant_epochs has {len(config.plant_epochs)} entries for {len(slots)} slots "
                f"({', '.join(slots)}): expected one a slot, as in blend_epochs and fossilize_epochs"
            )
        entries: list[_Entry] = []
        for index, slot in enumerate(slots):
            blueprint = config.blueprints[index % len(config.blueprints)]
            planted = config.plant_epochs[index]
            plant = Action(Operation.GERMINATE, slot, blueprint, config.blend, _due(planted))
            entries += [
                _Entry(planted, SeedStage.DORMANT, plant),
                _advance(config.blend_epochs[index], SeedStage.TRAINING, slot),
                _advance(config.fossilize_epochs[index], SeedStage.PROBATIONARY, slot),
            ]
        self._entries = sorted(entries, key=lambda entry: entry.epoch)
        self._asked: dict[int, list[int]] = {}  # by member: how often each entry was asked for

    def act(self, reports: Sequence[EpochReport]) -> list[Action]:
        """One action a report, in the same order."""
        return [self._decide(report) for report in reports]

    def state_dict(self) -> dict[str, Any]:
        """How often each entry was asked for, by member."""
        return {"asked": {str(member): list(counts) for member, counts in self._asked.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        asked = checked(state["asked"], {ANY: [int]}, "asked")
        self._asked = {int(member): list(counts) for member, counts in asked.items()}

    def _decide(self, report: EpochReport) -> Action:
        if report.is_twin or report.retired:
            return WAIT
        asked = self._asked.setdefault(report.member, [0] * len(self._entries))
        due = [
            index
            for index, entry in enumerate(self._entries)
            if entry.epoch <= report.epoch + 1
            and report.slots[entry.action.slot].stage is entry.stage
            and not (entry.action.operation is Operation.GERMINATE and asked[index])
        ]
        if not due:
            return WAIT
        chosen = min(due, key=lambda index: asked[index])
        asked[chosen] += 1
        return self._entries[chosen].action


def _advance(epoch: int, stage: SeedStage, slot: str) -> _Entry:
    return _Entry(epoch, stage, Action(Operation.ADVANCE, slot, reason=_due(epoch)))


def _due(epoch: int) -> str:
    return f"the schedule says epoch {epoch}"


@POLICIES.register("scheduled", ScheduledPolicyConfig)
def build_scheduled(config: ScheduledPolicyConfig, catalogue: Catalogue, slots: Sequence[str]) -> FixedSchedule:
    """The timetable. Args: slots: names by depth."""
    return FixedSchedule(catalogue, slots, config)

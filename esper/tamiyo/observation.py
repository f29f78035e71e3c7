"""What a learned controller sees and may do: reports as features, legal actions as a mask."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from math import nan
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper.errors import EsperError
from esper.files import checked
from esper.leyline import ActionLayout, EpochReport, SeedStage, SeedStateReport
from esper.tamiyo.feature_table import HOST_FEATURES, SLOT_FEATURES, Feature, blueprint_features, observation_names
from esper.tamiyo.masks import legal_actions
from esper.tamiyo.settings import Catalogue
from esper.tamiyo.signals import SignalTracker

# Raw columns: every number of a report, a slot and the signals; the last group is added here.
_NUMBERS = (int, float, bool, float | None, SeedStage)
_REPORT = [entry.name for entry in fields(EpochReport) if entry.type in _NUMBERS]
_SLOT = [entry.name for entry in fields(SeedStateReport) if entry.type in _NUMBERS]
_SIGNALS = ["accuracy_delta", "loss_delta", "smoothed_improvement", "plateau_epochs"]
_COURSE = ["validations", "host_parameters", "host_flops"]
_of_report, _of_signals, _of_slot = attrgetter(*_REPORT), attrgetter(*_SIGNALS), attrgetter(*_SLOT)


@dataclass(slots=True)
class _Course:
    """One member's episode so far: its trends, and the size of the untrained host (NaN where that was not seen)."""

    tracker: SignalTracker = field(default_factory=SignalTracker)
    host_parameters: float = nan
    host_flops: float = nan


class ObservationEncoder:
    """Turns reports into feature vectors; docs/observations.md explains each feature.

    It follows every member from its report of epoch 0 on, which begins a new episode. A report that is encoded again
    gives the same features again.

    Args: slots: names by depth; catalogue: (blueprint, parameters) of everything that may be planted.
    `names` holds the [F] features in order.
    """

    def __init__(self, slots: Sequence[str], catalogue: Catalogue) -> None:
        self.slots = tuple(slots)
        blueprints = [name for name, _ in catalogue]
        self.names = observation_names(self.slots, blueprints)
        self._numbers = {name: number for number, name in enumerate(blueprints)}
        self._slot_features = (*SLOT_FEATURES, *blueprint_features(blueprints))
        self._courses: dict[int, _Course] = {}

    def encode(self, reports: Sequence[EpochReport]) -> NDArray[np.float32]:
        """One row a report, [M, F], all in [-1, 1]. Raises EsperError for a report without one of the slots."""
        members, seeds = [], []
        for report in reports:
            members.append((*_of_report(report), *self._follow(report)))
            for name in self.slots:
                seed = _seed(report, name)
                blueprint = self._numbers.get(seed.blueprint_id, -1)
                seeds.append((*_of_slot(seed), blueprint, report.parameter_count))
        with np.errstate(all="ignore"):
            host = _evaluate(HOST_FEATURES, _columns(members, [*_REPORT, *_SIGNALS, *_COURSE]))
            raw = _columns(seeds, [*_SLOT, "blueprint", "all_parameters"])
            raw.holds_seed = (raw.stage >= SeedStage.GERMINATED) & (raw.stage <= SeedStage.CULLED)
            slots = _evaluate(self._slot_features, raw)
        return np.concatenate([host, slots.reshape(len(host), len(self.slots) * len(self._slot_features))], axis=1)

    def state_dict(self) -> dict[str, Any]:
        """Every member's course, as plain JSON values."""
        return {
            str(member): {
                "signals": course.tracker.state_dict(),
                "host": None if np.isnan(course.host_flops) else [course.host_parameters, course.host_flops],
            }
            for member, course in self._courses.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        self._courses = {}
        for member, plain in state.items():
            host = checked(plain["host"], ([float], None), "host") or ()
            course = self._courses[int(member)] = _Course(SignalTracker(), *host)
            course.tracker.load_state_dict(plain["signals"])

    def _follow(self, report: EpochReport) -> tuple[float, ...]:
        """The raw columns that only the episode so far can tell."""
        course = self._courses.get(report.member)
        if report.epoch == 0:
            course = _Course(SignalTracker(), report.parameter_count, report.flops_per_sample)
        elif course is None:
            course = _Course()
        self._courses[report.member] = course
        signals = course.tracker.signals
        if report.epoch == 0 or report.epoch != signals.epoch:
            signals = course.tracker.update(report)
        return (*_of_signals(signals), len(signals.accuracy_history), course.host_parameters, course.host_flops)


def _seed(report: EpochReport, slot: str) -> SeedStateReport:
    try:
        return report.slots[slot]
    except KeyError:
        raise EsperError(
            f"member {report.member} has no slot {slot!r}: it has {', '.join(report.slots) or 'none'}; "
            "observations and actions are laid out for the slots of one host"
        ) from None


def _columns(rows: list[tuple[Any, ...]], names: list[str]) -> SimpleNamespace:
    """Raw columns by name; None (not measured) becomes NaN."""
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(names))
    return SimpleNamespace(**dict(zip(names, table.T.copy(), strict=True)))


def _evaluate(features: Sequence[Feature], raw: SimpleNamespace) -> NDArray[np.float32]:
    """[rows, features]: finite, cut to [-1, 1], 0 where unknown."""
    values = np.stack([feature.value(raw) for feature in features], dtype=np.float64)
    place = {feature.name: number for number, feature in enumerate(features)}
    flagged = [number for number, feature in enumerate(features) if feature.flag]
    values[flagged] *= values[[place[features[number].flag] for number in flagged]]
    return np.where(np.isfinite(values), values.clip(-1, 1), 0).T.astype(np.float32)


def action_masks(reports: Sequence[EpochReport], layout: ActionLayout) -> NDArray[np.bool_]:
    """Which actions are legal for each member [M, A], by the rule of `legal_actions`; waiting always is.

    Raises EsperError for a report without one of the layout's slots.
    """
    table = _slot_masks(layout)
    cases = [
        [0 if report.is_twin or report.retired else _case(_seed(report, slot)) for slot in layout.slots]
        for report in reports
    ]
    slots = np.arange(len(layout.slots))
    masks = table[slots, np.array(cases, dtype=np.intp).reshape(len(reports), len(slots))]  # [M, S, A]
    return np.logical_or.reduce(masks, axis=1)


def _case(seed: SeedStateReport) -> int:
    return 2 * seed.stage + seed.can_advance


@lru_cache(maxsize=8)
def _slot_masks(layout: ActionLayout) -> NDArray[np.bool_]:
    """[S, cases, A] what `legal_actions` allows in one slot, in each stage that its seed may have come to."""
    masks = np.zeros((len(layout.slots), 2 * (max(SeedStage) + 1), len(layout)), dtype=np.bool_)
    for number, slot in enumerate(layout.slots):
        for stage in SeedStage:
            for can_advance in (False, True):
                seed = SeedStateReport(slot, stage, can_advance=can_advance)
                report = EpochReport(0, 0, 0, nan, nan, nan, nan, nan, 0, 0, {slot: seed})
                legal = legal_actions(report, layout.blueprints, layout.blends)
                masks[number, _case(seed), [layout.number(action) for action in legal]] = True
    return masks

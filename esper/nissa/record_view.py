"""Records of epochs and updates in words: what every view of a running run shows of them."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from esper.leyline import ACCURACY, ScoreKind, SeedStage, TelemetryEvent, TelemetryEventType, recorded_kind
from esper.nissa.formatting import signed
from esper.nissa.palette import STAGE_LOOKS, stage_look
from esper.nissa.statistics import mean_interval, paired_difference

# What an update shows of itself, in this order.
LEARNING_PARTS = {
    "episodes": "{:,} episodes",
    "return_mean": "return {}",
    "validation_return": "validation {}",
    "entropy": "entropy {:.2f}",
    "approx_kl": "kl {:.4f}",
    "value_loss": "value loss {:.4f}",
    "policy_loss": "policy loss {:+.4f}",
}
REFERENCES = {"heuristic_return": "heuristic", "static_return": "static host"}


@dataclass(frozen=True, slots=True)
class RunTitle:
    """What stands over everything a run shows, and how long it goes on: updates of the policy, then epochs.

    return_unit: what a hundredth of a return is, in words; empty: they are shown as they are.
    """

    name: str
    policy: str
    host: str
    max_epochs: int
    max_updates: int = 0
    return_unit: str = ""

    def __str__(self) -> str:
        return f"{self.name} · policy {self.policy} · host {self.host}"


class Clock:
    """Wall time spent and, from the latest epochs or updates, wall time left until the last of them (seconds)."""

    def __init__(self) -> None:
        self._recent: list[float] = []
        self.spent_s = 0.0
        self.left_s: float | None = None

    def tick(self, record: dict[str, Any], done: int, total: int) -> None:
        """Count one epoch or update, the `done`-th of `total`."""
        wall_s = record.get("wall_s") or 0.0
        self.spent_s += wall_s
        if done == 0:  # the untrained host is scored only: its time says nothing of the others', nor do the updates'
            self._recent, self.left_s = [], None
        else:
            self._recent = [*self._recent[-4:], wall_s]
            self.left_s = sum(self._recent) / len(self._recent) * max(0, total - done)


def learning_parts(record: dict[str, Any], return_unit: str = "") -> list[str]:
    """What an update of the policy came to, as far as it was measured; returns beside those of the references."""
    parts = []
    for key, text in LEARNING_PARTS.items():
        if record.get(key) is None:
            continue
        parts.append(text.format(return_text(record[key], return_unit) if "return" in key else record[key]))
        if key == "return_mean":
            known = [(name, record.get(reference)) for reference, name in REFERENCES.items()]
            beside = [f"{name} {return_text(value, return_unit)}" for name, value in known if value is not None]
            parts[-1] += f" {return_unit}".rstrip() + (f" ({', '.join(beside)})" if beside else "")
    return parts


def return_text(value: float, return_unit: str) -> str:
    """A return in points, or as it is where nothing says what it counts."""
    return f"{100 * value:.1f}" if return_unit else f"{value:+.3f}"


def score_of(row: dict[str, Any]) -> float | None:
    """A member's score on validation, in percent; None where it is not known."""
    score: float | None = row.get(f"val_{recorded_kind(row).name}")
    return score


def kind_of(record: dict[str, Any]) -> ScoreKind:
    """What its members are judged by."""
    return recorded_kind(next(iter(record.get("members", ())), {}))


def score_parts(record: dict[str, Any]) -> list[str]:
    """Validation score of grown and twins and their paired difference, as far as there are any."""
    grown, twin = split(record)
    parts = []
    for name, rows in (("grown", grown), ("twin", twin)):
        interval = mean_interval(map(score_of, rows))
        if interval.mean is not None:
            what = "" if kind_of(record) is ACCURACY else f" {kind_of(record).title}"
            parts.append(f"{name}{what} {interval.mean:5.1f}%")
    pairs = paired(record)
    gain = paired_difference([mine for mine, _ in pairs], [other for _, other in pairs])
    if gain.mean is not None:
        spread = "" if gain.low is None else f" ±{gain.mean - gain.low:.1f}"
        parts.append(f"difference {signed(gain.mean)}{spread}")
    return parts


def split(record: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of grown members and rows of twins."""
    rows = record.get("members", [])
    return [row for row in rows if not row.get("is_twin")], [row for row in rows if row.get("is_twin")]


def paired(record: dict[str, Any]) -> list[tuple[float | None, float | None]]:
    """Validation score of each member that has a twin, and the twin's."""
    grown, twins = split(record)
    by_member = {row.get("twin_of"): score_of(row) for row in twins}
    return [(score_of(row), by_member[row["member"]]) for row in grown if row["member"] in by_member]


def mean_of(record: dict[str, Any], key: str) -> float:
    """Mean of a metric over grown members; 0 when nothing was measured."""
    return mean_interval(row.get(key) for row in split(record)[0]).mean or 0.0


def stage_counts(record: dict[str, Any]) -> dict[str, int]:
    """How many slots of grown members are in each stage that occurs, in the order of a life, by the stage's word."""
    slots = (slot for row in split(record)[0] for slot in (row.get("slots") or {}).values())
    counts = Counter(stage_look(slot.get("stage")).label for slot in slots)
    words = (look.label for stage, look in STAGE_LOOKS.items() if stage is not SeedStage.DORMANT)
    return {word: counts[word] for word in words if counts[word]}


def event_text(event: TelemetryEvent) -> str:
    """One line about an event: "epoch 9  member 2 early  rolled back to epoch 5: training loss is NaN"."""
    data = event.data
    if event.event_type is TelemetryEventType.FINAL_TRAINED:  # growth is over: its epochs are no longer the run's
        return event.message
    where = " ".join(str(part) for part in ("member", event.member, event.slot_id) if part != "")
    if event.member is None:
        where = ""
    what = event.event_type.value.replace("_", " ")
    if event.event_type is TelemetryEventType.GOVERNOR_ROLLBACK:
        what = f"rolled back to epoch {data.get('to_epoch', '?')}"
    elif event.event_type is TelemetryEventType.STAGE_CHANGED:
        what = f"{data.get('blueprint', '')} {stage_look(data.get('to')).label}".strip()
    elif event.event_type is TelemetryEventType.GATE_EVALUATED:
        what = f"{data.get('gate', 'gate')} {'passed' if data.get('passed') else 'refused'}"
    why = str(data.get("reason") or event.message or "")
    return "  ".join(part for part in (f"epoch {event.epoch}", where, what + (f": {why}" if why else "")) if part)

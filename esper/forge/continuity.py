"""The continuity table: what every phase's model is measured by, alike, and what got worse on the way."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Measured = Mapping[str, float | None]
LESSON = "lesson/"  # followed by a lesson's name: the share of its problems that are answered rightly, in percent
LESSON_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Aspect:
    """A column of the continuity table.

    tolerance: by what share it may get worse from one phase to the next. spelling: of a figure, as a format.
    """

    name: str
    title: str
    unit: str
    is_better_high: bool
    tolerance: float
    spelling: str

    def text(self, value: float | None) -> str:
        """A figure as people read it."""
        return "-" if value is None else self.spelling.format(value)


ASPECTS = (
    Aspect("bits_per_byte", "bits a byte", "bits", False, 0.02, "{:.3f}"),
    Aspect("top1", "next token right", "%", True, 0.02, "{:.1f}%"),
    Aspect("bytes", "on disk", "bytes", False, 0.05, "{:,.0f}"),
    Aspect("latency_ms", "one window", "ms", False, 0.5, "{:.2f}"),
)


def aspects_of(rows: Iterable[Measured]) -> tuple[Aspect, ...]:
    """Those of every model, and the share of right answers in each lesson that a phase of these rows has taught."""
    lessons = dict.fromkeys(name for row in rows for name in row if name.startswith(LESSON))
    taught = (Aspect(name, name.removeprefix(LESSON), "%", True, LESSON_TOLERANCE, "{:.0f}%") for name in lessons)
    return (*ASPECTS, *taught)


def worsened(aspect: Aspect, before: float | None, after: float | None) -> bool:
    """Whether a figure got worse by more than is tolerated."""
    if before is None or after is None or before == 0:
        return False
    change = (after - before) / abs(before)
    return (change if not aspect.is_better_high else -change) > aspect.tolerance


def marks(rows: Sequence[tuple[Measured, bool]]) -> list[dict[str, bool]]:
    """For each row, which aspects got worse beyond their tolerance since the last sound one before it.

    rows: (what was measured, whether the phase passed its gates); a phase that did not is nobody's input.
    """
    aspects = aspects_of(measured for measured, _ in rows)
    before: Measured = {}
    marked = []
    for measured, is_sound in rows:
        marked.append({a.name: worsened(a, before.get(a.name), measured.get(a.name)) for a in aspects})
        before = measured if is_sound else before
    return marked

"""What must hold for `esper analyze --require`: METRIC > NUMBER, of the mean over seeds."""

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from esper.errors import ConfigError
from esper.study.analyze.analysis import SuiteResult, VersionResult
from esper.study.evaluate.measures import measure
from esper.study.measure import Measure

_FORM = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*(%?)\s*")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a requirement for one version: whether it is met, and why, in a line."""

    is_met: bool
    text: str


@dataclass(frozen=True, slots=True)
class Requirement:
    """threshold: in the unit in which the metric is stored; note: how it was read, where that needs saying."""

    measure: Measure
    sign: str
    threshold: float
    note: str = ""

    @classmethod
    def parse(cls, text: str) -> "Requirement":
        """Of text such as "test_accuracy>0.7": for an accuracy, 1 and less is a share. Raises ConfigError."""
        form = _FORM.fullmatch(text)
        if form is None:
            raise ConfigError(
                f"--require {text}: cannot be read\n  expected METRIC>NUMBER, such as 'test_accuracy>0.7'"
            )
        metric, threshold = measure(form[1]), float(form[3])
        if metric.is_accuracy and not form[4] and 0 <= threshold <= 1:
            return cls(metric, form[2], 100 * threshold, f" ({form[3]} is read as {100 * threshold:g}%)")
        return cls(metric, form[2], threshold)

    def judge(self, results: Iterable[SuiteResult]) -> list[Verdict]:
        """One verdict a version and suite; a single one that is not met where there are none."""
        found = [self._verdict(one.suite, row) for one in results for row in one.versions]
        return found or [Verdict(False, f"not met: {self._spelled}: nothing was evaluated{self.note}")]

    @property
    def _spelled(self) -> str:
        return f"{self.measure.name} {self.sign} {self.threshold:g}"

    def _verdict(self, suite: str, row: VersionResult) -> Verdict:
        mean = row.mean(self.measure.name)
        if mean is None:
            is_met, why = False, "it was not measured"
        elif row.failed:
            is_met, why = False, f"{len(row.failed)} of {len(row.failed) + self._count(row)} seeds failed"
        else:
            is_met = _OPERATORS[self.sign](mean, self.threshold)
            why = f"{mean:.6g} over {self._count(row)} seeds"
        said = "met" if is_met else "not met"
        return Verdict(is_met, f"{said}: {self._spelled}: {why} ({row.label}, {row.title}, suite {suite}){self.note}")

    def _count(self, row: VersionResult) -> int:
        return len(row.values[self.measure.name])

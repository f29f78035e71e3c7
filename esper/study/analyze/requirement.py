"""Requirements of `esper analyze --require`: conditions on the mean over seeds of every version."""

from collections.abc import Iterable
from dataclasses import dataclass

from esper.errors import ConfigError
from esper.study.analyze.analysis import SuiteResult
from esper.study.analyze.results import VersionResult
from esper.study.conditions import Condition
from esper.study.evaluate.measures import measure

_OPTION = "--require"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a requirement for one version: whether it is met, and why, in a line."""

    is_met: bool
    text: str


@dataclass(frozen=True, slots=True)
class Requirement:
    """A condition whose key is a metric, and whose value is a number or several."""

    condition: Condition

    @classmethod
    def parse(cls, text: str) -> "Requirement":
        """Of text such as "test_accuracy>0.7". Raises ConfigError."""
        condition = Condition.parse(text, _OPTION)
        measure(condition.key)
        for wanted in condition.wanted:
            if condition.as_number(wanted) is None:
                raise ConfigError(f"{_OPTION} {text}: expected a number after {condition.comparison}")
        return cls(condition)

    def judge(self, results: Iterable[SuiteResult]) -> list[Verdict]:
        """One verdict a version and suite; a single one that is not met where there are none."""
        found = [
            self._verdict(result.suite, row.title, version)
            for result in results
            for row in result.policies
            for version in row.runs
        ]
        return found or [Verdict(False, f"not met: {self._spelled}: nothing was evaluated{self._note}")]

    @property
    def _spelled(self) -> str:
        numbers = ", ".join(f"{self.condition.as_number(text):g}" for text in self.condition.wanted)
        return f"{self.condition.key} {self.condition.comparison} {numbers}"

    @property
    def _note(self) -> str:
        return f" ({self.condition.note})" if self.condition.note else ""

    def _verdict(self, suite: str, title: str, version: VersionResult) -> Verdict:
        mean = version.mean(self.condition.key)
        measured = len(version.values.get(self.condition.key, {}))
        if mean is None:
            is_met, why = False, "it was not measured"
        elif version.failed:
            is_met, why = False, f"{len(version.failed)} of {len(version.failed) + measured} seeds failed"
        else:
            is_met, why = self.condition.holds(mean), f"{mean:.6g} over {measured} seeds"
        said = "met" if is_met else "not met"
        where = f"({version.label}, {title}, suite {suite})"
        return Verdict(is_met, f"{said}: {self._spelled}: {why} {where}{self._note}")

"""What a phase is: it reads a folder, writes another, and says what came of it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from esper.checks import one_of
from esper.registry import Registry

if TYPE_CHECKING:
    from esper.forge.config import ModelConfig
    from esper.tasks.settings import CorpusConfig
    from esper.tasks.text.corpus import Corpus
    from esper.tasks.text.tokenizer import Tokenizer

CONTROLS = ("gates", "all")
BOUNDS = ("at_least", "at_most")
MODEL = "model"  # the bundle that a phase passes on, in its folder
MASTERS = "masters"  # beside a packed one: the weights behind it, which later phases train


@dataclass(frozen=True, kw_only=True)
class PhaseResult:
    """What came of a phase.

    success: every gate was passed. error: the gates that were not, with their figures. metrics: by name, as measured on
    what was written and read back. artifacts: what was written, name -> path. duration_s: wall time. gates: that its
    figures were judged by.
    """

    success: bool
    phase: str
    error: str | None
    metrics: dict[str, float]
    artifacts: dict[str, str]
    duration_s: float
    gates: tuple["Gate", ...] = ()


@dataclass(frozen=True, slots=True)
class Gate:
    """A bound that a figure must keep. bound: at_least or at_most."""

    metric: str
    bound: str
    value: float

    def __post_init__(self) -> None:
        one_of("bound", self.bound, BOUNDS)

    def is_passed(self, metrics: Mapping[str, float]) -> bool:
        """Whether the figure was measured and keeps the bound; NaN keeps none."""
        figure = metrics.get(self.metric)
        if figure is None:
            return False
        return figure >= self.value if self.bound == "at_least" else figure <= self.value

    def text(self, metrics: Mapping[str, float]) -> str:
        """The figure and the bound, for people."""
        figure = metrics.get(self.metric)
        measured = "not measured" if figure is None else f"{figure:.4g}"
        return f"{self.metric} {measured}, {self.bound.replace('_', ' ')} {self.value:.4g} is asked"


class Phase(Protocol):
    """One step of the way; see `PHASES`.

    `check` raises ForgeError where the input is not what the phase works on, before anything is written. `run` may be
    called again on the same output: it goes on from its checkpoint there. A gate that fails is no exception.
    """

    name: str

    @property
    def gates(self) -> Sequence[Gate]:
        """What its figures must keep."""
        ...

    def check(self, input: Path | None) -> None:
        """Raise ForgeError where the phase cannot work on this folder; None: it starts from nothing."""
        ...

    def run(self, input: Path | None, output: Path) -> PhaseResult:
        """Do the work, write it to `output`, measure what was written."""
        ...


class Interrupted(Exception):
    """The phase was asked to stop; its checkpoint is written.

    signal: number of the one that asked, where the phase has taken it itself; else 0.
    """

    def __init__(self, what: str, signal: int = 0) -> None:
        super().__init__(what)
        self.signal = signal


def nothing(*given: Any, **named: Any) -> None:
    """What is told to nobody."""


@dataclass
class PhaseContext:
    """What every phase is handed beside its own configuration.

    seed: all randomness follows from it and the phase's name. controls: "gates" (only those that a gate needs) or
    "all". threads: torch's. log: (step, **metrics), told to the hub under the phase's name. progress: (done, total,
    what is being done), for people. should_stop: whether to write a checkpoint and raise `Interrupted`.
    """

    seed: int
    model: "ModelConfig"
    tokenizer_name: str
    corpus_config: "CorpusConfig"
    controls: str = "gates"
    threads: int = 1
    log: Callable[..., None] = nothing
    progress: Callable[[int, int, str], None] = nothing
    should_stop: Callable[[], bool] = lambda: False
    notes: list[str] = field(default_factory=list)  # sentences for the report, such as which control won

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """What turns text into tokens."""
        from esper.tasks.text.tokenizer import get_tokenizer

        return get_tokenizer(self.tokenizer_name)

    @cached_property
    def corpus(self) -> "Corpus":
        """The text, read at first use; the same in every phase, whatever its seed."""
        from esper.tasks.text.corpus import build_corpus

        return build_corpus(self.corpus_config, self.tokenizer)


def conclude(
    phase: str, gates: Sequence[Gate], metrics: Mapping[str, float], artifacts: Mapping[str, Path], started: float
) -> PhaseResult:
    """A phase's result: which gates were passed, and with what; the card of its `model` says so from here on.

    started: of time.monotonic().
    """
    from esper.checkpoint.bundle import amend_metadata

    verdicts: dict[str, bool] = {}
    for gate in gates:
        verdicts[gate.metric] = gate.is_passed(metrics) and verdicts.get(gate.metric, True)
    for path in artifacts.values():
        if path.with_suffix("").name == MODEL:
            amend_metadata(path, gates=verdicts)
    return PhaseResult(
        success=all(verdicts.values()),
        phase=phase,
        error="; ".join(gate.text(metrics) for gate in gates if not gate.is_passed(metrics)) or None,
        metrics={name: float(value) for name, value in metrics.items()},
        artifacts={name: str(path) for name, path in artifacts.items()},
        duration_s=time.monotonic() - started,
        gates=tuple(gates),
    )


PHASES: "Registry[Any, Phase]" = Registry("phase")

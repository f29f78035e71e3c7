"""When training has stopped paying, and what it was best at."""

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from esper.errors import LearnerError
from esper.files import built

State = tuple[dict[str, Tensor], dict[str, Any]]
_BEST = "best/"


@dataclass(slots=True)
class _Course:
    """best_*: the highest score. mark: what a score must exceed by the threshold; stale: scores since one did."""

    best_score: float | None = None
    best_update: int = 0
    mark: float | None = None
    stale: int = 0


class EarlyStopping:
    """Watches a score that should rise; keeps a copy of whatever scored highest.

    Any rise is kept, but only one of more than `threshold` above the last such rise resets the patience: a gain that
    creeps counts once it has added up. patience: scores without one before `should_stop`; None: never.
    """

    def __init__(self, patience: int | None, threshold: float = 0.0) -> None:
        if (patience is not None and patience < 1) or not (math.isfinite(threshold) and threshold >= 0):
            raise LearnerError(
                f"patience={patience}, threshold={threshold}: expected a patience from 1 on or None, and a finite "
                "threshold from 0 on."
            )
        self.patience, self.threshold = patience, threshold
        self.best: State | None = None
        self._course = _Course()

    @property
    def best_score(self) -> float | None:
        """The highest score so far; None before the first."""
        return self._course.best_score

    @property
    def best_update(self) -> int:
        """When it was observed; 0 before the first."""
        return self._course.best_update

    @property
    def should_stop(self) -> bool:
        """Whether the patience is used up."""
        return self.patience is not None and self._course.stale >= self.patience

    def observe(self, score: float, update: int, state: State) -> bool:
        """Count one score; returns whether it is the highest so far, of whose state a copy is then kept.

        Args: state: what scored, a learner's `state()`. Raises LearnerError unless the score is finite.
        """
        if not math.isfinite(score):
            raise LearnerError(f"The validation score of update {update} is {score}; expected a finite number.")
        course = self._course
        is_best = course.best_score is None or score > course.best_score
        if is_best:
            course.best_score, course.best_update = score, update
            self.best = _copied(*state)
        if course.mark is None or score > course.mark + self.threshold:
            course.mark, course.stale = score, 0
        else:
            course.stale += 1
        return is_best

    def state(self) -> State:
        """All that decides when it stops and what it keeps, as tensors and plain values."""
        tensors, plain = self.best or ({}, None)
        return {_BEST + name: tensor for name, tensor in tensors.items()}, asdict(self._course) | {"best": plain}

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Continue where `state` was taken; other tensors are not looked at."""
        kept = {name.removeprefix(_BEST): tensor for name, tensor in tensors.items() if name.startswith(_BEST)}
        course = dict(plain)
        best = course.pop("best")
        self._course = built(_Course, course)
        self.best = None if best is None else _copied(kept, best)


def _copied(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> State:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}, copy.deepcopy(dict(plain))

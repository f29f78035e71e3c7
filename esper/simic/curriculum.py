"""Which blueprint to try next: a bandit over blueprints that tries simple ones first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from esper.errors import LearnerError
from esper.files import built


@dataclass(slots=True)
class BlueprintStats:
    """What is known of one blueprint; pending: trials whose outcome is not known yet."""

    trials: int = 0
    successes: int = 0
    total_reward: float = 0.0
    pending: int = 0

    @property
    def mean_reward(self) -> float:
        """Per trial; 0 before the first."""
        return self.total_reward / self.trials if self.trials else 0.0


class BlueprintCurriculum:
    """UCB1 over blueprints, less a penalty for complexity (parameters, say; only proportions count).

    A tried blueprint scores mean + w sqrt(ln(N + 1) / n) - penalty * complexity / largest complexity, where N counts
    all trials and n its own. One not tried yet scores above every tried one as long as w exceeds the penalty.
    Trials under way count as trials without reward until their outcome is known: those who choose at the same time
    spread out, and a blueprint whose seeds are slow to show any worth is not chosen more and more often meanwhile.
    Raises ValueError for lists that do not fit each other and for unknown names.
    Source: Auer, Cesa-Bianchi and Fischer 2002, "Finite-time analysis of the multiarmed bandit problem"; for trials
    under way ("virtual loss") Chaslot, Winands and van den Herik 2008, "Parallel Monte-Carlo tree search".
    """

    def __init__(
        self,
        blueprints: Sequence[str],
        complexity: Sequence[float],
        exploration_weight: float = 2.0,
        complexity_penalty: float = 0.1,
    ) -> None:
        if len(blueprints) != len(complexity):
            raise LearnerError(
                f"{len(blueprints)} blueprints and {len(complexity)} complexities: expected one complexity a blueprint."
            )
        if not blueprints or len(set(blueprints)) < len(blueprints):
            raise LearnerError(f"blueprints={list(blueprints)}: expected at least one name, and each name once.")
        if not all(math.isfinite(value) and value >= 0 for value in complexity):
            raise LearnerError(f"complexity={list(complexity)}: expected finite numbers from 0 on.")
        self.exploration_weight = exploration_weight
        self.complexity_penalty = complexity_penalty
        largest = max(complexity) or 1.0
        self._penalties = {
            name: complexity_penalty * value / largest for name, value in zip(blueprints, complexity, strict=True)
        }
        self._stats = {name: BlueprintStats() for name in blueprints}

    def start_trial(self, name: str) -> None:
        """Count one trial whose outcome comes later."""
        self._known(name).pending += 1

    def abandon_trial(self, name: str) -> None:
        """End a trial under way that will have no outcome."""
        stats = self._known(name)
        stats.pending = max(0, stats.pending - 1)

    def record_outcome(self, name: str, success: bool, reward: float) -> None:
        """Count one trial; one under way is thereby over."""
        if not math.isfinite(reward):
            raise LearnerError(f"The reward of blueprint {name!r} is {reward}; expected a finite number.")
        self.abandon_trial(name)
        stats = self._stats[name]
        stats.trials += 1
        stats.successes += bool(success)
        stats.total_reward += reward

    def get_ucb_scores(self) -> dict[str, float]:
        """Every blueprint's score; finite."""
        width = math.sqrt(math.log(sum(stats.trials + stats.pending for stats in self._stats.values()) + 1))
        best = max((stats.mean_reward for stats in self._stats.values() if stats.trials), default=0.0)
        scores = {}
        for name, stats in self._stats.items():
            count = stats.trials + stats.pending
            if count:
                optimism = stats.total_reward / count + self.exploration_weight * width / math.sqrt(count)
            else:
                optimism = best + self.exploration_weight * (1 + width)
            scores[name] = optimism - self._penalties[name]
        return scores

    def select_blueprint(self, among: Sequence[str] | None = None) -> str:
        """The blueprint (of these, where some are given) with the highest score; of equals the one listed first."""
        scores = self.get_ucb_scores()
        names = list(self._stats if among is None else among)
        if not names:
            raise LearnerError("among=[]: expected at least one blueprint to choose from.")
        for name in names:
            self._known(name)
        return max(names, key=scores.__getitem__)

    def get_stats(self, name: str) -> dict[str, float]:
        """trials, successes and mean_reward of one blueprint."""
        stats = self._known(name)
        return {"trials": stats.trials, "successes": stats.successes, "mean_reward": stats.mean_reward}

    def state_dict(self) -> dict[str, Any]:
        """What was learned, as plain JSON values."""
        return {name: asdict(stats) for name, stats in self._stats.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`. Raises ValueError where it is of other blueprints; nothing is then changed."""
        if state.keys() != self._stats.keys():
            raise LearnerError(f"The state is of blueprints {sorted(state)}; expected {sorted(self._stats)}.")
        self._stats = {name: built(BlueprintStats, state[name]) for name in self._stats}

    def _known(self, name: str) -> BlueprintStats:
        if name not in self._stats:
            raise LearnerError(f"Unknown blueprint {name!r}: the curriculum has {', '.join(self._stats)}.")
        return self._stats[name]

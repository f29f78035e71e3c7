"""The loop of every learner that acts in order to learn: collect, update, validate, stop."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from gymnasium.vector import VectorEnv
from torch import Tensor

from esper.errors import LearnerError
from esper.files import checked
from esper.simic.learner import Learner
from esper.simic.on_policy.collector import Collector
from esper.simic.on_policy.config import LearnedPolicyConfig
from esper.simic.on_policy.early_stopping import EarlyStopping, State
from esper.simic.on_policy.rollout import Rollout

_LEARNER, _COLLECTOR, _STOPPING, _ENV = "learner/", "collector/", "stopping/", "env/"


@runtime_checkable
class Resumable(Protocol):
    """An environment that can be put back to where it was."""

    def state(self) -> State:
        """Everything that decides what it does next."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        ...


class Training:
    """Teaches a learner in an environment, one update a `step()`::

        training = Training(env, learner, settings, validate, seed)
        while not training.done:
            metrics = training.step()

    In the end the learner is what it was when it validated best, or, without validations, what it became.

    Args:
        env: a vector environment as `Collector` takes it.
        validate: scores the learner, higher being better, without changing it; called every
            `settings.validate_every` updates and after the last. Without it nothing stops early.
        seed: of the environment's first reset.
    """

    def __init__(
        self,
        env: VectorEnv,
        learner: Learner,
        settings: LearnedPolicyConfig,
        validate: Callable[[Any], float] | None = None,
        seed: int | None = None,
    ) -> None:
        self.env, self.learner, self.settings = env, learner, settings
        self.validate = validate if settings.validate_every else None
        self.update = 0
        self.total = settings.updates
        self.episodes = 0
        self.steps = 0
        self.stopping = EarlyStopping(settings.patience, settings.min_gain)
        self._seed = seed
        self._collector = Collector(env, learner, seed)

    @property
    def done(self) -> bool:
        """Whether every update was made, or validations have long enough shown no gain."""
        return self.update >= self.total or self.stopping.should_stop

    def step(self) -> dict[str, float]:
        """Collect one rollout, learn from it, and validate where that is due.

        Returns the learner's metrics and: update, episodes and steps (so far); episodes_finished, and of those, if
        there are any, return_mean, return_std and length_mean; validation_return and best_validation_return where that
        was due; collect_s, update_s and validation_s.
        Raises LearnerError where values stop being finite, and after the end.
        """
        if self.done:
            raise LearnerError(f"Training ended with update {self.update} of {self.total}; ask `done` before `step`.")
        started = time.perf_counter()
        rollout = self._collector.collect(self.settings.rollout_steps)
        collected = time.perf_counter()
        metrics = self.learner.update(rollout)
        updated = time.perf_counter()
        self.update += 1
        metrics |= self._counted(rollout) | self._validated()
        metrics |= {
            "collect_s": collected - started,
            "update_s": updated - collected,
            "validation_s": time.perf_counter() - updated,
        }
        if self.done and self.stopping.best is not None:
            self.learner.load_state(*self.stopping.best)
        return metrics

    def state(self) -> State:
        """Everything that decides the rest of the training; its tensors move on with the next step."""
        tensors, learner = self.learner.state()
        kept, stopping = self.stopping.state()
        collector = {} if self.done else self._collector.state()  # who learns no more needs no hosts to learn on
        parts = {_LEARNER: tensors, _STOPPING: kept, _COLLECTOR: collector}
        plain: dict[str, Any] = {
            "update": self.update,
            "episodes": self.episodes,
            "steps": self.steps,
            "learner": learner,
            "stopping": stopping,
        }
        if collector and (env := self._resumable()) is not None:
            parts[_ENV], plain["env"] = env.state()
        return {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.items()}, plain

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Continue where `state` was taken.

        Exactly there, if the environment has `state()` and `load_state()` (GrowthVectorEnv does); any other begins new
        episodes, under another seed than the first ones.
        """
        self.learner.load_state(_part(tensors, _LEARNER), plain["learner"])
        self.stopping.load_state(_part(tensors, _STOPPING), plain["stopping"])
        self.update, self.episodes, self.steps = (
            checked(plain[name], int, name) for name in ("update", "episodes", "steps")
        )
        seed = None if self._seed is None else self._seed + self.update
        self._collector = Collector(self.env, self.learner, seed)
        if "env" in plain and (env := self._resumable()) is not None:
            env.load_state(_part(tensors, _ENV), plain["env"])
            self._collector.load_state(_part(tensors, _COLLECTOR))

    def _counted(self, rollout: Rollout) -> dict[str, float]:
        finished = rollout.episodes
        self.steps += rollout.actions.numel()
        self.episodes += len(finished)
        metrics: dict[str, float] = {
            "update": self.update,
            "episodes": self.episodes,
            "steps": self.steps,
            "episodes_finished": len(finished),
        }
        if finished:
            returns = [episode.total_reward for episode in finished]
            metrics["return_mean"] = statistics.fmean(returns)
            metrics["return_std"] = statistics.pstdev(returns)
            metrics["length_mean"] = statistics.fmean(episode.length for episode in finished)
        return metrics

    def _validated(self) -> dict[str, float]:
        is_due = self.update == self.total or self.update % (self.settings.validate_every or 1) == 0
        if self.validate is None or not is_due:
            return {}
        score = self.validate(self.learner)
        self.stopping.observe(score, self.update, self.learner.state())
        assert self.stopping.best_score is not None
        return {"validation_return": score, "best_validation_return": self.stopping.best_score}

    def _resumable(self) -> Resumable | None:
        env = self.env.unwrapped
        return env if isinstance(env, Resumable) else None


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

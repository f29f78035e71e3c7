"""Learning from a fixed set of transitions."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esper.errors import ConfigError, LearnerError
from esper.simic.iql.config import OFFLINE_LEARNERS, IQLPolicyConfig
from esper.simic.iql.dataset import Transitions, read_dataset
from esper.simic.iql.model import IQL
from esper.simic.prioritized_buffer import PrioritizedReplayBuffer
from esper.simic.rewards.functions import Reward

_FIRST_BETA = 0.4  # of the importance weights; they are exact (1) at the end
_MEANS = ("value_loss", "q_loss", "policy_loss", "advantage", "advantage_weight")


class OfflineTraining:
    """Trains an IQL model on transitions, which also set the scale of its states; exact to resume.

    Args:
        steps: gradient steps in all. steps_per_update: of one `step()`.
        prioritized: draw transitions in proportion to their last |TD error| (to the 0.6th), with importance weights
            in every loss, instead of evenly. Source: Schaul et al. 2016, arXiv:1511.05952.
        seed: of the drawing.
    """

    def __init__(
        self,
        model: IQL,
        transitions: Transitions,
        steps: int,
        batch_size: int = 256,
        prioritized: bool = False,
        seed: int = 0,
        steps_per_update: int = 500,
    ) -> None:
        if not len(transitions):
            raise LearnerError("There are no transitions to learn from: expected at least one.")
        self.model, self.steps, self.batch_size, self.steps_per_update = model, steps, batch_size, steps_per_update
        self.transitions = transitions.to(model.device)
        self.total = math.ceil(steps / steps_per_update)
        self.update = 0
        self.generator = torch.Generator().manual_seed(seed)
        self._priorities = np.ones(len(transitions))
        self._buffer = self._filled(_FIRST_BETA) if prioritized else None
        model.normalize_by(self.transitions.states)

    @property
    def done(self) -> bool:
        """Whether every step was made."""
        return self.update >= self.total

    def step(self) -> dict[str, float]:
        """One update, that is up to `steps_per_update` gradient steps: the means of what they report.

        Raises LearnerError where a loss is not finite.
        """
        count = min(self.steps_per_update, self.steps - self.update * self.steps_per_update)
        found = [self._descend() for _ in range(count)]
        self.update += 1
        means = {name: float(torch.stack([one[name] for one in found]).mean()) for name in _MEANS}
        strange = [name for name, value in means.items() if not math.isfinite(value)]
        if strange:
            raise LearnerError(
                f"IQL's {', '.join(strange)} of update {self.update} is not finite: lower policy.learning_rate, and "
                "look for extreme rewards in the data."
            )
        return means

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that decides the updates to come, as tensors and plain values."""
        tensors, plain = self.model.state()
        tensors |= {"training.generator": self.generator.get_state()}
        tensors |= {"training.priorities": torch.from_numpy(self._priorities.copy())}
        return tensors, {"model": plain, "update": self.update, "beta": self._buffer.beta if self._buffer else None}

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken. Raises LearnerError where it does not fit."""
        priorities = tensors["training.priorities"].cpu().numpy().copy()
        if priorities.shape != self._priorities.shape or (plain["beta"] is None) != (self._buffer is None):
            raise LearnerError(
                f"The state is of {len(priorities)} transitions; expected {len(self.transitions)}, drawn alike. "
                "Are the runs of policy.dataset still as they were?"
            )
        self.model.load_state(tensors, plain["model"])
        self.update, self._priorities = plain["update"], priorities
        self.generator.set_state(tensors["training.generator"].cpu())
        self._buffer = None if plain["beta"] is None else self._filled(plain["beta"])

    def _filled(self, beta: float) -> PrioritizedReplayBuffer:
        held = self.transitions
        buffer = PrioritizedReplayBuffer(
            len(held), beta=beta, beta_increment=(1 - _FIRST_BETA) / self.steps, generator=self.generator
        )
        buffer.extend(held.states, held.actions, held.rewards, held.next_states, held.dones, self._priorities)
        return buffer

    def _descend(self) -> dict[str, Tensor]:
        if self._buffer is None:
            drawn = torch.randint(len(self.transitions), (self.batch_size,), generator=self.generator)
            return self.model.update(self.transitions.take(drawn.to(self.model.device)))
        _, indices, weights = self._buffer.sample(self.batch_size)
        drawn = torch.from_numpy(indices).to(self.model.device)
        found = self.model.update(self.transitions.take(drawn), weights)
        self._priorities[indices] = found["td_error"].abs().cpu().double().numpy()
        self._buffer.update_priorities(indices, self._priorities[indices])
        return found


@OFFLINE_LEARNERS.register("iql", IQLPolicyConfig)
def build_offline_training(
    settings: IQLPolicyConfig, reward: Reward | None = None, device: str | torch.device = "cpu", seed: int = 0
) -> OfflineTraining:
    """An IQL model, and its training on the runs of `policy.dataset` with rewards on a scale of their own.

    Raises ConfigError where no run is named, LearnerError where one cannot be used.
    """
    if not settings.dataset:
        raise ConfigError("policy.dataset=[]: expected runs to learn from, as in policy.dataset=[outputs/NAME/ID]")
    transitions = read_dataset(settings.dataset, settings.features, reward).with_rewards_scaled()
    model = IQL(
        settings.features,
        transitions.masks.shape[1],
        settings.gamma,
        settings.tau,
        settings.beta,
        device,
        settings.hidden,
        settings.learning_rate,
        seed=seed,
    )
    return OfflineTraining(model, transitions, settings.steps, settings.batch_size, settings.prioritized, seed)

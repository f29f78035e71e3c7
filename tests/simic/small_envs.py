"""Environments small enough to work out by hand."""

from functools import partial

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class Counting(gymnasium.Env):
    """Observes (steps so far, steps so far); a step's reward is 10 to the steps so far, plus the action taken.

    Ends after `length` steps: terminated, truncated, or one after the other where `ends` names both. Actions above the
    number of steps so far are forbidden.
    """

    def __init__(self, length: int, ends: tuple[str, ...] = ("terminated",), masked: bool = True) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(3)
        self.length, self.ends, self.masked = length, ends, masked
        self.count = self.episode = 0
        self.bad_step: int | None = None
        self.forbidden_taken = 0

    def _seen(self):
        mask = np.arange(3) <= self.count
        return np.full(2, self.count, np.float32), {"action_mask": mask} if self.masked else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._seen()

    def step(self, action):
        self.forbidden_taken += int(action > self.count)
        reward = 10.0**self.count + float(action)
        if self.count == self.bad_step:
            reward = np.nan
        self.count += 1
        is_over = self.count == self.length
        end = self.ends[self.episode % len(self.ends)]
        self.episode += is_over
        observation, info = self._seen()
        return observation, reward, is_over and end == "terminated", is_over and end == "truncated", info


class Recall(gymnasium.Env):
    """Shows a sign in its first observation, and pays for repeating it in its last step: nothing else tells it."""

    def __init__(self, length: int = 3) -> None:
        self.observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.length, self.sign, self.count = length, 0, 0

    def _seen(self):
        shown = (2 * self.sign - 1) if self.count == 0 else 0
        return np.array([shown, self.count / self.length], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sign, self.count = int(self.np_random.integers(2)), 0
        return self._seen(), {}

    def step(self, action):
        self.count += 1
        is_over = self.count == self.length
        return self._seen(), float(is_over and action == self.sign), is_over, False, {}


def vectorised(*environments, mode=AutoresetMode.SAME_STEP):
    """A vector environment of these."""
    return SyncVectorEnv([partial(lambda env: env, env) for env in environments], autoreset_mode=mode)


def cartpole(members: int):
    """CartPole-v1 that resets within the step."""
    return gymnasium.make_vec(
        "CartPole-v1",
        num_envs=members,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
    )

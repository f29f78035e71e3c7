"""A small environment with masks, random starts, ends of both kinds, and a state to resume from."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

STAY, LEFT, RIGHT = range(3)
PATHS = [(0,), (1, 0), (1, 1)]  # stay, or move: left or right


class Corridor(VectorEnv):
    """Members walk on cells 0 .. length - 1 from one of `starts`; the last cell pays 1 and ends the episode.

    Every step costs 0.05, standing still nothing. Left of cell 0 is a wall; on a cell of `one_way` only right is legal.
    After `horizon` steps the episode is truncated, or, with `is_final`, over.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self, members: int, length: int = 5, horizon: int = 12, starts=(0,), one_way=(), is_final: bool = False
    ) -> None:
        self.num_envs, self.length, self.horizon = members, length, horizon
        self.starts, self.one_way, self.is_final = np.array(starts), set(one_way), is_final
        self.single_observation_space = gym.spaces.Box(0.0, 1.0, (length + 1,), np.float32)
        self.single_action_space = gym.spaces.Discrete(3)
        self.rng = np.random.default_rng(0)
        self.cells = self.times = np.zeros(members, dtype=np.int64)

    def reset(self, *, seed=None, options=None):
        self.rng = np.random.default_rng(seed)
        self.cells, self.times = self.draw(self.num_envs), np.zeros(self.num_envs, dtype=np.int64)
        return self.observe(), {"action_mask": self.action_masks()}

    def step(self, actions):
        legal = self.action_masks()[np.arange(self.num_envs), actions]
        assert legal.all()
        self.cells = self.cells + (actions == RIGHT) - (actions == LEFT)
        self.times = self.times + 1
        arrived, late = self.cells == self.length - 1, self.times >= self.horizon
        rewards = arrived - 0.05 * (actions != STAY)
        terminated = arrived | late if self.is_final else arrived
        truncated = late & ~terminated
        info: dict[str, Any] = {}
        ended = terminated | truncated
        if ended.any():
            info["final_obs"] = np.full(self.num_envs, None)
            for member, seen in enumerate(self.observe()):
                info["final_obs"][member] = seen if ended[member] else None
            self.cells = np.where(ended, self.draw(self.num_envs), self.cells)
            self.times = np.where(ended, 0, self.times)
        return self.observe(), rewards, terminated, truncated, info | {"action_mask": self.action_masks()}

    def draw(self, count: int) -> np.ndarray:
        return self.rng.choice(self.starts, count)

    def observe(self) -> np.ndarray:
        return observation(self.cells, self.times, self.length, self.horizon)

    def action_masks(self) -> np.ndarray:
        return legal(self.cells, self.one_way)

    def state(self):
        tensors = {"cells": torch.from_numpy(self.cells), "times": torch.from_numpy(self.times)}
        return tensors, {"rng": self.rng.bit_generator.state}

    def load_state(self, tensors, plain) -> None:
        self.cells, self.times = tensors["cells"].clone().numpy(), tensors["times"].clone().numpy()
        self.rng.bit_generator.state = plain["rng"]


def observation(cells: np.ndarray, times: np.ndarray, length: int, horizon: int) -> np.ndarray:
    """One-hot cells, and the share of the time that is gone."""
    return np.concatenate([np.eye(length)[cells], times[:, None] / horizon], 1).astype(np.float32)


def legal(cells: np.ndarray, one_way=()) -> np.ndarray:
    masks = np.ones((len(cells), 3), dtype=bool)
    masks[cells == 0, LEFT] = False
    masks[np.isin(cells, list(one_way))] = [False, False, True]
    return masks

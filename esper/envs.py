"""Growth as Gymnasium environments: importing this module registers esper/Growth-v0.

    gymnasium.make("esper.envs:esper/Growth-v0")                  one member, a gymnasium.Env
    gymnasium.make_vec("esper.envs:esper/Growth-v0", num_envs=8)  GrowthVectorEnv: eight members, trained as one program

Both take `overrides`, as `python -m esper.run` does: overrides=["host=cnn_wide", "epochs=10"].
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from esper.engine.environment import GrowthVectorEnv


def make_growth_env(overrides: Sequence[str] = (), members: int | None = None) -> "GrowthVectorEnv":
    """The environment of conf/ with these overrides.

    members: how many episodes run side by side (None: `engine.members`). The engine is fused unless the overrides
    choose one: a seed then gives the same episodes in every process, where a measured choice might differ. Raises
    EsperError where the configuration is wrong.
    """
    from esper.builders.population import build_environment  # loads torch
    from esper.config.composing import compose

    is_chosen = any(override.partition("=")[0] in ("engine", "engine.kind") for override in overrides)
    fixed = [] if is_chosen else ["engine=fused"]
    fixed += [] if members is None else [f"engine.members={members}"]
    return build_environment(compose([*overrides, *fixed]))[0]


def make_vector_env(num_envs: int, overrides: Sequence[str] = ()) -> "GrowthVectorEnv":
    """What `gymnasium.make_vec` calls."""
    return make_growth_env(overrides, num_envs)


class GrowthEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """One member, one epoch a step; docs/environment.md."""

    def __init__(self, overrides: Sequence[str] = ()) -> None:
        self.metadata = {"render_modes": []}
        self.members = make_growth_env(overrides, members=1)
        self.observation_space = self.members.single_observation_space
        self.action_space = self.members.single_action_space
        self._next: tuple[NDArray[np.float32], dict[str, Any]] | None = None  # begun when the last episode ended

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal now [A]."""
        return self.members.action_masks()[0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode; see `GrowthVectorEnv.reset`."""
        super().reset(seed=seed)
        if self._next is None or seed is not None or options:
            self._next = self.members.reset(seed=seed, options=options)
        (observations, info), self._next = self._next, None
        return observations[0], _of_one(info)

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One epoch; see `GrowthVectorEnv.step`."""
        from esper.engine.arguments import action_numbers  # loaded with torch, when the environment was made

        numbers = action_numbers(action, None, len(self.members.layout))
        observations, rewards, terminated, truncated, info = self.members.step(np.array(numbers))
        if terminated[0] or truncated[0]:
            self._next = observations, info
            observations, info = info["final_obs"], info["final_info"]
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), _of_one(info)


def _of_one(info: dict[str, Any]) -> dict[str, Any]:
    """What a vector environment of one member says of it."""
    return {
        name: value[0].copy() if isinstance(value[0], np.ndarray) else value[0].item()
        for name, value in info.items()
        if not name.startswith("_") and name not in ("episode", "final_obs", "final_info")
    }


gymnasium.register(
    id="esper/Growth-v0", entry_point="esper.envs:GrowthEnv", vector_entry_point="esper.envs:make_vector_env"
)

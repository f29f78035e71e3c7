"""Growth as a Gymnasium vector environment: one member is one episode, one epoch is one step."""

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from esper.engine.arguments import action_numbers, episode_seeds
from esper.engine.epoch import EpochRunner
from esper.engine.growth import Growth
from esper.engine.sharded import ShardedGrowth
from esper.errors import EngineError, LearnerError
from esper.leyline import ActionLayout, EpochReport, TelemetryEvent

Flags = NDArray[np.bool_]
Reward = Callable[[EpochReport, EpochReport], float]
Masks = Callable[[Sequence[EpochReport], ActionLayout], Flags]


class Encoder(Protocol):
    """Turns reports into features; follows each member from its report of epoch 0 on."""

    names: tuple[str, ...]

    def encode(self, reports: Sequence[EpochReport]) -> NDArray[np.float32]:
        """One row a report, in [-1, 1]."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        ...


def episode_seed(seed: int, member: int, number: int) -> int:
    """The seed of a member's episode of this number (from 0) after `reset(seed=seed)`: below 2^31, as a run's."""
    digest = hashlib.sha256(f"{seed}/episode/{member}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


class GrowthVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.int64], NDArray[Any]]):
    """M episodes of growth side by side; docs/environment.md.

    Observations [M, F], float32 in [-1, 1]; actions [M], numbers of `layout`. An episode is truncated after its last
    epoch and terminated where the governor retires the member; the next one begins in the same step.

    Args: growth: without twins, told how fresh hosts are made; encoder, masks: what a controller sees and may do;
    reward: from the reports before and after an epoch.
    `reports` and `events` hold what came of the last step, ended episodes included.
    """

    def __init__(
        self, growth: Growth | ShardedGrowth, layout: ActionLayout, encoder: Encoder, masks: Masks, reward: Reward
    ) -> None:
        if growth.grown != len(growth.member_ids):
            raise EngineError("an environment has no twins: set controls=[]")
        self.growth = growth
        self.epochs = EpochRunner([growth])
        self.layout = layout
        self.encoder = encoder
        self.masks = masks
        self.reward = reward
        self.num_envs = growth.grown
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = Box(-1.0, 1.0, (len(encoder.names),), np.float32)
        self.single_action_space = Discrete(len(layout))
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.reports: list[EpochReport] = []
        self.events: list[TelemetryEvent] = []
        self._seed = growth.seed
        self._begun = np.zeros(self.num_envs, dtype=np.int64)  # episodes of each member since the seed was set
        self._returns = np.zeros(self.num_envs)
        self._refused = np.zeros(self.num_envs, dtype=np.int64)
        self._started_s = np.zeros(self.num_envs)
        self._masks = np.zeros((self.num_envs, len(layout)), dtype=np.bool_)

    def action_masks(self) -> Flags:
        """Which actions are legal now [M, A]; what MaskablePPO of sb3-contrib asks for."""
        self._check_begun()
        return self._masks.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode of every member.

        Args: seed: decides all that follows (never given: the run's); without one the next episodes begin. options:
        {"episode_seeds": [...]} names the seeds of these M episodes. Raises EngineError on other options.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._seed = seed
            self._begun[:] = 0
            self.growth.stream.reseed(seed)
        named = episode_seeds(options or {}, self.num_envs)
        observations = self._begin(range(self.num_envs), named)
        return observations, self._add_masks({}, range(self.num_envs))

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """One epoch of every member. Args: actions [M]; a forbidden one is a wait.

        Raises EngineError on a number that is no action; LearnerError naming member and epoch of a reward that is NaN.
        """
        self._check_begun()
        before = self.growth.reports()
        numbers = action_numbers(actions, self.num_envs, len(self.layout))
        ((self.reports, self.events),) = self.epochs.step([[self.layout.actions[number] for number in numbers]])
        rewards = np.array([self._rewarded(*pair) for pair in zip(before, self.reports, strict=True)])
        terminated = np.array([report.retired for report in self.reports])
        truncated = np.array([report.epoch >= report.max_epochs for report in self.reports]) & ~terminated
        observations = self.encoder.encode(self.reports)
        self._masks = self.masks(self.reports, self.layout)
        self._returns += rewards
        self._refused += [report.is_refused for report in self.reports]
        info: dict[str, Any] = {}
        ended = np.flatnonzero(terminated | truncated).tolist()
        for member, report in enumerate(self.reports):
            known = {"action_mask": self._masks[member], "refused": int(self._refused[member])}
            if member in ended:
                final = {"final_obs": observations[member].copy(), "final_info": known | self._outcome(report)}
                info = self._add_info(info, final, member)
            else:
                info = self._add_info(info, known, member)
        if ended:
            info |= self._statistics(terminated | truncated)
            observations[ended] = self._begin(ended)
            info = self._add_masks(info, ended)
        return observations, rewards, terminated, truncated, info

    # ---- the parts of a step

    def _check_begun(self) -> None:
        if not self._begun.all():
            raise ResetNeeded("no episode has begun: call reset() first")

    def _rewarded(self, before: EpochReport, after: EpochReport) -> float:
        reward = float(self.reward(before, after))
        if not np.isfinite(reward):
            seed = self.growth.episodes[after.member].seed
            raise LearnerError(
                f"The reward of member {after.member} in epoch {after.epoch} of its episode (seed {seed}) is {reward}; "
                "expected a finite number. Choose another reward, or mend this one."
            )
        return reward

    def _outcome(self, report: EpochReport) -> dict[str, Any]:
        return {
            "episode_seed": self.growth.episodes[report.member].seed,
            "val_accuracy": report.val_accuracy,
            "parameter_count": report.parameter_count,
            "flops_per_sample": report.flops_per_sample,
        }

    def _statistics(self, ended: Flags) -> dict[str, Any]:
        """As `gymnasium.wrappers.vector.RecordEpisodeStatistics` reports them."""
        lengths = np.array([report.epoch for report in self.reports])
        seconds = np.round(time.perf_counter() - self._started_s, 6)
        columns = {"r": self._returns, "l": lengths, "t": seconds}
        return {"episode": {k: np.where(ended, v, v.dtype.type(0)) for k, v in columns.items()}, "_episode": ended}

    def _begin(self, members: Sequence[int], seeds: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Begin an episode of these members; their observations."""
        members = list(members)
        own = [episode_seed(self._seed, member, int(self._begun[member])) for member in members]
        self.growth.restart(members, own if seeds is None else seeds)
        self._begun[members] += 1
        self._returns[members] = 0.0
        self._refused[members] = 0
        self._started_s[members] = time.perf_counter()
        (reports,) = self.epochs.reports()
        first = [reports[member] for member in members]
        self._masks[members] = self.masks(first, self.layout)
        return self.encoder.encode(first)

    def _add_masks(self, info: dict[str, Any], members: Sequence[int]) -> dict[str, Any]:
        for member in members:
            info = self._add_info(info, {"action_mask": self._masks[member]}, member)
        return info

    # ---- keeping

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that decides what comes next, as tensors and plain values; between two steps."""
        tensors, growth = self.growth.state()
        return tensors, {
            "growth": growth,
            "encoder": self.encoder.state_dict(),
            "seed": self._seed,
            "begun": self._begun.tolist(),
            "returns": self._returns.tolist(),
            "refused": self._refused.tolist(),
            "elapsed_s": (time.perf_counter() - self._started_s).tolist(),
        }

    def load_state(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken, without a reset. Raises CheckpointError where it does not fit."""
        self.growth.load_state(tensors, plain["growth"])
        self.encoder.load_state_dict(plain["encoder"])
        self._seed = plain["seed"]
        self._begun = np.array(plain["begun"])
        self._returns = np.array(plain["returns"])
        self._refused = np.array(plain["refused"])
        self._started_s = time.perf_counter() - np.array(plain["elapsed_s"])
        (self.reports,), self.events = self.epochs.reports(), []
        self._masks = self.masks(self.reports, self.layout)

"""Experience of a policy in any Gymnasium vector environment."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from esper.errors import LearnerError
from esper.simic.on_policy.rollout import EpisodeResult, Rollout

if TYPE_CHECKING:
    from esper.simic.learner import Learner


class Collector:
    """Lets a learner act in an environment, and goes on from rollout to rollout where it stopped.

    Masks are the environment's (`info["action_mask"]`, or `action_masks()`), or everything is legal. `state()` belongs
    beside the environment's own state.

    Args:
        env: resets its members within the step that ends their episodes; a Box of observations, Discrete actions.
        seed: of the environment's first reset.

    Raises:
        LearnerError: the environment resets otherwise, or its spaces do not fit the learner.
    """

    def __init__(self, env: VectorEnv, learner: "Learner", seed: int | None = None) -> None:
        mode, actions = env.metadata.get("autoreset_mode"), env.single_action_space
        if mode != AutoresetMode.SAME_STEP:
            raise LearnerError(
                f"The environment's autoreset_mode is {getattr(mode, 'value', mode)}; expected SameStep. "
                "Make it with autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP."
            )
        if not isinstance(actions, Discrete) or not isinstance(env.single_observation_space, Box) or actions.start:
            raise LearnerError(
                f"The environment has {env.single_observation_space} and {actions}; expected a Box and Discrete(n)."
            )
        features = int(np.prod(env.single_observation_space.shape))
        if (features, int(actions.n)) != (learner.state_dim, learner.action_dim):
            raise LearnerError(
                f"The environment has {features} features and {actions.n} actions; the policy is for "
                f"{learner.state_dim} and {learner.action_dim}."
            )
        self.env, self.learner, self._seed = env, learner, seed
        self._members = env.num_envs
        self._everything = np.ones((self._members, learner.action_dim), dtype=np.bool_)
        self._returns = np.zeros(self._members)
        self._lengths = np.zeros(self._members, dtype=np.int64)
        self._starts = np.ones(self._members, dtype=np.bool_)
        self._memory = learner.first_memory(self._members)
        self._observations: NDArray[Any] | None = None  # until the first rollout
        self._masks = self._everything

    def collect(
        self, steps: int | None = None, deterministic: bool = False, generator: torch.Generator | None = None
    ) -> Rollout:
        """So many steps of every member; None: until each has ended an episode.

        Args: generator: of the draws, in place of the learner's own.
        Raises LearnerError naming the member and step of a reward or observation that is not finite.
        """
        if self._observations is None:
            observations, info = self.env.reset(seed=self._seed)
            self._observations, self._masks = self._seen(observations), self._legal(info)
        first_memory = self._memory
        rows: list[tuple[Any, ...]] = []
        cuts: list[tuple[int, NDArray[np.intp], Tensor]] = []  # step, members whose time was up, what they expected
        episodes: list[EpisodeResult] = []
        waiting = np.ones(self._members, dtype=np.bool_)
        while waiting.any() if steps is None else len(rows) < steps:
            decision = self.learner.act(self._observations, self._masks, deterministic, self._memory, generator)
            observations, rewards, terminated, truncated, info = self.env.step(decision.actions.cpu().numpy())
            self._check("reward", rewards, len(rows))
            rows.append((self._observations, self._masks, self._starts, rewards, terminated, truncated, decision))
            self._returns += rewards
            self._lengths += 1
            memory, ended = decision.memory, terminated | truncated
            if ended.any():
                cut = np.flatnonzero(truncated & ~terminated)
                if len(cut) and self.learner.bootstrap_truncated:
                    final = self._seen(np.stack([info["final_obs"][member] for member in cut]), len(rows))
                    kept = None if memory is None else memory[torch.from_numpy(cut)]
                    cuts.append((len(rows) - 1, cut, self.learner.values(final, kept).cpu()))
                if memory is not None:
                    memory = memory.masked_fill(torch.from_numpy(ended).to(memory.device).unsqueeze(1), 0.0)
                episodes += self._ended(ended)
                waiting &= ~ended
            self._observations, self._masks = self._seen(observations, len(rows)), self._legal(info)
            self._starts, self._memory = ended, memory
        return self._rollout(rows, cuts, first_memory, tuple(episodes))

    def state(self) -> dict[str, Tensor]:
        """Where it stands between two rollouts; empty before the first."""
        if self._observations is None:
            return {}
        state = {
            "observations": torch.from_numpy(self._observations),
            "masks": torch.from_numpy(self._masks),
            "starts": torch.from_numpy(self._starts),
            "returns": torch.from_numpy(self._returns),
            "lengths": torch.from_numpy(self._lengths),
        }
        return state if self._memory is None else state | {"memory": self._memory}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue where `state()` was taken; the environment is set to its own state apart."""
        if not state:
            return
        plain = {name: value.clone() for name, value in state.items()}
        self._observations, self._masks = plain["observations"].numpy(), plain["masks"].numpy()
        self._starts, self._returns = plain["starts"].numpy(), plain["returns"].numpy()
        self._lengths = plain["lengths"].numpy()
        if self._memory is not None:
            self._memory = plain["memory"].to(self._memory)

    def _ended(self, ended: NDArray[np.bool_]) -> list[EpisodeResult]:
        episodes = [
            EpisodeResult(member, float(self._returns[member]), int(self._lengths[member]))
            for member in np.flatnonzero(ended).tolist()
        ]
        self._returns[ended] = 0.0
        self._lengths[ended] = 0
        return episodes

    def _rollout(
        self,
        rows: list[tuple[Any, ...]],
        cuts: list[tuple[int, NDArray[np.intp], Tensor]],
        memory: Tensor | None,
        episodes: tuple[EpisodeResult, ...],
    ) -> Rollout:
        *columns, decisions = zip(*rows, strict=True)
        observations, masks, starts, rewards, terminated, truncated = (
            torch.from_numpy(np.stack(column)) for column in columns
        )
        values = torch.stack([decision.values for decision in decisions]).cpu()
        assert self._observations is not None
        last = self.learner.values(self._observations, self._memory).cpu()
        next_values = torch.cat([values[1:], last.unsqueeze(0)]).masked_fill(terminated | truncated, 0.0)
        for step, members, expected in cuts:
            next_values[step, torch.from_numpy(members)] = expected
        return Rollout(
            observations=observations,
            masks=masks,
            actions=torch.stack([decision.actions for decision in decisions]).cpu(),
            log_probs=torch.stack([decision.log_probs for decision in decisions]).cpu(),
            rewards=rewards.to(values.dtype),
            values=values,
            next_values=next_values,
            terminated=terminated,
            truncated=truncated,
            starts=starts,
            memory=memory,
            episodes=episodes,
        )

    def _seen(self, observations: NDArray[Any], step: int = 0) -> NDArray[np.float32]:
        flat = observations.reshape(len(observations), -1).astype(np.float32, copy=False)
        self._check("observation", flat.sum(1), step)
        return flat

    def _legal(self, info: dict[str, Any]) -> NDArray[np.bool_]:
        masks = info.get("action_mask")
        if masks is None:
            own = getattr(self.env.unwrapped, "action_masks", None)
            if own is None:
                return self._everything
            masks = own()
        masks = np.asarray(masks, dtype=np.bool_)
        if masks.shape != self._everything.shape or not masks.any(1).all():
            raise LearnerError(
                f"The environment's action mask is {list(masks.shape)}, {int((~masks.any(-1)).sum())} of it without a "
                f"legal action; expected {list(self._everything.shape)}, and one in every row."
            )
        return masks

    def _check(self, what: str, values: NDArray[Any], step: int) -> None:
        if not np.isfinite(values).all():
            member = int(np.flatnonzero(~np.isfinite(values))[0])
            raise LearnerError(
                f"The {what} of member {member} is {values[member]} at step {step} of the rollout; expected finite "
                "numbers. Nothing was learned from this rollout."
            )


def evaluate(
    env: VectorEnv,
    learner: "Learner",
    episodes: int,
    *,
    seed: int,
    deterministic: bool = True,
) -> list[EpisodeResult]:
    """So many whole episodes, as many of each member as of any other (rounded up); the learner is left as it was.

    seed: of the environment's reset and of the policy's draws.
    """
    wanted = -(-episodes // env.num_envs)
    collector = Collector(env, learner, seed)
    generator = torch.Generator().manual_seed(seed)
    kept: list[EpisodeResult] = []
    counts = [0] * env.num_envs
    while min(counts) < wanted:
        for episode in collector.collect(None, deterministic, generator).episodes:
            if counts[episode.member] < wanted:
                counts[episode.member] += 1
                kept.append(episode)
    return kept

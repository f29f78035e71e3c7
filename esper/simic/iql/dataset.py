"""Transitions to learn from, out of what runs recorded."""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from esper.errors import LearnerError
from esper.simic.iql.recorded import RecordedEpisode, find_runs, read_episodes
from esper.simic.iql.slot_states import SEED_DIM, SlotWatcher, action_done, legal_actions_of
from esper.simic.rewards.config import MinimalRewardConfig
from esper.simic.rewards.functions import Reward, build_reward


@dataclass(frozen=True, slots=True)
class Transitions:
    """What was seen, done and earned. masks: True where an action was legal; dones: nothing follows.

    Shapes: states, next_states [N, S] float32; actions [N] int64; rewards [N] float32; dones [N] bool; masks [N, A].
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor
    dones: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.actions)

    def take(self, indices: Tensor) -> dict[str, Tensor]:
        """These transitions as a batch. Args: indices [B]."""
        return {field.name: getattr(self, field.name)[indices] for field in fields(self)}

    def with_rewards_scaled(self) -> "Transitions":
        """The same with rewards whose standard deviation is 1, unless they are all alike."""
        deviation = float(self.rewards.std(correction=0))
        return replace(self, rewards=self.rewards / deviation) if deviation > 0 else self

    def to(self, device: str | torch.device) -> "Transitions":
        """The same on a device."""
        return Transitions(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def read_dataset(
    run_dirs: Iterable[str | os.PathLike[str]], dims: int = SEED_DIM, reward: Reward | None = None
) -> Transitions:
    """The transitions of every slot of every member of these runs, whatever controller decided there.

    Each slot is a stream of its own and is given its member's rewards. Its actions are SimicActions: a planting counts
    as its blueprint's family (one that nobody has registered is left out), and what was refused or went to another slot
    as a wait. A static twin, whose slots are all alike, is one stream of waits in which planting was
    legal. An episode is over (`dones`) at its last epoch, or when its member is retired.

    Args:
        run_dirs: run directories, or folders that hold such.
        dims: 27 features, or 37 with the seed's telemetry.
        reward: from two successive reports; None: the minimal one. A reward that is paid epoch by epoch teaches far
            more than one that is paid at the end, as values have to travel back through every epoch in between.

    Raises: LearnerError for records that cannot be used (which, where, what was expected), for a reward that is not
    finite, and where there is no transition at all.
    """
    reward = reward or build_reward(MinimalRewardConfig())
    rows = [
        row
        for folder in run_dirs
        for run_dir in find_runs(folder)
        for episode in read_episodes(run_dir)
        for row in _transitions(episode, dims, reward, str(run_dir))
    ]
    if not rows:
        raise LearnerError("policy.dataset: these runs hold no transition; expected at least one with two epochs.")
    return Transitions(*map(torch.tensor, zip(*rows, strict=True)))


def _transitions(episode: RecordedEpisode, dims: int, reward: Reward, where: str) -> Iterator[tuple[Any, ...]]:
    watcher = SlotWatcher(dims)
    states = [watcher.states(report) for report in episode]
    for index, (before, after) in enumerate(pairwise(episode)):
        if before.retired:
            return
        earned = reward(before, after)
        if not math.isfinite(earned):
            raise LearnerError(
                f"{where}: the reward of member {after.member} in epoch {after.epoch} is {earned}; expected a finite "
                "number."
            )
        is_done = after.retired or after.epoch >= after.max_epochs
        slots = list(before.slots)[:1] if before.is_twin else before.slots
        for slot in slots:
            action, seed = action_done(after, slot), before.slots[slot]
            if action is None:
                continue
            legal = legal_actions_of(seed)
            legal[action.value] = True  # it was done
            yield states[index][slot], action.value, earned, states[index + 1][slot], is_done, legal

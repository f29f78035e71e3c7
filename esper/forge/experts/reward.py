"""Training by verified reward: REINFORCE on what the network itself answers, each answer against its siblings' mean."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.checkpoint import Checkpoint, read_bundle, restoring, write_bundle
from esper.checkpoint.bundle import bundle_paths
from esper.forge.examples import IGNORED, pad_examples
from esper.forge.experts.config import RewardBudget
from esper.forge.experts.singular_values import SingularValues, put_in
from esper.forge.lessons import Lesson
from esper.forge.phase import Interrupted, PhaseContext
from esper.forge.training import BETAS
from esper.forge.training_state import TrainingState
from esper.tasks.procedural import Problem
from esper.tasks.task import named_generator
from esper.tasks.text.tokenizer import Tokenizer

CHECKPOINT_EVERY = 20

Draw = Callable[[Lesson, int, torch.Generator], list[Problem]]


class RewardTraining:
    """An expert's singular values on their way to more right answers (Williams 1992; baseline: Kool et al. 2019).

    Args: draw: problems of a lesson that are the expert's. name: of the checkpoint, which `folder` keeps.
    """

    def __init__(
        self,
        scaled: SingularValues,
        lessons: Sequence[Lesson],
        draw: Draw,
        config: RewardBudget,
        tokenizer: Tokenizer,
        name: str,
        folder: Path,
        seed: int,
    ) -> None:
        self.scaled, self.step = scaled, 0
        self._lessons, self._draw, self._config, self._tokenizer = lessons, draw, config, tokenizer
        self._name, self._path = name, folder / f"{name}_reward"
        self._generator = named_generator(seed, f"experts/{name}/reward")
        self._writer: Any = copy.deepcopy(scaled.network)
        self._optimizer = torch.optim.AdamW(scaled.parameters(), config.learning_rate, BETAS, weight_decay=0.0)
        self._state = TrainingState(dict(scaled.named_parameters()), [self._optimizer], self._generator)
        if bundle_paths(self._path)[1].exists():
            checkpoint = read_bundle(self._path)
            with restoring(checkpoint):
                self._state.restore(checkpoint.tensors)
                self.step = checkpoint.epoch or 0

    def run(self, context: PhaseContext) -> None:
        """Train to the last step. Raises Interrupted, once a checkpoint is written, where that is asked for."""
        steps = self._config.steps
        while self.step < steps:
            reward = self._one_step()
            context.log(self.step, **{f"{self._name}_reward": reward})
            context.progress(self.step, steps, self._name)
            stops = self.step < steps and context.should_stop()
            if self.step % CHECKPOINT_EVERY == 0 or self.step == steps or stops:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                tensors = self._state.tensors()
                write_bundle(self._path, Checkpoint(tensors=tensors, kind="reward_training", epoch=self.step))
            if stops:
                raise Interrupted(self._name)

    def _one_step(self) -> float:
        """Returns: the mean reward."""
        config, scaled = self._config, self.scaled
        lesson = self._lessons[self.step % len(self._lessons)]
        self.step += 1
        problems = self._draw(lesson, config.problems, self._generator)
        if not problems:
            return 0.0
        asked = [problem for problem in problems for _ in range(config.answers)]
        put_in(self._writer, scaled.weights(scaled.values.detach()))
        examples, is_right = lesson.answers(self._writer, asked, self._tokenizer, 1.0, self._generator)
        rewards = torch.tensor(is_right, dtype=torch.float32)
        advantages = against_siblings(rewards.view(-1, config.answers)).flatten()
        x, y = pad_examples(examples, self._tokenizer.pad_token_id)
        self._optimizer.zero_grad()
        reward_loss(scaled(x), y, advantages).backward()
        nn.utils.clip_grad_norm_(scaled.parameters(), config.max_grad_norm)
        self._optimizer.step()
        return float(rewards.mean())


def against_siblings(rewards: Tensor) -> Tensor:
    """Each answer's reward less the mean of the others to the same problem, [N, A] -> [N, A]."""
    count = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * count / (count - 1)


def reward_loss(logits: Tensor, y: Tensor, advantages: Tensor) -> Tensor:
    """Minus the mean of each answer's log-probability times its advantage. Args: [B, T, V], [B, T], [B]."""
    nats = F.cross_entropy(logits.transpose(1, 2), y, ignore_index=IGNORED, reduction="none").sum(1)
    return (nats * advantages).mean()

"""Training on what a plan asks for, beside text and earlier lessons; to be gone on with bit for bit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esper.checkpoint import Checkpoint, read_bundle, restoring, write_bundle
from esper.checkpoint.bundle import bundle_paths
from esper.forge.curriculum.config import CurriculumConfig
from esper.forge.curriculum.plans import Plan
from esper.forge.curriculum.verifier_log import answer, verified
from esper.forge.examples import Example, answer_example, pad_examples
from esper.forge.lessons import Lesson
from esper.forge.phase import Interrupted, PhaseContext
from esper.forge.training import BETAS, CHECKPOINT, FINAL_RATE_SHARE, WARMUP_SHARE, even_text, next_token_loss
from esper.forge.training_state import TrainingState
from esper.simic.on_policy.schedules import schedule
from esper.tasks.procedural import Problem
from esper.tasks.text.tokenizer import Tokenizer

CHECKPOINT_ROUNDS = 5
_BARE_SHARE = 16  # one example of so many is a body without its prefix, which is to be left unanswered
_LESSON_SHARE = 4  # one of so many is of an earlier phase's lesson, where there is one
_MEASURED_ROUNDS = 5  # between two looks at the target


class CurriculumTraining:
    """One network on its way through its rounds.

    Args:
        name: of what is trained; its checkpoint is named after it. All see the same text in the same order.
        lessons: of earlier phases, which are not to be lost. target: problems that say how far it has come.
        folder: of the checkpoint, from which it goes on where there is one. fork: of a second one, which stays behind
            where the first level is left, for a control that goes another way from there.
    """

    def __init__(
        self,
        network: Any,
        plan: Plan,
        config: CurriculumConfig,
        context: PhaseContext,
        name: str,
        folder: Path,
        lessons: Sequence[Lesson] = (),
        target: Sequence[Problem] = (),
        fork: Path | None = None,
    ) -> None:
        self.network, self.plan, self.step = network, plan, 0
        self.curve: list[tuple[int, float]] = []  # (step, share of the target that is answered rightly)
        self._config, self._context, self._name = config, context, name
        self._lessons, self._target = lessons, target
        self._path, self._fork = folder / f"{name}_{CHECKPOINT}", fork
        self._text = even_text(context, config.text_batch_size, network.block_size, "curriculum")
        parameters = dict(network.named_parameters())
        self._optimizer = torch.optim.AdamW(
            parameters.values(), config.learning_rate, BETAS, weight_decay=config.weight_decay, fused=True
        )
        self._state = TrainingState(parameters, [self._optimizer], self._text.generator)
        self._steps = config.rounds * config.steps_per_round
        rate = config.learning_rate
        self._rate = schedule(
            "warmup_cosine", rate, FINAL_RATE_SHARE * rate, self._steps, int(WARMUP_SHARE * self._steps)
        )
        if bundle_paths(self._path)[1].exists():
            self._restore()

    def run(self) -> nn.Module:
        """Train until the rounds are over, or nothing is left to learn. Raises Interrupted, a checkpoint written."""
        config, context, total = self._config, self._context, self._steps
        while self.step < total and not self.plan.is_over:
            number, within = divmod(self.step, config.steps_per_round)
            if within == 0:
                self.plan.begin_round(number, self.network, self._text.generator)
                self._look(number)
                if self.plan.is_over:
                    break
            loss = self._one_step()
            if self.step % config.steps_per_round == 0:
                context.log(self.step, **{f"{self._name}_loss": loss})
                context.progress(self.step, total, self._name)
            if self._is_due or context.should_stop():
                self._save()
            if self.step < total and context.should_stop():
                raise Interrupted(self._name)
        self._save()
        return self.network.eval()

    @property
    def _is_due(self) -> bool:
        return self.step % (CHECKPOINT_ROUNDS * self._config.steps_per_round) == 0

    def _one_step(self) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(self.step)
        self.network.train()
        self._optimizer.zero_grad()
        parts = [pad_examples(self._examples(), self._context.tokenizer.pad_token_id), self._text.draw()]
        if self._lessons:
            parts.append(self._lesson_batch())
        total = 0.0
        for x, y in parts:
            loss = next_token_loss(self.network, x, y)
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(self.network.parameters(), self._config.max_grad_norm)
        self._optimizer.step()
        self.step += 1
        return total

    def _examples(self) -> list[Example]:
        """Problems with their answers, and some bodies without their prefix, with none."""
        count, tokenizer = self._config.batch_size, self._context.tokenizer
        bare = max(1, count // _BARE_SHARE)
        problems = self.plan.problems(count - bare, self._text.generator)
        examples = [answer_example(problem, tokenizer) for problem in problems]
        return examples + [
            unanswered(problem, tokenizer) for problem in problems[:: max(1, len(problems) // bare)][:bare]
        ]

    def _lesson_batch(self) -> tuple[Tensor, Tensor]:
        generator, tokenizer = self._text.generator, self._context.tokenizer
        lesson = self._lessons[int(torch.randint(len(self._lessons), (1,), generator=generator))]
        count = max(1, self._config.batch_size // _LESSON_SHARE)
        return pad_examples(lesson.examples(count, generator, tokenizer), tokenizer.pad_token_id)

    def _look(self, number: int) -> None:
        if not self._target or number % _MEASURED_ROUNDS:
            return
        given = answer(self.network, self._target, self._context.tokenizer)
        right = verified(self._target, given)
        self.curve.append((self.step, sum(right) / len(right)))
        self._context.log(self.step, **{f"{self._name}_target_accuracy": self.curve[-1][1]})

    def _save(self) -> None:
        state: dict[str, Any] = {"plan": self.plan.state(), "curve": [list(point) for point in self.curve]}
        checkpoint = Checkpoint(tensors=self._state.tensors(), kind="curriculum_training", epoch=self.step, state=state)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_bundle(self._path, checkpoint)
        # Not where a stop was asked for: with or without one, the fork is the same.
        if self._fork is not None and self.plan.is_at_start and self._is_due:
            self._fork.parent.mkdir(parents=True, exist_ok=True)
            write_bundle(self._fork, checkpoint)

    def _restore(self) -> None:
        checkpoint = read_bundle(self._path)
        with restoring(checkpoint):
            self._state.restore(checkpoint.tensors)
            self.plan.restore(checkpoint.state["plan"])
            self.curve = [(int(step), share) for step, share in checkpoint.state["curve"]]
            self.step = checkpoint.epoch or 0


def unanswered(problem: Problem, tokenizer: Tokenizer) -> Example:
    """A body without its prefix, which nobody has asked about: the text ends there."""
    return Example(tuple(tokenizer.encode(problem.body)), (tokenizer.eos_token_id,))

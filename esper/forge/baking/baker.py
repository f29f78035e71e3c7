"""The training of one bake: rows of the prompt that is baked, beside rows of what must not be lost."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from esper.forge.baking.config import BakingConfig
from esper.forge.baking.divergence import baking_loss, pool_divergence, trajectories
from esper.forge.baking.tasks import PrefixedTasks, Prompt
from esper.forge.budget import TrainingBudget
from esper.forge.examples import Example, GroupedBatches, grouped_loss, pool_batches
from esper.forge.lessons import Lesson
from esper.forge.lora import LoRA
from esper.forge.phase import PhaseContext
from esper.forge.replay import lesson_batches
from esper.forge.training import Batches, LanguageTraining, MixedBatches, even_text
from esper.tasks.task import named_generator
from esper.tasks.text.corpus import draw_windows

OPENER = 8  # tokens of text that a trajectory of text, or a prefix that the model writes, goes on from
HELD_OUT = 96  # trajectories that a divergence is measured on


@dataclass(frozen=True)
class Baker:
    """Everything that all trainings of the phase share. folder: of their checkpoints."""

    config: BakingConfig
    context: PhaseContext
    tasks: PrefixedTasks
    folder: Path

    def generator(self, purpose: str) -> torch.Generator:
        """Follows from the phase's seed and what it is for."""
        return named_generator(self.context.seed, f"baking/{purpose}")

    def lora(self, network: nn.Module, name: str) -> LoRA:
        """A change of the network that is none yet."""
        return LoRA(network, self.config.rank, self.config.alpha, self.generator(f"lora/{name}"))

    def openers(self, count: int, generator: torch.Generator) -> list[list[int]]:
        """Pieces of training text, from each domain in turn."""
        streams = [domain.train for domain in self.context.corpus.domains.values()]
        return [
            draw_windows(streams[place % len(streams)], 1, OPENER, generator)[0][0].tolist() for place in range(count)
        ]

    def pool(self, teacher: nn.Module, prompt: Prompt, count: int, purpose: str) -> list[Example]:
        """Trajectories of the prompted teacher: answers of the task, or text."""
        generator, tokenizer = self.generator(purpose), self.context.tokenizer
        if prompt.family is None:
            bodies, length = self.openers(count, generator), self.context.model.block_size
        else:
            problems = self.tasks.problems(prompt.family, count, generator)
            bodies, length = [self.tasks.body(problem) for problem in problems], self.tasks.answer_tokens
        return trajectories(teacher, prompt.tokens, bodies, length, tokenizer.eos_token_id, generator)

    def divergence(self, student: nn.Module, teacher: nn.Module, prompt: Prompt, pool: Sequence[Example]) -> float:
        """What the prompt still does, in nats a position."""
        pad = self.context.tokenizer.pad_token_id
        return pool_divergence(student, teacher, pool, len(prompt.tokens), pad)

    def bake(
        self,
        student: nn.Module,
        teacher: nn.Module,
        prompt: Prompt,
        pool: Sequence[Example],
        budget: TrainingBudget,
        name: str,
        kept: Sequence[Lesson],
    ) -> None:
        """Train the student to do unprompted what the teacher does after the prompt.

        Args: student: a `LoRA`, or a network whose weights are all trained. kept: lessons that are replayed, and text
        with them; empty: nothing is, and all rows are the prompt's.
        """
        config, tokenizer = self.config, self.context.tokenizer
        text = self._text(name, config.text_rows)
        baked = pool_batches(pool, budget.batch_size, tokenizer.pad_token_id, text.generator)
        batches = GroupedBatches([(baked, budget.batch_size)])
        if kept:
            lessons = lesson_batches(kept, config.lesson_rows, tokenizer, text.generator)
            batches = GroupedBatches(
                [(baked, budget.batch_size), (lessons, config.lesson_rows), (text, config.text_rows)]
            )
        loss = baking_loss(batches, teacher, len(prompt.tokens))
        self._train(LanguageTraining(student, batches, budget, name, self.folder, loss))

    def teach(self, network: nn.Module, lesson: Lesson, kept: Sequence[Lesson], name: str) -> None:
        """Train the network on right answers to a lesson; what it was taught before is replayed, and text."""
        config, tokenizer = self.config, self.context.tokenizer
        text, rows = self._text(name, config.text_rows), config.teaching.batch_size
        parts: list[tuple[Batches, int]] = [(lesson_batches([lesson], rows, tokenizer, text.generator), rows)]
        if kept:
            parts.append((lesson_batches(kept, config.lesson_rows, tokenizer, text.generator), config.lesson_rows))
        batches = GroupedBatches([*parts, (text, config.text_rows)])
        self._train(LanguageTraining(network, batches, config.teaching, name, self.folder, grouped_loss(batches)))

    def _text(self, name: str, rows: int) -> MixedBatches:
        return even_text(self.context, rows, self.context.model.block_size, f"baking/{name}")

    def _train(self, training: LanguageTraining) -> None:
        training.run(self.context, self.config.checkpoint_every_steps)

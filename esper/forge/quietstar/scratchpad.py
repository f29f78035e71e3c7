"""Baking of the scratchpad: supervised training on problems with their thoughts, of which a share is left empty."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from esper.forge.budget import TrainingBudget
from esper.forge.examples import Example, ExampleBatches, pad_examples, thought_example
from esper.forge.phase import PhaseContext
from esper.forge.quietstar.config import QuietstarConfig
from esper.forge.quietstar.problems import ThoughtProblems
from esper.forge.training import LanguageTraining, MixedBatches, even_text, next_token_loss
from esper.tasks.procedural import Problem
from esper.tasks.text.tokenizer import Tokenizer

BAKE_SHARE = 0.5  # of problems have their thought, in baking: thinking is a choice, which is then reinforced


def text_batches(context: PhaseContext, config: QuietstarConfig, name: str) -> MixedBatches:
    """Text that is not to be forgotten, evenly from all domains."""
    return even_text(context, config.text_batch_size, context.model.block_size, f"quietstar/{name}")


def train_on_thoughts(
    network: nn.Module,
    problems: ThoughtProblems,
    budget: TrainingBudget,
    config: QuietstarConfig,
    context: PhaseContext,
    name: str,
    folder: Path,
    share: float = BAKE_SHARE,
) -> None:
    """Train a network, in place, on problems of which a share has its thought, and on text beside them.

    The two are read apart, each at its own length: a problem is a third as long as a window of text.
    """
    tokenizer, text = context.tokenizer, text_batches(context, config, name)

    def draw(count: int, generator: torch.Generator) -> list[Example]:
        drawn = problems.draw(count, generator)
        thinks = (torch.rand(count, generator=generator) < share).tolist()
        return [
            thought_example(problem, tokenizer, None if is_thought else "")
            for problem, is_thought in zip(drawn, thinks, strict=True)
        ]

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return next_token_loss(model, x, y) + config.text_weight * next_token_loss(model, *text.draw())

    batches = ExampleBatches(draw, budget.batch_size, tokenizer.pad_token_id, text.generator)
    LanguageTraining(network, batches, budget, name, folder, loss).run(context)


def bake(
    network: nn.Module, problems: ThoughtProblems, config: QuietstarConfig, context: PhaseContext, folder: Path
) -> int:
    """Round after round until thoughts are right, as often as is allowed; how many it took."""
    for number in range(1, config.bake_rounds + 1):
        train_on_thoughts(network, problems, config.bake, config, context, f"bake{number}", folder)
        accuracy = thought_accuracy(network, problems.validation, context.tokenizer)
        context.log(number * config.bake.steps, thought_accuracy=accuracy)
        if accuracy >= config.min_thought_accuracy:
            return number
    return config.bake_rounds


@torch.inference_mode()
def thought_accuracy(network: nn.Module, problems: Sequence[Problem], tokenizer: Tokenizer) -> float:
    """Share of thoughts' tokens that are the likeliest behind the right ones before them.

    A thought's first token is not counted, which says whether there is a thought at all; its end is.
    """
    examples = [thought_example(problem, tokenizer) for problem in problems]
    x, y = pad_examples(examples, tokenizer.pad_token_id)
    hits = network(x).argmax(-1) == y
    right = counted = 0
    for row, (example, problem) in enumerate(zip(examples, problems, strict=True)):
        first = len(example.prompt) + 1  # predicts the thought's second token
        found = hits[row, first : first + len(tokenizer.encode(problem.thought))]
        right, counted = right + int(found.sum()), counted + len(found)
    return right / counted

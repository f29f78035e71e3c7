"""What a prompt still does to a model: the divergence of one that reads it from one that does not.

Prompt baking makes it small (Bhargava et al. 2024, arXiv 2409.13697): the student, without the prompt, is to predict
what the teacher, a frozen copy with the prompt, predicts, along trajectories that the teacher has written.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.forge.examples import IGNORED, Example, GroupedBatches, pad_examples
from esper.forge.sampling import sample
from esper.forge.training import next_token_loss

TEXT_WEIGHT = 2.0


def prompted_divergence(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, prefix: int) -> Tensor:
    """Mean KL(teacher || student), in nats a position.

    Args: x [B, T]: what the teacher reads, the prompt first; y [B, T]: IGNORED where nothing is compared. prefix:
    tokens of the prompt, which the student does not read; 0: both read the same.
    """
    is_compared = y != IGNORED
    with torch.no_grad():
        wanted = teacher(x)[is_compared].float().log_softmax(-1)
    given = student(x[:, prefix:])[is_compared[:, prefix:]].float().log_softmax(-1)
    return F.kl_div(given, wanted, reduction="batchmean", log_target=True)


def trajectories(
    teacher: nn.Module,
    prefix: Sequence[int],
    bodies: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: int,
    generator: torch.Generator,
) -> list[Example]:
    """What the teacher writes, drawn at temperature 1, after the prompt and each of the bodies."""
    prompts = [(*prefix, *body) for body in bodies]
    written = sample(teacher, prompts, max_new_tokens, stop, temperature=1.0, generator=generator)
    return [Example(prompt, tuple(tokens)) for prompt, tokens in zip(prompts, written, strict=True)]


@torch.no_grad()
def pool_divergence(student: nn.Module, teacher: nn.Module, pool: Sequence[Example], prefix: int, pad: int) -> float:
    """`prompted_divergence` over all of a pool's positions."""
    x, y = pad_examples(pool, pad)
    return float(prompted_divergence(student, teacher, x, y, prefix))


def baking_loss(
    batches: GroupedBatches, teacher: nn.Module, prefix: int
) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """The loss of the prompt that is baked, and, where they are there, of tasks and text beside it.

    Tasks are replayed as an empty prompt is baked: the student is held to what the teacher says of the same tokens.
    Text is learned from as ever, and weighs twice. Args: prefix: tokens of the prompt.
    """

    def loss(student: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        baked, *replayed = batches.split(x, y)
        divergence = prompted_divergence(student, teacher, *baked, prefix)
        if not replayed:
            return divergence
        lessons, text = replayed
        kept = prompted_divergence(student, teacher, *lessons, 0) + TEXT_WEIGHT * next_token_loss(student, *text)
        return (divergence + kept) / (2 + TEXT_WEIGHT)

    return loss

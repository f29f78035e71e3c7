"""What candidates and half-bakes are chosen by: problems and text of the selection split."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from esper.forge.baking.baker import Baker
from esper.forge.baking.config import BakingConfig
from esper.forge.baking.tasks import Prompt
from esper.forge.examples import IGNORED, Example, answer_example, pad_examples
from esper.tasks.text.windows import every_window

NO_PROMPT = Prompt(())


@dataclass(frozen=True, slots=True)
class TaskScores:
    """Of one model on the selection split.

    prefixed: accuracy of each task behind its prefix. bits: a byte of text, unprompted. answer_nats: of right answers
    of the task that is being baked, unprompted, a token; it tells half-bakes apart while the likeliest answer is still
    wrong. unprompted: accuracy of that task. Both None while there is none.
    """

    prefixed: Mapping[str, float]
    bits: float
    answer_nats: float | None = None
    unprompted: float | None = None

    def plain(self) -> dict[str, Any]:
        """As the log has it."""
        return asdict(self)


def is_better(cycle: str, before: TaskScores, after: TaskScores, floor: TaskScores, config: BakingConfig) -> bool:
    """Whether a half-bake is kept.

    No task may lose more than `max_loss` against the floor, where all cycles began. In cycle A right answers must have
    become likelier unprompted, and text cost no more than its gate allows; in cycle B text must have become likelier,
    and the task that is being baked lose no more than any other.
    """
    if any(after.prefixed[name] < accuracy - config.max_loss for name, accuracy in floor.prefixed.items()):
        return False
    if cycle == "B":
        is_kept = (after.unprompted or 0.0) >= (before.unprompted or 0.0) - config.max_loss
        return is_kept and after.bits < before.bits
    assert before.answer_nats is not None and after.answer_nats is not None
    return after.answer_nats < before.answer_nats and after.bits <= config.max_text_ratio * floor.bits


class Selection:
    """Measures models on problems and windows that are drawn once, and that no figure of a gate is measured on."""

    def __init__(self, baker: Baker) -> None:
        config, self._baker = baker.config, baker
        generator = baker.generator("selection")
        self.problems = {
            family: baker.tasks.problems(family, config.selection_problems, generator)
            for family in baker.tasks.families
        }
        # All candidates are scored on the same tokens, with as much room before them as the longest leaves.
        length = baker.context.model.block_size - config.prefix_tokens
        self._windows = [
            every_window(domain.val[: config.selection_windows * length + 1], length)
            for domain in baker.context.corpus.domains.values()
        ]

    def standing(self, network: nn.Module, family: str | None) -> TaskScores:
        """Args: family: the task that is being baked, if any."""
        prefixed = self.prefixed(network)
        bits = self.text_bits(network, NO_PROMPT)
        if family is None:
            return TaskScores(prefixed, bits)
        tasks, problems = self._baker.tasks, self.problems[family]
        tokenizer = tasks.tokenizer
        answers = [answer_example(problem, tokenizer, problem.body) for problem in problems]
        return TaskScores(
            prefixed,
            bits,
            example_nats(network, answers, tokenizer.pad_token_id),
            tasks.accuracy(network, (), problems),
        )

    def prefixed(self, network: nn.Module) -> dict[str, float]:
        """Accuracy of each task behind its own prefix."""
        tasks = self._baker.tasks
        return {
            name: tasks.accuracy(network, tasks.prompt(name).tokens, problems)
            for name, problems in self.problems.items()
        }

    def gain(self, network: nn.Module, prompt: Prompt) -> float:
        """What a prompt adds to none at all: accuracy of its task, or bits a byte by which text becomes likelier."""
        if prompt.family is None:
            return self.text_bits(network, NO_PROMPT) - self.text_bits(network, prompt)
        accuracy, problems = self._baker.tasks.accuracy, self.problems[prompt.family]
        return accuracy(network, prompt.tokens, problems) - accuracy(network, (), problems)

    @torch.inference_mode()
    def text_bits(self, network: nn.Module, prompt: Prompt) -> float:
        """Bits a byte of the selection text behind a prompt, a mean over domains."""
        token_bytes, found = self._baker.context.tokenizer.token_bytes, []
        for x, y in self._windows:
            before = torch.tensor(prompt.tokens, dtype=torch.int64).expand(len(x), -1)
            logits = network(torch.cat((before, x), 1))[:, len(prompt.tokens) :]
            nats = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="sum")
            found.append(float(nats) / float(token_bytes[y].sum()) / math.log(2))
        return sum(found) / len(found)


@torch.inference_mode()
def example_nats(network: nn.Module, examples: Sequence[Example], pad: int) -> float:
    """Cross-entropy of what should follow, in nats a token."""
    x, y = pad_examples(examples, pad)
    return float(F.cross_entropy(network(x).flatten(0, 1).float(), y.flatten(), ignore_index=IGNORED))

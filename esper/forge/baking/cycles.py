"""A/B cycles: prompts are tried, the best one is half-baked, and what came of it is kept if it is better.

Cycle A tries prefixes of tasks, by how much they add to the right answers that a verifier counts; cycle B tries
prefixes that the model has written itself, by how much they help it to predict text. A cycle that gains nothing more
makes way for the other; when both have done so twice, it is over.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from esper.files import write_atomic
from esper.forge.baking.baker import HELD_OUT, OPENER, Baker
from esper.forge.baking.scaling import scale_to
from esper.forge.baking.selection import Selection, is_better
from esper.forge.baking.tasks import Prompt
from esper.forge.lessons import Lesson
from esper.forge.sampling import sample

LOG = "cycles.jsonl"
HALF = 0.5  # of a prompt's divergence, that a half-bake leaves
PLATEAUS = 2  # of each cycle, after which all is over


@dataclass(frozen=True, slots=True)
class Scored:
    """A prompt and its score, see `Selection.gain`."""

    prompt: Prompt
    score: float


def best_of(scored: Sequence[Scored], slack: float) -> Scored | None:
    """The first whose score is above nought, and within the slack of the highest; None where there is none."""
    highest = max((candidate.score for candidate in scored), default=0.0)
    good = (candidate for candidate in scored if candidate.score > 0 and candidate.score >= highest - slack)
    return next(good, None)


class Cycles:
    """Half-bakes prompts into a network, which is left as it is: what `run` answers is another.

    Args: kept: lessons that are replayed. folder: where the log `cycles.jsonl` is written.
    """

    def __init__(self, baker: Baker, selection: Selection, kept: Sequence[Lesson], folder: Path) -> None:
        self._baker, self._selection, self._kept, self._folder = baker, selection, list(kept), folder
        self.family: str | None = None  # the first that a half-bake of helped: unprompted, a model does one thing
        self.rounds: list[dict[str, Any]] = []

    def run(self, network: nn.Module) -> nn.Module:
        """All cycles. Raises: Interrupted, once a checkpoint is written, where that is asked for."""
        self._floor = self._selection.standing(network, None)
        plateaus, cycle = {"A": 0, "B": 0}, "A"
        while min(plateaus.values()) < PLATEAUS:
            for _ in range(self._baker.config.max_rounds):
                better = self._round(cycle, network)
                if better is None:
                    break
                network = better
            plateaus[cycle] += 1
            cycle = "B" if cycle == "A" else "A"
        return network

    def candidates(self, cycle: str, network: nn.Module) -> list[Scored]:
        """Prompts with their scores, in the order in which they are tried."""
        baker, number = self._baker, len(self.rounds)
        generator = baker.generator(f"candidates/{number}")
        if cycle == "A":
            families = (self.family,) if self.family else baker.tasks.families
            prompts = [baker.tasks.prompt(family) for family in families]
            prompts += [baker.tasks.worked_prompt(family, generator) for family in families]
        else:
            config, stop = baker.config, baker.context.tokenizer.eos_token_id
            openers = baker.openers(config.candidates, generator)
            written = sample(network, openers, config.prefix_tokens, stop, temperature=1.0, generator=generator)
            prompts = [Prompt(tuple(token for token in tokens if token != stop)) for tokens in written]
        return [Scored(prompt, self._selection.gain(network, prompt)) for prompt in prompts if prompt.tokens]

    def _round(self, cycle: str, network: nn.Module) -> nn.Module | None:
        """The network with the winner half-baked; None where nothing is better."""
        baker, config, name = self._baker, self._baker.config, f"round_{len(self.rounds)}"
        scored = self.candidates(cycle, network)
        # In cycle A, what the problems cannot tell apart is taken in the families' order.
        best = best_of(scored, config.max_loss if cycle == "A" else 0.0)
        record: dict[str, Any] = {"cycle": cycle, "candidates": [self._plain(candidate) for candidate in scored]}
        if best is None:
            return self._conclude({**record, "winner": None, "accepted": False}, None)
        family = self.family or best.prompt.family
        before = self._selection.standing(network, family)
        student = copy.deepcopy(network)
        lora = baker.lora(student, name)
        share = self._half_bake(lora, network, best.prompt, name)
        record |= {"winner": self._plain(best), "scale": lora.scale, "divergence_left": share}
        after = self._selection.standing(lora.fold(), family)
        accepted = is_better(cycle, before, after, self._floor, config)
        record |= {"before": before.plain(), "after": after.plain(), "accepted": accepted}
        if accepted and cycle == "A":
            self.family = family
        return self._conclude(record, student if accepted else None)

    def _half_bake(self, lora: Any, teacher: nn.Module, prompt: Prompt, name: str) -> float:
        baker, config = self._baker, self._baker.config
        teacher = copy.deepcopy(teacher).eval()
        pool = baker.pool(teacher, prompt, config.trajectories, f"{name}/pool")
        held_out = baker.pool(teacher, prompt, HELD_OUT, f"{name}/held_out")
        kept = self._kept
        if prompt.family is None and self.family is not None:
            kept = [*kept, baker.tasks.lesson("unprompted", [self.family])]  # what cycle A has begun is replayed, too
        baker.bake(lora, teacher, prompt, pool, config.half_baking, name, kept)
        return scale_to(lora, lambda changed: baker.divergence(changed, teacher, prompt, held_out), HALF)

    def _plain(self, candidate: Scored) -> dict[str, Any]:
        prompt = candidate.prompt
        text = self._baker.context.tokenizer.decode(list(prompt.tokens))
        return {"prompt": text, "family": prompt.family, "score": candidate.score}

    def _conclude(self, record: dict[str, Any], network: nn.Module | None) -> nn.Module | None:
        """Log a round; the whole log is written each time, so that a phase that goes on writes what it wrote before."""
        self.rounds.append({"round": len(self.rounds), **record})
        lines = "".join(json.dumps(line) + "\n" for line in self.rounds)
        write_atomic(self._folder / LOG, lines.encode())
        return network


def least_room(prefix_tokens: int) -> int:
    """Tokens that a model must read for a prefix of text, and text before and behind it."""
    return prefix_tokens + 2 * OPENER

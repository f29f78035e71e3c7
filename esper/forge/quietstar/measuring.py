"""What thinking is worth: answers after the model's own thought, after none, and after one of another problem."""

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import nn

from esper.forge.examples import think_tokens
from esper.forge.quietstar.episodes import longest_answer, rewards_of, think_aloud
from esper.tasks.procedural import Problem
from esper.tasks.task import named_generator
from esper.tasks.text.tokenizer import Tokenizer


def exact_match(network: nn.Module, tokenizer: Tokenizer, problems: Sequence[Problem]) -> dict[str, float]:
    """Share of sampled answers that are right, over all problems, and by family; the same random numbers every time."""
    _, rewards = _answered(network, tokenizer, problems)
    found = {"exact_match": fmean(rewards)}
    return found | {f"{family}/exact_match": score for family, score in _by_family(problems, rewards).items()}


def thought_worth(network: nn.Module, tokenizer: Tokenizer, problems: Sequence[Problem]) -> dict[str, float]:
    """By family: exact match after the model's own thought, an empty one, and one that it had on another problem.

    The other problem is of the same family and level. What is put in stands where the model's own would, and the
    model writes the answer alone.
    """
    end_think = think_tokens(tokenizer)[1]
    written, _ = _answered(network, tokenizer, problems)
    thoughts = [text[: text.index(end_think)] if end_think in text else text for text in written]
    put_in: dict[str, list[list[int]]] = {
        "own": thoughts,
        "none": [[] for _ in problems],
        "shuffled": [thoughts[place] for place in _others(problems)],
    }
    metrics: dict[str, float] = {}
    for name, given in put_in.items():
        _, answers = think_aloud(
            network, tokenizer, problems, longest_answer(problems, tokenizer), _generator(name), given
        )
        rewards = rewards_of(problems, answers, tokenizer, thinks=False)
        metrics |= {f"{family}/{name}": score for family, score in _by_family(problems, rewards).items()}
    for family in dict.fromkeys(problem.family for problem in problems):
        for name in ("none", "shuffled"):
            metrics[f"{family}/own_minus_{name}"] = metrics[f"{family}/own"] - metrics[f"{family}/{name}"]
    return metrics


def _answered(
    network: nn.Module, tokenizer: Tokenizer, problems: Sequence[Problem]
) -> tuple[list[list[int]], list[float]]:
    most = longest_answer(problems, tokenizer)
    _, written = think_aloud(network, tokenizer, problems, most, _generator("answers"))
    return written, rewards_of(problems, written, tokenizer)


def _generator(name: str) -> torch.Generator:
    return named_generator(0, f"quietstar/measuring/{name}")


def _others(problems: Sequence[Problem]) -> list[int]:
    """For each problem the place of the next one of its family and level, in a ring."""
    places: dict[tuple[str, int], list[int]] = {}
    for place, problem in enumerate(problems):
        places.setdefault((problem.family, problem.level), []).append(place)
    after = {place: ring[(i + 1) % len(ring)] for ring in places.values() for i, place in enumerate(ring)}
    return [after[place] for place in range(len(problems))]


def _by_family(problems: Sequence[Problem], rewards: Sequence[float]) -> dict[str, float]:
    families = dict.fromkeys(problem.family for problem in problems)
    return {
        family: fmean(reward for problem, reward in zip(problems, rewards, strict=True) if problem.family == family)
        for family in families
    }

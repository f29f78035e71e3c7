"""The merges that need no search, and what a search weighs."""

from collections.abc import Mapping, Sequence

import torch

from esper.forge.evomerge import methods
from esper.forge.evomerge.config import EvomergeConfig
from esper.forge.evomerge.groups import group_names
from esper.forge.evomerge.methods import State
from esper.tasks.task import named_generator


def fixed_merges(
    config: EvomergeConfig, trunk: State, experts: Sequence[State], groups: Mapping[str, str], seed: int
) -> dict[str, State]:
    """One merge by each method, with the weights that are usual: name -> state dict."""
    even = torch.full((len(experts),), 1 / len(experts))
    same = torch.full_like(even, config.task_arithmetic_weight)
    arc = experts[0]
    for count, expert in enumerate(experts[1:], start=2):
        arc = methods.slerp(arc, expert, 1 / count)
    turns = {group: number % len(experts) for number, group in enumerate(group_names(groups))}
    generator = named_generator(seed, "evomerge/dare")
    return {
        "soup": methods.linear(experts, even),
        "slerp": arc,
        "task_arithmetic": methods.task_arithmetic(trunk, experts, same),
        "ties": methods.ties(trunk, experts, torch.ones_like(even), config.ties_density),
        "dare": methods.dare(trunk, experts, even, config.dare_drop_rate, generator),
        "passthrough": methods.passthrough(experts, {name: turns[group] for name, group in groups.items()}),
    }


def search_vectors(config: EvomergeConfig, trunk: State, experts: Sequence[State], seed: int) -> State:
    """The task vectors as `evomerge.method` changes them: name -> [E, *shape], whose sum over E by the weights of
    `start_weight` is that method's own merge."""
    if config.method == "ties":
        return methods.ties_vectors(trunk, experts, config.ties_density)
    if config.method == "dare":
        return methods.dare_vectors(trunk, experts, config.dare_drop_rate, named_generator(seed, "evomerge/dare"))
    return methods.task_vectors(trunk, experts)


def start_weight(config: EvomergeConfig, experts: int) -> float:
    """The weight of every expert in every layer group where a search starts: the uniform soup of the method."""
    return 1.0 if config.method == "ties" else 1 / experts

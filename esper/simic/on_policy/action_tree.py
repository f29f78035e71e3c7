"""Choosing one of many actions step by step: operation, then slot, then blueprint, then blend."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from esper.errors import LearnerError

_FORBIDDEN = -1e30  # finite, so that a group without a legal child stays free of NaN; its exponential is exactly zero


class ActionTree(nn.Module):
    """An autoregressive distribution over flat actions, each step under its exact mask.

    Actions are the leaves of a tree; an action's path lists the choices that lead to it. A network hands over the
    logits of all steps at once, [B, N] with N = `size`: G groups of siblings, padded to K, one after the other. A step
    that leaves nothing to choose has no logits. A choice is legal where an action beneath it is.

    Args:
        paths: of each action, in the order of its number. Raises LearnerError where two are equal or one is the
            beginning of another.
    """

    incidence: Tensor
    towards: Tensor
    depths: Tensor
    lengths: Tensor

    def __init__(self, paths: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.paths = tuple(tuple(path) for path in paths)
        children: dict[tuple[int, ...], list[int]] = {(): []}
        for path in self.paths:
            for depth, choice in enumerate(path):
                siblings = children.setdefault(path[:depth], [])
                if choice not in siblings:
                    siblings.append(choice)
        if len(set(self.paths)) < len(self.paths) or any(path in children for path in self.paths):
            raise LearnerError(f"{len(self.paths)} paths of actions: expected distinct ones, none beginning another.")
        groups = [prefix for prefix, choices in children.items() if len(choices) > 1 or not prefix]
        self._root = children[()]
        self._width = max(len(children[prefix]) for prefix in groups)
        self.levels = max(map(len, self.paths))
        self.size = len(groups) * self._width

        def steps(path: tuple[int, ...]) -> list[int]:
            """Where among the N the choices of a path stand."""
            return [
                groups.index(path[:depth]) * self._width + children[path[:depth]].index(choice)
                for depth, choice in enumerate(path)
                if path[:depth] in groups
            ]

        incidence, towards = torch.zeros(len(self.paths), self.size), torch.zeros(len(groups), self.size)
        depths = torch.zeros(len(groups), self.levels)
        for row, path in zip(incidence, self.paths, strict=True):
            row[steps(path)] = 1
        for group, prefix in enumerate(groups):
            towards[group, steps(prefix)] = 1
            depths[group, len(prefix)] = 1
        self.register_buffer("incidence", incidence, persistent=False)  # [A, N] which choices lead to an action
        self.register_buffer("towards", towards, persistent=False)  # [G, N] which choices lead to a group
        self.register_buffer("depths", depths, persistent=False)  # [G, D]
        self.register_buffer("lengths", incidence.sum(1), persistent=False)  # [A]

    @classmethod
    def flat(cls, actions: int) -> "ActionTree":
        """A single choice among so many actions: the plain categorical distribution."""
        return cls([(action,) for action in range(actions)])

    def __len__(self) -> int:
        return len(self.paths)

    def log_probs(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The log-probability of every action [B, A]; -inf where it is forbidden.

        Args: logits [B, N]; mask [B, A], bool, with a legal action in each row.
        """
        return self._joint(self._steps(logits, mask)[0], mask)

    def entropy_by_level(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The expected entropy of each step [B, D], in nats; their sum is the entropy over actions.

        No gradient flows through how likely a step is to be reached: a bonus evens out each step among its own choices,
        and does not favour those that have more beneath them.
        """
        return self._entropies(*self._steps(logits, mask))

    def evaluate(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`log_probs` [B, A] and `entropy_by_level` [B, D] at once."""
        steps, legal = self._steps(logits, mask)
        return self._joint(steps, mask), self._entropies(steps, legal)

    def sample(self, log_probs: Tensor, generator: torch.Generator) -> Tensor:
        """One action a row [B], drawn on the generator's device. Args: log_probs [B, A]."""
        return torch.multinomial(log_probs.to(generator.device).exp(), 1, generator=generator).squeeze(1)

    def mode(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The action [B] that taking the likeliest choice at every step leads to.

        Not the likeliest action: where planting is likelier than waiting it plants, however many blueprints share in
        it.
        """
        steps, legal = self._steps(logits, mask)
        best = steps.masked_fill(~legal, _FORBIDDEN).argmax(-1, keepdim=True)
        taken = torch.zeros_like(steps).scatter_(-1, best, 1.0).flatten(1)
        missed = self.lengths - taken @ self.incidence.T
        return missed.masked_fill(~mask, math.inf).argmin(1)

    def bias(self, prior: Mapping[int, float]) -> Tensor:
        """Logits [N] under which the first choice follows these weights and all others are even.

        Raises LearnerError where they are not of exactly the tree's first choices, or not above zero.
        """
        if prior.keys() != set(self._root) or not all(weight > 0 for weight in prior.values()):
            raise LearnerError(f"prior={dict(prior)}: expected a weight above 0 for each of {self._root}.")
        logits = torch.zeros(self.size)
        logits[: len(self._root)] = torch.tensor([prior[choice] for choice in self._root]).log()
        return logits

    def _steps(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The conditional log-probability of every choice, 0 where it is forbidden, and which are legal: [B, G, K]."""
        shape = (len(self.towards), self._width)
        legal = (mask.to(logits.dtype) @ self.incidence).unflatten(1, shape) > 0
        steps = logits.unflatten(1, shape).masked_fill(~legal, _FORBIDDEN).log_softmax(-1)
        return steps.masked_fill(~legal, 0.0), legal

    def _joint(self, steps: Tensor, mask: Tensor) -> Tensor:
        return (steps.flatten(1) @ self.incidence.T).masked_fill(~mask, -math.inf)

    def _entropies(self, steps: Tensor, legal: Tensor) -> Tensor:
        within = -(steps.exp() * steps).sum(-1)  # [B, G]; a forbidden choice adds 1 * 0
        reached = (steps.detach().flatten(1) @ self.towards.T).exp() * legal.any(-1)
        return (reached * within) @ self.depths

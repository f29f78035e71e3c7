import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from esper.errors import LearnerError
from esper.leyline import ActionLayout, Operation
from esper.simic.on_policy.action_tree import ActionTree

LAYOUT = ActionLayout(("early", "mid", "late"), ("norm", "conv_light", "attention"), ("sigmoid", "gated"))
TREE = ActionTree(LAYOUT.paths)
A, N = len(TREE), TREE.size


def random_case(rows: int, seed: int = 0, forbid: float = 0.6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, A, generator=generator) > forbid
    mask[:, 0] |= ~mask.any(1)
    return 2 * torch.randn(rows, N, generator=generator, dtype=torch.float64), mask


def by_hand(logits: list[float], mask: list[bool]) -> tuple[list[float], list[float]]:
    """Probabilities of all actions and entropy of each step, going down the tree choice by choice.

    Groups of siblings are numbered as they are met, action by action; logits stand group by group, padded.
    """
    prefixes: dict[tuple[int, ...], list[int]] = {}
    for path in LAYOUT.paths:
        for depth, choice in enumerate(path):
            known = prefixes.setdefault(path[:depth], [])
            if choice not in known:
                known.append(choice)
    groups = [prefix for prefix, choices in prefixes.items() if len(choices) > 1]
    width = max(len(prefixes[prefix]) for prefix in groups)
    probabilities, entropies = [0.0] * A, [0.0] * 4

    def descend(prefix: tuple[int, ...], reached: float) -> None:
        if prefix in LAYOUT.paths:
            probabilities[LAYOUT.paths.index(prefix)] = reached
            return
        legal = [
            choice
            for choice in prefixes[prefix]
            if any(mask[i] for i, path in enumerate(LAYOUT.paths) if path[: len(prefix) + 1] == (*prefix, choice))
        ]
        row = groups.index(prefix) * width if prefix in groups else None
        scores = [0.0 if row is None else logits[row + prefixes[prefix].index(choice)] for choice in legal]
        total = sum(math.exp(score) for score in scores)
        for choice, score in zip(legal, scores, strict=True):
            share = math.exp(score) / total
            entropies[len(prefix)] -= reached * share * math.log(share)
            descend((*prefix, choice), reached * share)

    descend((), 1.0)
    return probabilities, entropies


def test_it_is_the_masked_product_of_steps() -> None:
    logits, mask = random_case(40)
    log_probs, entropies = ActionTree(LAYOUT.paths).double().evaluate(logits, mask)
    for row in range(len(logits)):
        probabilities, by_level = by_hand(logits[row].tolist(), mask[row].tolist())
        assert log_probs[row].exp().tolist() == pytest.approx(probabilities, abs=1e-12)
        assert entropies[row].tolist() == pytest.approx(by_level, abs=1e-12)


def test_the_steps_entropies_add_up_to_that_of_actions() -> None:
    logits, mask = random_case(40, seed=1)
    log_probs, entropies = TREE.evaluate(logits.float(), mask)
    joint = -(log_probs.exp() * log_probs.masked_fill(~mask, 0)).sum(1)
    torch.testing.assert_close(entropies.sum(1), joint)
    torch.testing.assert_close(TREE.entropy_by_level(logits.float(), mask), entropies)
    torch.testing.assert_close(TREE.log_probs(logits.float(), mask), log_probs)


@settings(max_examples=60, deadline=None)
@given(
    logits=arrays.arrays(np.float32, (3, N), elements=st.floats(-1e4, 1e4, width=32)),
    mask=arrays.arrays(np.bool_, (3, A)),
    seed=st.integers(0, 2**31),
)
def test_nothing_forbidden_ever_happens(logits: np.ndarray, mask: np.ndarray, seed: int) -> None:
    mask[:, 0] |= ~mask.any(1)
    legal, given_logits = torch.from_numpy(mask), torch.from_numpy(logits).requires_grad_()
    log_probs, entropies = TREE.evaluate(given_logits, legal)
    assert (log_probs[~legal] == -math.inf).all() and log_probs[legal].isfinite().all()
    assert torch.allclose(log_probs.exp().sum(1), torch.ones(3), atol=1e-4)
    assert (entropies >= 0).all() and entropies.isfinite().all()
    generator = torch.Generator().manual_seed(seed)
    for chosen in (TREE.sample(log_probs.detach(), generator), TREE.mode(given_logits.detach(), legal)):
        assert legal.gather(1, chosen.unsqueeze(1)).all()
    (log_probs.masked_fill(~legal, 0).sum() + entropies.sum()).backward()
    assert given_logits.grad is not None and given_logits.grad.isfinite().all()


def test_a_single_legal_action_is_certain_and_teaches_nothing() -> None:
    mask = torch.zeros(A, A, dtype=torch.bool).fill_diagonal_(True)
    logits = random_case(A, seed=2)[0].float().requires_grad_()
    log_probs, entropies = TREE.evaluate(logits, mask)
    assert (log_probs.diagonal() == 0).all() and (entropies == 0).all()
    log_probs.diagonal().sum().backward()
    assert logits.grad is not None and not logits.grad.any()


def test_a_flat_tree_is_the_categorical_distribution() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(5, 4, dtype=torch.bool)
    log_probs, entropies = ActionTree.flat(4).evaluate(logits, mask)
    expected = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(log_probs, expected.logits)
    torch.testing.assert_close(entropies, expected.entropy().unsqueeze(1))
    assert ActionTree.flat(4).mode(logits, mask).tolist() == logits.argmax(1).tolist()


def test_draws_follow_the_probabilities_and_the_generator() -> None:
    logits, mask = random_case(1, seed=3, forbid=0.3)
    log_probs = TREE.log_probs(logits.float(), mask).expand(20_000, -1)
    drawn = TREE.sample(log_probs, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, TREE.sample(log_probs, torch.Generator().manual_seed(0)))
    shares = torch.bincount(drawn, minlength=A) / len(drawn)
    torch.testing.assert_close(shares, log_probs[0].exp(), atol=0.015, rtol=0)


def test_the_mode_takes_the_likeliest_step_each_time() -> None:
    everything = torch.ones(1, A, dtype=torch.bool)
    logits = TREE.bias({0: 0.3, 1: 0.6, 2: 0.05, 3: 0.05}).unsqueeze(0)
    chosen = LAYOUT.actions[int(TREE.mode(logits, everything))]
    assert chosen.operation is Operation.GERMINATE, "planting is likelier than waiting, though no single planting is"
    assert int(TREE.log_probs(logits, everything).argmax()) == 0
    waiting_only = torch.zeros_like(everything)
    waiting_only[0, 0] = True
    assert int(TREE.mode(logits, waiting_only)) == 0


def test_the_prior_is_of_operations_among_what_is_legal() -> None:
    logits = TREE.bias({0: 6.0, 1: 2.0, 2: 1.0, 3: 1.0}).unsqueeze(0)
    mask = torch.ones(1, A, dtype=torch.bool)
    found: Counter[Operation] = Counter()
    for action, chance in zip(LAYOUT.actions, TREE.log_probs(logits, mask)[0].exp().tolist(), strict=True):
        found[action.operation] += chance  # type: ignore[assignment]
    assert [found[operation] for operation in Operation] == pytest.approx([0.6, 0.2, 0.1, 0.1])
    dormant = torch.tensor([[action.operation in (Operation.WAIT, Operation.GERMINATE) for action in LAYOUT.actions]])
    assert TREE.log_probs(logits, dormant)[0, 0].exp().item() == pytest.approx(0.75)
    with pytest.raises(LearnerError, match="weight above 0"):
        TREE.bias({0: 1.0, 1: 1.0})


def test_a_bonus_on_entropy_does_not_favour_what_has_more_beneath() -> None:
    logits = torch.zeros(1, N, requires_grad=True)
    TREE.entropy_by_level(logits, torch.ones(1, A, dtype=torch.bool)).sum().backward()
    assert logits.grad is not None and logits.grad.abs().max() < 1e-6, "even at every step: nothing to gain"


def test_no_logits_where_there_is_no_choice() -> None:
    one_blend = ActionTree(ActionLayout(("only",), ("norm", "conv_light"), ("sigmoid",)).paths)
    assert one_blend.size == 2 * 4, "operations, and blueprints padded to as many"
    assert one_blend.levels == 4


@pytest.mark.parametrize("paths", [[(0,), (0,)], [(0,), (0, 1)], [(0, 1), (0,)]])
def test_paths_that_are_no_tree(paths: list[tuple[int, ...]]) -> None:
    with pytest.raises(LearnerError, match="paths"):
        ActionTree(paths)

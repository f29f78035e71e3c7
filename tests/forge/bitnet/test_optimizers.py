"""Muon beside torch's own, Grokfast's filter by hand."""

import pytest
import torch
from torch import nn

from esper.forge.bitnet.optimizers import GradientFilter, Muon, even_gradients, orthogonalize
from esper.tasks.task import named_generator


def matrix(outputs: int, inputs: int) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=named_generator(inputs, f"matrix/{outputs}"))


@pytest.mark.parametrize(("outputs", "inputs"), [(8, 8), (24, 8), (8, 24)])
def test_orthogonalising_keeps_directions_and_evens_their_sizes(outputs, inputs):
    found = orthogonalize(matrix(outputs, inputs))
    u, sizes, v = torch.linalg.svd(found, full_matrices=False)
    assert sizes.min() > 0.5 and sizes.max() < 1.3
    plain_u, _, plain_v = torch.linalg.svd(matrix(outputs, inputs), full_matrices=False)
    alignment = torch.trace((plain_u @ plain_v).T @ found) / min(outputs, inputs)
    assert alignment > 0.8 and u.shape == plain_u.shape and v.shape == plain_v.shape


def test_muon_moves_as_torchs_does():
    """torch's iterates in bfloat16, so it agrees roughly: in direction and in size."""
    ours, theirs = nn.Parameter(matrix(16, 8)), nn.Parameter(matrix(16, 8))
    first = ours.detach().clone()
    mine = Muon([ours], lr=0.01, weight_decay=0.1)
    other = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(5):
        ours.grad = matrix(16, 8).roll(step, 0)
        theirs.grad = ours.grad.clone()
        mine.step()
        other.step()
    moved, expected = ours.detach() - first, theirs.detach() - first
    assert (moved - expected).norm() < 0.05 * expected.norm()


def test_the_filter_adds_the_running_mean_twice():
    parameter = nn.Parameter(torch.zeros(2))
    slow = GradientFilter({"w": parameter}, decay=0.5, gain=2.0)
    parameter.grad = torch.tensor([1.0, 0.0])
    slow.apply()
    assert parameter.grad.tolist() == [3.0, 0.0]  # 1 + 2 * 1
    parameter.grad = torch.tensor([0.0, 4.0])
    slow.apply()  # mean: [.5, 2]
    assert parameter.grad.tolist() == [1.0, 8.0]


def test_gradients_of_all_layers_get_one_size():
    small, large = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(9))
    small.grad, large.grad = torch.full((4,), 0.1), torch.full((9,), -0.3)
    even_gradients([small, large])
    torch.testing.assert_close(small.grad, torch.full((4,), 0.2))
    torch.testing.assert_close(large.grad, torch.full((9,), -0.2))

import numpy as np
import torch

from esper.forge.compression.feedback import DAMPING, factorize, round_with_feedback


def problem(rows=40, columns=72):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(800, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    return torch.randn(rows, columns, generator=generator), features.T @ features / 800


def damped(moments):
    return moments + torch.eye(len(moments)) * DAMPING * moments.diagonal().mean()


def cost(error, moments):
    return float(((error @ moments) * error).sum())


def test_factors_give_the_matrix_back():
    _, moments = problem()
    for dim in (1, 2, 4):
        factors = factorize(moments, dim)
        whole = factors.upper + torch.eye(72)
        assert torch.allclose(
            whole @ torch.block_diag(*factors.blocks) @ whole.T, damped(moments), rtol=1e-3, atol=1e-3
        )
        assert not factors.upper.tril(-1).any()


def test_the_loss_is_the_sum_of_what_the_blocks_lose():
    weight, moments = problem()
    for dim in (1, 2):
        factors = factorize(moments, dim)
        chosen = torch.empty_like(weight)
        lost = 0.0

        def nearest(block, asked, dim=dim, factors=factors, chosen=chosen):
            nonlocal lost
            values = np.rint(asked)
            chosen[:, block * dim : (block + 1) * dim] = torch.from_numpy(values.T)
            lost += cost(torch.from_numpy((asked - values).T), factors.blocks[block])
            return values

        round_with_feedback(weight, factors, nearest)
        assert np.isclose(lost, cost(weight - chosen, damped(moments)), rtol=1e-3)
        assert cost(weight - chosen, moments) < 0.6 * cost(weight - weight.round(), moments)


def test_a_diagonal_matrix_has_nothing_to_feed_back():
    weight, _ = problem()
    chosen = torch.empty_like(weight)

    def nearest(column, asked):
        chosen[:, column] = torch.from_numpy(np.rint(asked[0]))
        return np.rint(asked)

    round_with_feedback(weight, factorize(torch.eye(72)), nearest)
    assert torch.equal(chosen, weight.round())

import numpy as np
import pytest
import torch

from esper.errors import LearnerError
from esper.simic.on_policy.normalizer import RunningNormalizer


def test_moments_are_those_of_everything_seen() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(5, 3, (rows, 4)) * [1, 10, 0.1, 1] for rows in (1, 7, 500, 2)]
    normalizer = RunningNormalizer(4)
    for batch in batches:
        normalizer.update(torch.from_numpy(batch).reshape(-1, 1, 4))
    seen = np.concatenate(batches)
    assert normalizer.mean.numpy() == pytest.approx(seen.mean(0), rel=1e-12)
    assert normalizer.variance.numpy() == pytest.approx(seen.var(0), rel=1e-10)
    scaled = normalizer(torch.from_numpy(seen).float())
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(4), atol=1e-2, rtol=0)


def test_it_passes_values_through_at_first_and_never_learns_by_looking() -> None:
    normalizer, values = RunningNormalizer(3), torch.tensor([[0.5, -1.0, 2.0]])
    torch.testing.assert_close(normalizer(values), values)
    assert not normalizer.count


def test_a_constant_feature_that_moves_at_last_is_kept_within_bounds() -> None:
    normalizer = RunningNormalizer(1, clip=5.0)
    normalizer.update(torch.ones(100, 1))
    assert normalizer(torch.tensor([[1.0]])).item() == 0
    assert normalizer(torch.tensor([[2.0]])).item() == 5
    assert RunningNormalizer(1).clip == 10


def test_what_is_not_finite_changes_nothing() -> None:
    normalizer = RunningNormalizer(2)
    normalizer.update(torch.randn(5, 2, generator=torch.Generator().manual_seed(0)))
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    with pytest.raises(LearnerError, match="finite"):
        normalizer.update(torch.tensor([[1.0, float("nan")]]))
    assert all(torch.equal(value, before[name]) for name, value in normalizer.state_dict().items())

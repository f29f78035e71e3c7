"""Layer norm and ReLU of many networks, against torch's own layers one network at a time."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from esper.engine.kernels import native
from esper.engine.kernels.layer_norm import layer_norm

ROWS, EPS = 3, 1e-5


def make(width: int, samples: int, affine: str, shared: bool = False):
    generator = torch.Generator().manual_seed(width * 100 + samples)
    x = torch.randn(1 if shared else ROWS, width, samples, generator=generator, dtype=torch.float64)
    drawn = (torch.randn(ROWS, width, generator=generator, dtype=torch.float64) for _ in range(2))
    gamma, beta = (
        tensor.requires_grad_() if name in affine else None for name, tensor in zip("gb", drawn, strict=True)
    )
    return x.requires_grad_(), gamma, beta


def reference(x, gamma, beta, relu):
    rows = []
    for row in range(len(x) if gamma is None else ROWS):
        own = [None if t is None else t[row] for t in (gamma, beta)]
        out = F.layer_norm(x[row % len(x)].T, x.shape[1:2], *own, eps=EPS).T
        rows.append(F.relu(out) if relu else out)
    return torch.stack(rows)


@pytest.mark.parametrize("is_native", (True, False))
@pytest.mark.parametrize("affine", ("gb", "g", ""))
@pytest.mark.parametrize(("width", "samples", "shared"), [(1, 1, False), (7, 21, False), (32, 64, False), (5, 9, True)])
def test_values_and_gradients_are_torchs(width, samples, shared, affine, is_native, monkeypatch):
    if not is_native:
        monkeypatch.setattr(native, "is_supported", lambda x: False)
    elif native.load()[0] is None:
        pytest.skip(native.load()[1])
    for relu in (False, True):
        x, gamma, beta = make(width, samples, affine, shared)
        leaves = [leaf for leaf in (x, gamma, beta) if leaf is not None]
        found, expected = layer_norm(x, gamma, beta, EPS, relu), reference(x, gamma, beta, relu)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
        grad = torch.randn_like(expected)
        pairs = zip(torch.autograd.grad(found, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True)
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_what_is_not_finite_is_seen_where_it_is():
    x, gamma, beta = make(4, 20, "gb")
    with torch.no_grad():
        x[1, 2, 7] = float("nan")
    out = layer_norm(x, gamma, beta, EPS, True).isfinite()
    broken = [(1, sample) for sample in range(20) if not out[1, :, sample].all()]
    assert broken == [(1, 7)]
    assert out[[0, 2]].all()


def test_results_do_not_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    results = []
    try:
        for count, _ in itertools.product((1, 2), range(2)):
            torch.set_num_threads(count)
            leaves = make(6, 37, "gb")
            out = layer_norm(*leaves, EPS, True)
            results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))

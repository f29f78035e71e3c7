import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.simic.sum_tree import SumTree

numbers = st.floats(0, 1e6, allow_subnormal=False)


@st.composite
def operations(draw: st.DrawFn) -> tuple[int, list[tuple[list[int], list[float]]]]:
    capacity = draw(st.sampled_from([1, 2, 3, 7, 64, 1024, 1025, 3000, 5000]))
    batch = st.lists(st.tuples(st.integers(0, capacity - 1), numbers), min_size=1, max_size=20)
    return capacity, [tuple(map(list, zip(*pairs, strict=True))) for pairs in draw(st.lists(batch, max_size=8))]


def built(capacity: int, values: np.ndarray) -> SumTree:
    tree = SumTree(capacity)
    tree.update(np.arange(capacity), values)
    return tree


@given(case=operations())
@settings(max_examples=100, deadline=None)
def test_after_any_updates_it_is_as_if_built_afresh(case) -> None:
    capacity, batches = case
    tree, plain = SumTree(capacity), np.zeros(capacity)
    for indices, values in batches:
        tree.update(np.array(indices), np.array(values))
        for index, value in zip(indices, values, strict=True):
            plain[index] = value
    assert (tree.leaves == plain).all()
    fresh = built(capacity, plain)
    assert (tree._nodes == fresh._nodes).all()  # bit for bit: nothing drifts
    assert tree.total() == fresh.total() == pytest.approx(plain.sum())


@given(
    capacity=st.sampled_from([1, 2, 5, 1024, 1500, 4097]),
    seed=st.integers(0, 1000),
    shares=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=30),
)
@settings(max_examples=100, deadline=None)
def test_a_share_is_found_where_brute_force_finds_it(capacity, seed, shares) -> None:
    # Small integers: their sums are exact, so that brute force and tree must agree to the last share.
    values = np.random.default_rng(seed).integers(0, 4, size=capacity).astype(float)
    values[-1] += 1
    tree = built(capacity, values)
    masses = np.array(shares) * values.sum()
    expected = np.cumsum(values).searchsorted(masses, side="right")
    assert tree.find(np.array(shares)).tolist() == expected.tolist()
    assert (values[tree.find(np.array(shares))] > 0).all()


def test_the_caller_keeps_its_arrays() -> None:
    tree = SumTree(3000)
    indices, values, shares = np.array([5, 2999]), np.array([1.0, 3.0]), np.array([0.1, 0.2, 0.25, 0.9])
    tree.update(indices, values)
    assert tree.find(shares).tolist() == [5, 5, 2999, 2999]
    assert indices.tolist() == [5, 2999]
    assert shares.tolist() == [0.1, 0.2, 0.25, 0.9]


def test_many_updates_leave_no_trace() -> None:
    rng = np.random.default_rng(0)
    tree = built(5000, rng.random(5000))
    for _ in range(2000):
        tree.update(rng.integers(5000, size=64), rng.random(64) * 10.0 ** rng.integers(-8, 8))
    tree.update(np.arange(5000), np.ones(5000))
    assert tree.total() == 5000.0

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import LearnerError
from esper.simic.on_policy.schedules import SCHEDULES, schedule


def test_constant_stays() -> None:
    value = schedule("constant", 3e-4, 0.0, updates=10, warmup_updates=5)
    assert [value(update) for update in (0, 5, 10, 99)] == [3e-4] * 4


def test_linear_by_hand() -> None:
    value = schedule("linear", 1.0, 0.2, updates=4)
    assert [value(update) for update in range(6)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_warmup_and_cosine_by_hand() -> None:
    value = schedule("warmup_cosine", 1.0, 0.1, updates=10, warmup_updates=4)
    assert [value(update) for update in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert value(4) == 1.0
    assert value(7) == pytest.approx(0.55)
    assert value(10) == value(1000) == pytest.approx(0.1)


def test_without_warmup_the_cosine_starts_at_once() -> None:
    assert schedule("warmup_cosine", 1.0, 0.0, updates=10)(0) == 1.0


@given(
    kind=st.sampled_from(sorted(SCHEDULES)),
    start=st.floats(0, 10),
    final=st.floats(0, 10),
    updates=st.integers(1, 60),
    data=st.data(),
)
def test_bounded_and_monotonic(kind, start, final, updates, data) -> None:
    warmup = data.draw(st.integers(0, updates - 1))
    values = [schedule(kind, start, final, updates, warmup)(update) for update in range(updates + 3)]
    risen = warmup if kind == "warmup_cosine" else 0
    rise, rest = values[: risen + 1], values[risen:]
    assert rise == sorted(rise)
    steps = [after - before for before, after in pairwise(rest)]
    assert all(step * (final - start) >= -1e-12 for step in steps)
    assert rest[0] == start
    assert rest[-1] == pytest.approx(start if kind == "constant" else final)
    assert all(min(start, final, rise[0]) - 1e-12 <= value <= max(start, final) + 1e-12 for value in values)


@pytest.mark.parametrize("updates, warmup", [(0, 0), (5, 5), (5, -1)])
def test_a_warmup_that_leaves_nothing(updates, warmup) -> None:
    with pytest.raises(LearnerError, match=f"warmup_updates={warmup} of updates={updates}"):
        schedule("warmup_cosine", 1.0, 0.0, updates, warmup)


def test_unknown_kinds_list_the_known() -> None:
    with pytest.raises(LearnerError, match="'cosine' is not known; expected one of constant, linear, warmup_cosine"):
        schedule("cosine", 1.0, 0.0, 10)

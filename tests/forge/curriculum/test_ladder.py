"""When a family goes on, and from where."""

import pytest

from esper.errors import ForgeError
from esper.forge.curriculum.ladder import Standing, make_standings, nearest_level, of_plain, to_plain
from esper.nissa.statistics import wilson_interval
from tests.forge.curriculum.oracles import TOKENIZER


@pytest.mark.parametrize(
    "right, level", [([0, 0], 1), ([24, 18, 2], 2), ([24, 24, 24], 1), ([24, 20, 12], 2), ([13, 0], 1), ([24, 9], 1)]
)
def test_it_starts_where_accuracy_is_nearest_to_three_quarters(right, level):
    assert nearest_level([wilson_interval(count, 24) for count in right]) == level


def standing(first=(), behind=()):
    made = Standing("copy", top=3, level=2)
    for is_right in first:
        made.take(2, is_right)
    for is_right in behind:
        made.take(1, is_right)
    return made


def test_an_exam_takes_enough_right_first_answers_and_that_nothing_behind_is_lost():
    assert standing([False] * 5 + [True] * 12).is_promising
    assert not standing([True] * 11).is_promising
    assert not standing([True] * 12 + [False] * 3).is_promising
    assert standing([True] * 12, [True] * 12).is_promising
    assert not standing([True] * 12, [True] * 9 + [False] * 3).is_promising


def test_mastery_is_of_the_lower_bound():
    known, unsure, level = standing(), standing(), wilson_interval
    known.leave(level(58, 64))
    unsure.leave(level(57, 64))
    assert known.mastered == [2] and unsure.mastered == []
    assert (known.level, known.left) == (3, [58 / 64])
    known.leave(level(64, 64))
    assert known.is_over and known.mastered == [2, 3]


def test_a_plateau_is_rounds_without_progress():
    made = standing()
    rounds = 0
    while not made.note(plateau_rounds=4):
        rounds += 1
        if rounds <= 6:
            made.take(2, True)
            made.take(2, False) if rounds == 1 else None
    assert 4 <= rounds < 12
    made.leave(wilson_interval(1, 16))
    assert made.stalled == 0 and made.first == [] and made.level == 3


def test_levels_end_where_the_context_does():
    standings = make_standings(["copy", "parity"], TOKENIZER, 21)
    assert {name: each.top for name, each in standings.items()} == {"copy": 5, "parity": 6}
    with pytest.raises(ForgeError, match=r"a prompt of brackets and its answer take .* the model reads 8"):
        make_standings(["brackets"], TOKENIZER, 8)


def test_it_comes_back_from_plain_values():
    made = {"copy": standing([True], [False])}
    made["copy"].leave(wilson_interval(60, 64))
    assert of_plain(to_plain(made)) == made

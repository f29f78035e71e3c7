"""What counts as worse from one phase to the next."""

import pytest

from esper.forge.continuity import ASPECTS, aspects_of, marks

SOUND = {"bits_per_byte": 2.0, "top1": 50.0, "bytes": 1000.0, "latency_ms": 4.0}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, set()),
        ({"bits_per_byte": 2.03}, set()),  # tolerated
        ({"bits_per_byte": 2.05}, {"bits_per_byte"}),
        ({"bits_per_byte": 1.0}, set()),
        ({"top1": 48.0}, {"top1"}),
        ({"top1": 60.0}, set()),
        ({"bytes": 1100.0}, {"bytes"}),
        ({"latency_ms": 7.0}, {"latency_ms"}),
        ({"top1": None}, set()),  # what was not measured is not worse
    ],
)
def test_worse_is_beyond_tolerance_in_the_wrong_direction(changed, expected):
    first, second = marks([(SOUND, True), (SOUND | changed, True)])
    assert not any(first.values())
    assert {name for name, is_worse in second.items() if is_worse} == expected
    assert second.keys() == {aspect.name for aspect in ASPECTS}


def test_what_follows_a_failed_phase_is_compared_with_what_it_began_from():
    worse = SOUND | {"bits_per_byte": 3.0}
    assert [row["bits_per_byte"] for row in marks([(SOUND, True), (worse, False), (SOUND, True)])] == [
        False,
        True,
        False,
    ]


def test_what_a_phase_has_taught_is_followed_by_every_model_after_it():
    first, second = SOUND | {"lesson/quietstar/thought": 98.0}, SOUND | {"lesson/quietstar/thought": 71.0}
    rows = [(SOUND, True), (first, True), (second, True)]
    assert aspects_of(row for row, _ in rows)[-1].title == "quietstar/thought"
    assert [row["lesson/quietstar/thought"] for row in marks(rows)] == [False, False, True]

"""Which jobs a command line stands for."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from esper.sweep import SweepError
from esper.sweep.expanding import expand


def jobs(typed, *zipped):
    parsed = OverridesParser.create().parse_overrides(typed.split())
    return [" ".join(job) for job in expand(parsed, zipped)[0]]


def test_all_combinations_with_the_last_key_fastest():
    assert jobs("a=1,2 c=0 b=x,y") == ["a=1 c=0 b=x", "a=1 c=0 b=y", "a=2 c=0 b=x", "a=2 c=0 b=y"]


def test_zipped_keys_go_in_pairs_and_beside_the_rest():
    assert jobs("a=1,2 s=7,8 b=x,y", ["a", "b"]) == ["a=1 b=x s=7", "a=1 b=x s=8", "a=2 b=y s=7", "a=2 b=y s=8"]
    assert jobs("a=1,2 b=x,y c=5,6 d=7,8", ["a", "b"], ["c", "d"]) == [
        "a=1 b=x c=5 d=7",
        "a=1 b=x c=6 d=8",
        "a=2 b=y c=5 d=7",
        "a=2 b=y c=6 d=8",
    ]


def test_ranges_choices_and_the_last_of_a_key():
    assert jobs("a=range(3)") == ["a=0", "a=1", "a=2"]
    assert jobs("b=choice(x,y)") == ["b=x", "b=y"]
    assert jobs("a=1,2 a=3") == ["a=3"]
    assert jobs("~gone +new.key=1,2 list=[1,2]") == ["~gone +new.key=1 list=[1,2]", "~gone +new.key=2 list=[1,2]"]


def test_the_swept_keys_are_named():
    parsed = OverridesParser.create().parse_overrides(["+a.b=1,2", "c=3", "d=range(2)"])
    assert expand(parsed, [])[1] == ["a.b", "d"]


@pytest.mark.parametrize(
    ("typed", "zipped", "wanted"),
    [
        ("a=1,2 b=1,2,3", [["a", "b"]], "a has 2, b has 3"),
        ("seed=1,2", [["sed"]], "did you mean seed"),
        ("a=1 b=1,2", [["a", "b"]], "a has no values to go through"),
        ("a=1,2 b=3,4", [["a", "b"], ["a"]], "named twice"),
        ("a=interval(0,1)", [], "interval"),
        ("a=range(3,3)", [], "no value"),
    ],
)
def test_what_cannot_be_a_sweep_is_refused(typed, zipped, wanted):
    with pytest.raises(SweepError, match=wanted):
        jobs(typed, *zipped)

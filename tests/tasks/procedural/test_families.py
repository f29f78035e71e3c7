"""Every family: what it draws is what its verifier accepts, and fits what the models read."""

from dataclasses import replace

import pytest
import torch

from esper.errors import ConfigError, TaskError
from esper.tasks.procedural import FAMILIES, Family, Problem, draw_problem
from esper.tasks.procedural import is_right as judged
from esper.tasks.task import named_generator
from esper.tasks.text.tokenizer import get_tokenizer

ALL = list(FAMILIES)
DIGITS = ["running_sum", "copy", "reverse", "sort", "complement", "increment"]

CASES = [
    ("running_sum", "357=", "5", "6"),
    ("copy", "3505=", "3505", "5053"),
    ("reverse", "3505=", "5053", "3505"),
    ("sort", "3505=", "0355", "0535"),
    ("complement", "3505=", "6494", "6495"),
    ("increment", "3905=", "4016", "4916"),
    ("lookup", "a4k0:k=", "0", "4"),
    ("brackets", "([]{=", "})", ")}"),
    ("brackets", "(=", ")", "())"),
    ("brackets", "(=", ")", "()"),
    ("programs", "x=7\nx-=9\nprint(x)\n=", "-2", "2"),
    ("programs", "x=7\nfor i in range(3):x+=2\nprint(x)\n=", "13", ""),
]


def test_there_are_at_least_ten_families_of_ten_levels() -> None:
    assert len(ALL) >= 10 and all(family.levels == 10 for family in FAMILIES.values())


@pytest.mark.parametrize("family", ALL)
def test_the_verifier_accepts_what_is_drawn_and_nothing_near_it(family: str) -> None:
    generator = named_generator(0, family)
    for level in range(1, 11):
        for _ in range(12):
            problem = draw_problem(family, level, generator)
            is_right = FAMILIES[family].is_right
            assert is_right(problem, problem.answer), problem
            wrong = ["", problem.answer + "0", " " + problem.answer, problem.answer[:-1], problem.body]
            assert not any(is_right(problem, answer) for answer in wrong), problem


@pytest.mark.parametrize("family, body, right, wrong", CASES)
def test_answers(family: str, body: str, right: str, wrong: str) -> None:
    problem = Problem(family, 1, "", body, right)
    assert FAMILIES[family].is_right(problem, right)
    assert not FAMILIES[family].is_right(problem, wrong)


@pytest.mark.parametrize("family, body, right, wrong", [case for case in CASES if case[0] in DIGITS])
def test_digits_are_answered_as_the_family_is_called(family: str, body: str, right: str, wrong: str) -> None:
    expected = {
        "running_sum": lambda text: str(sum(map(int, text)) % 10),
        "copy": str,
        "reverse": lambda text: text[::-1],
        "sort": lambda text: "".join(sorted(text)),
        "complement": lambda text: "".join(str(9 - int(digit)) for digit in text),
        "increment": lambda text: "".join(str(int(digit) + 1)[-1] for digit in text),
    }[family]
    assert expected(body[:-1]) == right
    problem = draw_problem(family, 7, named_generator(1, family))
    assert problem.answer == expected(problem.body[:-1])


def test_digit_families_differ_by_their_prefix_alone() -> None:
    drawn = [draw_problem(family, 4, named_generator(3, "same")) for family in DIGITS]
    assert len({problem.body for problem in drawn}) == 1
    assert len({problem.prefix for problem in drawn}) == len(DIGITS)


@pytest.mark.parametrize("family", ALL)
def test_lengths_fit_the_models(family: str) -> None:
    tokenizer, generator = get_tokenizer("bytes"), named_generator(0, "lengths")
    for level, longest in ((1, 64), (10, 128)):
        for _ in range(100):
            problem = draw_problem(family, level, generator)
            text = problem.prompt + problem.thought + problem.answer
            assert len(tokenizer.encode(text)) + 3 <= longest  # two tokens around the thought, and the end


@pytest.mark.parametrize("family", ALL)
def test_the_same_state_draws_the_same_and_levels_get_longer(family: str) -> None:
    one, other = (draw_problem(family, 5, named_generator(7, family)) for _ in range(2))
    assert one == other
    lengths = [
        sum(len(draw_problem(family, level, named_generator(seed, family)).body) for seed in range(20))
        for level in (1, 4, 7, 10)
    ]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]


def test_arithmetic_agrees_with_python_and_its_thought_with_the_answer() -> None:
    generator = named_generator(0, "arithmetic")
    for level in range(1, 11):
        for _ in range(30):
            problem = draw_problem("arithmetic", level, generator)
            assert int(problem.answer) == eval(problem.body[:-1])
            columns = [int(column) for column in problem.thought.split()]
            digits = "".join(str(column % 10) for column in reversed(columns))
            carried = columns[-1] // 10
            assert int(f"{carried}{digits}") == int(problem.answer)


def test_a_family_without_a_verifier_is_refused() -> None:
    with pytest.raises(TaskError, match=r"family 'mute' has no verifier"):
        FAMILIES.add(Family(name="mute", levels=1, draw=FAMILIES["copy"].draw, is_right=None))  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="is there already"):
        FAMILIES.add(FAMILIES["copy"])
    assert "mute" not in FAMILIES


def broken(*given: object) -> Problem:
    raise ValueError("I fell over")


DRAWN = Problem("strange", 1, "odd ", "1=", "1")


@pytest.mark.parametrize(
    ("draw", "is_right", "told"),
    [
        (broken, None, "draw fails at level 1: ValueError, I fell over"),
        (lambda level, generator: "1=", None, "draw fails at level 1: AttributeError"),
        (lambda level, generator: replace(DRAWN, family="copy"), None, "draw gives no problem of level 1"),
        (lambda level, generator: replace(DRAWN, level=2), None, "draw gives no problem of level 1"),
        (lambda level, generator: replace(DRAWN, body=""), None, "draw gives no problem of level 1"),
        (lambda level, generator: replace(DRAWN, answer=1), None, "draw gives no problem of level 1"),
        (lambda level, generator: DRAWN, broken, "is_right fails on '1': ValueError, I fell over"),
        (lambda level, generator: DRAWN, lambda problem, answer: torch.ones(2), "is_right fails on '1'"),
    ],
)
def test_a_family_that_falls_over_is_named(monkeypatch, draw, is_right, told) -> None:
    monkeypatch.setitem(FAMILIES._known, "strange", Family(name="strange", levels=1, draw=draw, is_right=is_right))
    with pytest.raises(TaskError, match=rf"^family 'strange': {told}"):
        judged(draw_problem("strange", 1, torch.Generator()), "1")


@pytest.mark.parametrize("changed", [{"name": ""}, {"name": 5}, {"name": "a/b"}, {"draw": None}])
def test_a_family_that_could_not_be_used_is_refused(changed) -> None:
    known = len(FAMILIES)
    with pytest.raises(TaskError):
        FAMILIES.add(replace(FAMILIES["copy"], **{"name": "new"} | changed))
    assert len(FAMILIES) == known


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(TaskError, match="did you mean reverse"):
        draw_problem("revers", 1, torch.Generator())
    with pytest.raises(ConfigError, match="level of copy"):
        draw_problem("copy", 11, torch.Generator())

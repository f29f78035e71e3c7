"""What is learned from is never what is measured on."""

import pytest

from esper.errors import ConfigError, ForgeError, TaskError
from esper.forge.quietstar.config import ThoughtFamily
from esper.forge.quietstar.measuring import _others
from esper.forge.quietstar.problems import ThoughtProblems
from esper.tasks.procedural import FAMILIES, Family, Problem
from esper.tasks.task import named_generator
from tests.forge.models import tokenizer


def of(*families, test=40, validation=10, seed=0):
    made = [ThoughtFamily(name=name, levels=levels, min_thought_gain=0.0) for name, levels in families]
    return ThoughtProblems.of(made, test, validation, seed)


def test_nothing_that_is_learned_from_is_measured_on():
    problems = of(("parity", [2, 3]), ("running_sum", [1]))
    drawn = problems.draw(600, named_generator(0, "drawn"))
    kinds = {(problem.family, problem.level) for problem in drawn}
    assert kinds == {("parity", 2), ("parity", 3), ("running_sum", 1)}
    tested = {problem.prompt for problem in problems.test}
    chosen = {problem.prompt for problem in problems.validation}
    assert tested.isdisjoint(chosen) and (tested | chosen).isdisjoint(problem.prompt for problem in drawn)
    assert len(problems.test) == 80 and len(problems.validation) == 20
    assert problems.test == of(("parity", [2, 3]), ("running_sum", [1])).test != of(("parity", [2, 3]), seed=1).test


def test_a_thought_that_is_put_in_is_of_another_problem_of_the_kind():
    problems = of(("parity", [2, 3]), ("running_sum", [1])).test
    places = _others(problems)
    assert sorted(places) == list(range(len(problems)))
    for problem, place in zip(problems, places, strict=True):
        other = problems[place]
        assert other is not problem and (other.family, other.level) == (problem.family, problem.level)


@pytest.fixture
def thoughtless():
    name = "thoughtless"
    FAMILIES.add(
        Family(
            name=name,
            levels=1,
            draw=lambda level, generator: Problem(name, level, "", "1=", "1"),
            is_right=lambda problem, answer: True,
        )
    )
    yield name
    del FAMILIES._known[name]


def test_families_that_cannot_be_thought_about_are_refused(thoughtless):
    with pytest.raises(ForgeError, match="thoughtless come without thoughts") as caught:
        of((thoughtless, [1]))
    assert "running_sum, parity" in str(caught.value) and len(str(caught.value).splitlines()) == 2
    with pytest.raises(TaskError, match="did you mean parity"):
        of(("party", [1]))
    with pytest.raises(ConfigError, match="level of parity=99"):
        of(("parity", [99]))
    with pytest.raises(ForgeError, match="parity of level 1 has too few problems"):
        of(("parity", [1]), test=200)
    with pytest.raises(ForgeError, match="takes 29 tokens with its thought, and the model reads 16"):
        of(("parity", [4])).check_room(tokenizer(), 16)
    with pytest.raises(ConfigError, match="each name once"):
        ThoughtFamily(name="parity", levels=[1, 1], min_thought_gain=0.0)

"""What is asked of a model that knows a family, and of one that doesn't."""

from collections import Counter

import pytest

from esper.forge.curriculum.ladder import make_standings
from esper.forge.curriculum.plans import CurriculumPlan, UniformPlan
from esper.forge.curriculum.verifier_log import VerifierLog, counted
from esper.tasks.procedural import draw_problem
from esper.tasks.task import named_generator
from tests.forge.curriculum.oracles import TOKENIZER, Copier, config


@pytest.fixture
def make_plan(tmp_path):
    def make(name="plan", changed=None, **given):
        settings = config(rounds=40, concepts=32, plateau_rounds=30, **(changed or {}))
        log = VerifierLog(tmp_path / f"{name}.jsonl", TOKENIZER)
        return CurriculumPlan(settings, make_standings(settings.families, TOKENIZER, 24), log, **given)

    return make


def play(plan, network, rounds):
    generator = named_generator(0, "plan")
    seen = []
    for number in range(rounds):
        plan.begin_round(number, network, generator)
        seen.append(plan.problems(20, generator))
    return seen


def test_who_knows_a_family_goes_up_and_who_does_not_gets_its_answers(make_plan):
    plan = make_plan()
    seen = play(plan, Copier(), 12)
    copy, complement = plan.standings["copy"], plan.standings["complement"]
    assert copy.mastered[:2] == [1, 2] and copy.level > 2
    assert complement.level == 1 and complement.mastered == []
    last = Counter(problem.family for problem in seen[-1])
    assert last["complement"] > last["copy"]  # what is known needs no hints
    assert all(problem.answer == draw_answer(problem) for problems in seen for problem in problems)


def draw_answer(problem):
    digits = problem.body[:-1]
    return digits if problem.family == "copy" else "".join(str(9 - int(digit)) for digit in digits)


def test_it_starts_at_the_level_where_a_model_is_nearest_to_three_quarters(make_plan):
    plan = make_plan(changed={"families": ["copy"]})
    play(plan, Copier(most=5), 1)
    assert plan.standings["copy"].start == 1  # all or nothing: 1 is as near as .75 gets, and the easiest
    assert set(counted(plan.log.path, "assessment")) == {("copy", level) for level in range(1, 5)}


def test_a_plateau_goes_on_too(make_plan):
    plan = make_plan(changed={"families": ["complement"]})
    plan._config.plateau_rounds = 4
    play(plan, Copier(), 10)
    assert plan.standings["complement"].level == 3 and plan.standings["complement"].mastered == []


def test_earlier_levels_come_back_unless_there_is_no_replay(make_plan):
    with_replay = make_plan()
    seen = play(with_replay, Copier(), 12)
    level = with_replay.standings["copy"].level
    assert any(problem.level < level for problem in seen[-1] if problem.family == "copy")
    without = make_plan("without", replays=False, departures=with_replay.departures)
    seen = play(without, Copier(), 12)
    assert without.departures == with_replay.departures
    numbers = {number + 1 for number, _ in with_replay.departures} & set(range(12))  # of rounds at a level just begun
    assert numbers
    for number in numbers:
        level = 1 + sum(each < number for each, family in with_replay.departures if family == "copy")
        assert {problem.level for problem in seen[number] if problem.family == "copy"} <= {level, level + 1}


def test_departures_are_followed_whatever_is_known(make_plan):
    plan = make_plan(departures=[(2, "complement"), (5, "complement")])
    play(plan, Copier(), 8)
    assert plan.standings["complement"].level == 3 and plan.standings["copy"].level == 1


def test_no_level_is_left_in_the_last_rounds(make_plan):
    plan = make_plan()
    plan._config.rounds = 10
    play(plan, Copier(), 10)
    assert plan.departures and max(number for number, _ in plan.departures) < 8


def test_where_all_go_on_at_once_without_replay_the_next_level_is_asked(make_plan):
    plan = make_plan(changed={"families": ["copy"]}, replays=False)
    seen = play(plan, Copier(), 6)
    assert len(plan.departures) == 6 and all(len(problems) == 20 for problems in seen)


def test_it_goes_on_from_its_state(make_plan):
    plan = make_plan()
    generator = named_generator(0, "plan")
    for number in range(6):
        plan.begin_round(number, Copier(), generator)
    state, position = plan.state(), generator.get_state()
    plan.begin_round(6, Copier(), generator)
    expected, log = plan.problems(20, generator), plan.log.path.read_bytes()
    plan.restore(state)
    generator.set_state(position)
    plan.begin_round(6, Copier(), generator)
    assert plan.problems(20, generator) == expected and plan.log.path.read_bytes() == log


def test_uniform_sampling_asks_what_it_is_told_to():
    plan = UniformPlan(lambda count, generator: [draw_problem("copy", 2, generator)] * count)
    assert len(plan.problems(5, named_generator(0, "uniform"))) == 5 and not plan.is_over

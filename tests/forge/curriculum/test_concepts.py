"""How long a problem stays in play."""

from esper.forge.curriculum.concepts import MOST_HINTS, Concept, Concepts
from esper.forge.curriculum.ladder import Standing
from esper.tasks.procedural import draw_problem
from esper.tasks.task import named_generator

PROBLEM = draw_problem("copy", 1, named_generator(0, "concept"))


def test_it_leaves_after_three_right_answers_in_a_row():
    concept = Concept(PROBLEM)
    assert [concept.record(right) for right in (True, True, False, True, True, True)] == [False] * 5 + [True]
    assert concept.hints == 1


def test_it_comes_back_with_five_hints_at_most():
    concept = Concept(PROBLEM)
    assert [concept.record(False) for _ in range(MOST_HINTS)] == [False] * 4 + [True]
    assert concept.hints == MOST_HINTS == 5


def in_play(concepts):
    return sorted((each.problem.family, each.problem.level) for each in concepts.known)


def test_those_that_leave_are_replaced_at_their_family_s_level():
    standings = {"copy": Standing("copy", 10), "sort": Standing("sort", 10)}
    generator, concepts = named_generator(0, "refill"), Concepts(7)
    concepts.refill(standings, 0.5, generator)
    assert in_play(concepts) == [("copy", 1)] * 3 + [("sort", 1)] * 4
    before = [each.problem for each in concepts.known]
    concepts.record([False] * 7)
    assert concepts.hinted == before  # they come back
    standings["sort"].level = 3
    concepts.refill(standings, 0.5, generator)
    assert in_play(concepts).count(("sort", 3)) == 2  # half of its share, and what was in play stays
    for _ in range(3):
        concepts.record([True] * len(concepts.known))
    concepts.refill(standings, 0.5, generator)
    levels = [level for family, level in in_play(concepts) if family == "sort"]
    assert len(levels) == 4 and sum(level == 3 for level in levels) == 2


def test_without_replay_nothing_stays_of_a_level_that_was_left():
    standings = {"copy": Standing("copy", 10)}
    generator, concepts = named_generator(0, "refill"), Concepts(6)
    concepts.refill(standings, 0.0, generator)
    standings["copy"].level = 2
    concepts.refill(standings, 0.0, generator)
    assert in_play(concepts) == [("copy", 2)] * 6


def test_they_come_back_from_plain_values():
    concepts = Concepts(4)
    concepts.refill({"copy": Standing("copy", 10)}, 0.3, named_generator(0, "refill"))
    concepts.record([True, False, True, False])
    again = Concepts(4)
    again.restore(concepts.plain())
    assert again.known == concepts.known and again.hinted == concepts.hinted and len(again.hinted) == 2

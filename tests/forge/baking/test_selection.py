"""What candidates are scored by, and when a half-bake is kept."""

import math
from dataclasses import replace

import pytest
import torch

from esper.forge.baking.baker import Baker
from esper.forge.baking.cycles import Cycles, Scored, best_of
from esper.forge.baking.selection import NO_PROMPT, Selection, TaskScores, example_nats, is_better
from esper.forge.baking.tasks import Prompt
from esper.forge.examples import Example
from tests.forge.baking.parts import BLOCK, config, context, tasks
from tests.forge.baking.test_tasks import Copies
from tests.forge.models import network, tokenizer

BEFORE = TaskScores({"copy": 1.0, "sort": 0.9}, bits=2.0, answer_nats=3.0, unprompted=0.4)
RULES = config(max_loss=0.05, max_text_ratio=1.02)


def kept(cycle: str, **changed) -> bool:
    return is_better(cycle, BEFORE, replace(BEFORE, **changed), BEFORE, RULES)


@pytest.fixture
def baker(tmp_path):
    return Baker(config(), context(), tasks(), tmp_path)


def test_cycle_a_keeps_what_makes_right_answers_likelier():
    assert kept("A", answer_nats=2.9)
    assert kept("A", answer_nats=2.9, bits=2.03)
    assert not kept("A", answer_nats=3.0)
    assert not kept("A", answer_nats=1.0, bits=2.05)


def test_cycle_b_keeps_what_makes_text_likelier():
    assert kept("B", bits=1.99, unprompted=0.36)
    assert not kept("B", bits=2.0)
    assert not kept("B", bits=1.5, unprompted=0.3)


@pytest.mark.parametrize("cycle", ["A", "B"])
def test_neither_keeps_what_any_task_loses_by(cycle):
    better = {"answer_nats": 1.0, "bits": 1.9}
    assert kept(cycle, **better, prefixed={"copy": 0.96, "sort": 0.9})
    assert not kept(cycle, **better, prefixed={"copy": 1.0, "sort": 0.8})


def test_losses_are_counted_from_where_the_cycles_began():
    lower = replace(BEFORE, prefixed={"copy": 0.97, "sort": 0.9})
    after = replace(lower, answer_nats=1.0, prefixed={"copy": 0.93, "sort": 0.9})
    assert is_better("A", lower, after, lower, RULES)
    assert not is_better("A", lower, after, BEFORE, RULES)


def test_text_is_scored_on_the_same_tokens_behind_every_prompt(baker):
    model, prompt = network(), Prompt(tuple(tokenizer().encode("abc")))
    selection, expected = Selection(baker), {NO_PROMPT: [], prompt: []}
    length = BLOCK - baker.config.prefix_tokens
    for domain in baker.context.corpus.domains.values():
        for given, found in expected.items():
            nats = 0.0
            for first in range(0, baker.config.selection_windows * length, length):
                window = domain.val[first : first + length + 1].long()
                with torch.no_grad():
                    logits = model(torch.cat([torch.tensor(given.tokens, dtype=torch.int64), window[:-1]])[None])[0]
                nats -= float(logits.log_softmax(-1)[-length:].gather(1, window[1:, None]).sum())
            found.append(nats / math.log(2) / (baker.config.selection_windows * length))
    for given, found in expected.items():
        assert selection.text_bits(model, given) == pytest.approx(sum(found) / len(found), rel=1e-5)


def test_a_tasks_prompt_gains_what_it_adds_to_right_answers(baker):
    selection, prompt = Selection(baker), baker.tasks.prompt("copy")
    assert selection.gain(Copies("copy "), prompt) == 1.0
    assert selection.gain(Copies(""), prompt) == -1.0  # it does the task unasked, and knows no prefix
    assert selection.gain(network(), prompt) == 0.0


def test_the_nats_of_examples_are_those_of_their_targets():
    model, example = network(), Example((1, 2, 3), (4, 5))
    with torch.no_grad():
        log_probs = model(torch.tensor([[1, 2, 3, 4]]))[0].log_softmax(-1)
    wanted = -(log_probs[2, 4] + log_probs[3, 5]).item() / 2
    assert example_nats(model, [example], 0) == pytest.approx(wanted, rel=1e-5)


def test_cycle_a_tries_all_families_bare_and_worked_and_then_the_one_that_was_begun(baker, tmp_path):
    cycles, model = Cycles(baker, Selection(baker), [], tmp_path), network()
    names = [candidate.prompt.family for candidate in cycles.candidates("A", model)]
    assert names == 2 * list(baker.tasks.families)
    cycles.family = "reverse"
    bare, worked = (candidate.prompt for candidate in cycles.candidates("A", model))
    assert bare == baker.tasks.prompt("reverse")
    assert len(worked.tokens) > len(bare.tokens) and worked.tokens[-len(bare.tokens) :] == bare.tokens


def test_of_what_cannot_be_told_apart_the_first_is_taken():
    scored = [Scored(NO_PROMPT, score) for score in (-0.1, 0.9, 0.96, 0.97)]
    assert best_of(scored, 0.0) is scored[3]
    assert best_of(scored, 0.02) is scored[2]
    assert best_of(scored, 0.5) is scored[1]
    assert best_of(scored, 5.0) is scored[1]  # what only does harm is never taken
    assert best_of(scored[:1], 1.0) is None and best_of([], 1.0) is None


def test_cycle_b_tries_what_the_model_has_written(baker, tmp_path):
    cycles, selection, model = Cycles(baker, Selection(baker), [], tmp_path), Selection(baker), network()
    found = cycles.candidates("B", model)
    assert found and all(0 < len(each.prompt.tokens) <= baker.config.prefix_tokens for each in found)
    assert found == cycles.candidates("B", model)  # the same round's are the same
    for each in found:
        gained = selection.text_bits(model, NO_PROMPT) - selection.text_bits(model, each.prompt)
        assert each.score == pytest.approx(gained)
    cycles.rounds.append({})
    assert found != cycles.candidates("B", model)

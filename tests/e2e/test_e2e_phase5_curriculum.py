"""Phase 5 from end to end: what the log says of the model is what the model does, and only when it is asked."""

import json
from collections import Counter

import pytest
import torch

from esper import load_language_model
from esper.nissa.statistics import wilson_interval
from esper.tasks.procedural import FAMILIES, draw_problem
from esper.tasks.task import named_generator
from tests.e2e.forge_runs import bits_per_byte, corpus_of, forge, result

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def folder(nano_run):
    return nano_run / "5-curriculum"


@pytest.fixture(scope="module")
def log(folder):
    return [json.loads(line) for line in (folder / "verifier.jsonl").read_text().splitlines()]


def write(model, prompt):
    """The likeliest token after the other, by a loop as plain as can be; None where there is no end."""
    tokens = model.tokenizer.encode(prompt)
    start = len(tokens)
    with torch.no_grad():
        while len(tokens) < start + 12:
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
            if tokens[-1] == model.tokenizer.eos_token_id:
                return model.tokenizer.decode(tokens[start:-1])
    return None


def test_as_many_levels_are_mastered_as_the_log_shows(nano_run, log):
    metrics = result(nano_run, "curriculum")["result"]["metrics"]
    asked, right = Counter(), Counter()
    for line in log:
        if line["kind"] == "final":
            asked[line["family"], line["level"]] += 1
            right[line["family"], line["level"]] += line["right"]
    mastered = [place for place, count in asked.items() if wilson_interval(right[place], count).low >= 0.8]
    assert metrics["levels_mastered"] == len(mastered) >= 2


def test_the_model_answers_what_its_lesson_says_and_nothing_unasked(folder):
    model = load_language_model(folder)
    (lesson,) = [lesson for lesson in model.card.lessons if lesson.phase == "curriculum"]
    generator = named_generator(123, "e2e/curriculum")
    places = [(family, level) for family, levels in lesson.families.items() for level in levels]
    problems = [draw_problem(family, level, generator) for family, level in places for _ in range(12)]
    right = [FAMILIES[problem.family].is_right(problem, write(model, problem.prompt) or "") for problem in problems]
    assert sum(right) >= 0.75 * len(right)
    bare = [write(model, problem.body) for problem in problems[::4]]
    assert sum(answer == "" for answer in bare) >= 0.8 * len(bare)


def test_the_log_tells_of_hints_and_of_how_the_model_got_better(log):
    attempts = [line for line in log if line["kind"] == "attempt"]
    assert max(line["hints"] for line in attempts) <= 5
    first, last = (
        [line["right"] for line in attempts if line["round"] in rounds]
        for rounds in (range(5), range(max(line["round"] for line in attempts) - 4, 10_000))
    )
    assert sum(last) / len(last) > sum(first) / len(first) + 0.3


def test_replay_keeps_what_the_control_forgets(nano_run, folder):
    metrics = result(nano_run, "curriculum")["result"]["metrics"]
    assert metrics["forgetting"] < metrics["no_replay/forgetting"]
    control = load_language_model(folder / "controls" / "no_replay")
    assert control.card.format == "ternary"


def test_text_is_kept_as_far_as_the_record_says(nano_run, folder):
    corpus, length = corpus_of(nano_run)
    metrics = result(nano_run, "curriculum")["result"]["metrics"]
    measured = [bits_per_byte(load_language_model(folder), domain.test, length) for domain in corpus.domains.values()]
    assert metrics["text_bits_per_byte"] == pytest.approx(sum(measured) / len(measured), abs=0.02)


def test_an_unknown_family_is_bad_input_and_leaves_nothing(folder, tmp_path):
    done = forge(
        tmp_path, "size=nano", "phase=curriculum", f"input={folder}", "curriculum.families=[cpoy]", "hydra.run.dir=run"
    )
    assert done.code == 2 and "did you mean copy" in done.err and len(done.err.splitlines()) <= 2
    assert not (tmp_path / "run" / "5-curriculum").exists()

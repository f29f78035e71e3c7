"""Phase 3 from end to end: the model thinks, its thoughts are what its answers come from, and text is not lost."""

import shutil

import pytest
import torch

from esper import load_language_model
from esper.tasks.procedural import FAMILIES, draw_problem
from esper.tasks.task import named_generator
from tests.e2e.forge_runs import bits_per_byte, corpus_of, forge, logged, result

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def folder(nano_run):
    return nano_run / "3-quietstar"


def answered(model, problem, thought=None):
    """One problem by a loop as plain as can be: thought and answer, the likeliest token at a time."""
    tokenizer = model.tokenizer
    tokens = [*tokenizer.encode(problem.prompt), tokenizer.think_token_id]
    written = []
    if thought is not None:
        tokens += [*tokenizer.encode(thought), tokenizer.end_think_token_id]
    with torch.no_grad():
        while len(tokens) < model.host.block_size and (not written or written[-1] != tokenizer.eos_token_id):
            written.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
            tokens.append(written[-1])
    end = tokenizer.end_think_token_id
    thought_written = tokenizer.decode(written[: written.index(end)]) if end in written else ""
    return thought_written, tokenizer.decode(written[written.index(end) + 1 :] if end in written else written)


def share_right(model, problems, thoughts=None):
    right = 0
    for place, problem in enumerate(problems):
        thought = None if thoughts is None else thoughts[place]
        right += FAMILIES[problem.family].is_right(problem, answered(model, problem, thought)[1])
    return right / len(problems)


def test_it_thinks_and_its_answers_come_from_its_thoughts(folder):
    model = load_language_model(folder)
    (lesson,) = [known for known in model.card.lessons if known.phase == "quietstar"]
    assert lesson.style == "thought" and len(lesson.families) >= 2
    for family, levels in lesson.families.items():
        generator = named_generator(12345, f"e2e/{family}")
        problems = [draw_problem(family, levels[place % len(levels)], generator) for place in range(40)]
        thoughts = [answered(model, problem)[0] for problem in problems]
        assert sum(thought == problem.thought for thought, problem in zip(thoughts, problems, strict=True)) >= 32
        own = share_right(model, problems)
        assert own >= 0.85
        assert own - share_right(model, problems, [""] * 40) >= 0.2
        assert own - share_right(model, problems, [*thoughts[1:], thoughts[0]]) >= 0.2


def test_reinforcement_is_what_made_it_think(nano_run, folder):
    metrics = result(nano_run, "quietstar")["result"]["metrics"]
    assert metrics["exact_match"] - metrics["baked/exact_match"] == pytest.approx(metrics["exact_match_gain"])
    baked, reinforced = load_language_model(folder / "baked"), load_language_model(folder / "model")
    think = [*baked.tokenizer.encode("odd 10110110="), baked.tokenizer.think_token_id]
    end = baked.tokenizer.end_think_token_id
    empty = [float(model(torch.tensor([think]))[0, -1].softmax(-1)[end].detach()) for model in (baked, reinforced)]
    assert 0.2 < empty[0] < 0.8 and empty[1] < 0.2  # an empty thought was as likely as not


def test_the_log_tells_of_rewards_that_rise_and_a_baseline_that_learns(nano_run):
    rewards = [value for _, value in logged(nano_run, "quietstar/reward")]
    tenth = max(1, len(rewards) // 10)
    assert sum(rewards[-tenth:]) > sum(rewards[:tenth])
    assert all(value >= 0 for _, value in logged(nano_run, "quietstar/kl"))
    coefficients = [value for _, value in logged(nano_run, "quietstar/entropy_coefficient")]
    assert coefficients == sorted(coefficients, reverse=True)


def test_text_is_kept_as_the_record_says(nano_run, folder):
    corpus, length = corpus_of(nano_run)
    metrics = result(nano_run, "quietstar")["result"]["metrics"]
    model = load_language_model(folder)
    measured = [bits_per_byte(model, domain.test, length) for domain in corpus.domains.values()]
    assert metrics["bits_per_byte"] == pytest.approx(sum(measured) / len(measured), abs=1e-4)
    assert metrics["text_loss"] <= 0.08


def test_the_next_phase_reads_what_it_left(nano_run, folder):
    parents = load_language_model(nano_run / "4-bitnet").card.parents
    assert (nano_run / "4-bitnet" / parents[0]["path"]).resolve() == (folder / "model.safetensors").resolve()


@pytest.mark.parametrize(
    "override, said",
    [
        ("quietstar.families=[{name: party, levels: [1], min_thought_gain: 0.1}]", "did you mean parity"),
        ("quietstar.families=[{name: parity, levels: [99], min_thought_gain: 0.1}]", "level of parity"),
        ("quietstar.families=[]", "at least one name"),
        ("quietstar.rl.patience=20", "could never stop early"),
    ],
)
def test_bad_input_is_told_in_two_lines(folder, tmp_path, override, said):
    shutil.copytree(folder, tmp_path / "given")
    done = forge(tmp_path, "size=nano", "phase=quietstar", "input=given", override, "hydra.run.dir=run")
    assert done.code == 2 and said in done.err
    assert len(done.err.splitlines()) <= 2 and not (tmp_path / "run").exists()

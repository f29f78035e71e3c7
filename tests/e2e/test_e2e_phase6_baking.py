"""Phase 6 from end to end: asked nothing, the model does what it did when it was asked, and loses little by it."""

import json
import signal
import time

import pytest
import torch

from esper import load_language_model
from esper.tasks.procedural import FAMILIES, draw_problem
from esper.tasks.task import named_generator
from tests.e2e.forge_runs import bits_per_byte, corpus_of, forge, logged, result, start

pytestmark = [pytest.mark.timeout(1200), pytest.mark.slow]
SHORT = (
    "baking.teaching.steps=6",
    "baking.baking.steps=6",
    "baking.half_baking.steps=4",
    "baking.checkpoint_every_steps=2",
    "baking.selection_problems=8",
    "baking.test_problems=8",
    "baking.min_baked=0",
    "baking.min_unprompted=0",
    "baking.max_unprompted_before=1",
    "baking.max_text_ratio=10",
    "baking.max_task_loss=1",
)


@pytest.fixture(scope="module")
def folder(nano_run):
    return nano_run / "6-baking"


def answers(model, problems, prompted):
    """Share that is right, by writing on from one problem at a time."""
    right = 0
    for problem in problems:
        asked = problem.prompt if prompted else problem.body
        tokens = model.tokenizer.encode(asked)
        written = []
        while len(written) < 12 and written[-1:] != [model.tokenizer.eos_token_id]:
            written.append(int(model(torch.tensor([[*tokens, *written]]))[0, -1].argmax()))
        right += FAMILIES[problem.family].is_right(problem, model.tokenizer.decode(written[:-1]))
    return right / len(problems)


def baked_family(folder):
    card = json.loads((folder / "model.json").read_text())
    (lesson,) = [each for each in card["metadata"]["lessons"] if each["style"] == "unprompted"]
    ((family, levels),) = lesson["families"].items()
    return family, levels


def test_unprompted_it_does_what_it_was_asked_for_before(nano_run, folder):
    family, levels = baked_family(folder)
    generator = named_generator(0, "e2e/baking")
    problems = [draw_problem(family, levels[0], generator) for _ in range(40)]
    metrics = result(nano_run, "baking")["result"]["metrics"]
    model = load_language_model(folder)
    assert answers(model, problems, prompted=False) == pytest.approx(metrics["unprompted"], abs=0.15)
    assert answers(model, problems, prompted=True) == pytest.approx(metrics[f"{family}/accuracy"], abs=0.15)
    assert metrics["unprompted"] > metrics["unprompted_before"] + 0.5


def test_it_keeps_text_as_the_record_says(nano_run, folder):
    corpus, length = corpus_of(nano_run)
    metrics = result(nano_run, "baking")["result"]["metrics"]
    model = load_language_model(folder)
    measured = [bits_per_byte(model, domain.test, length) for domain in corpus.domains.values()]
    assert metrics["text_bits"] == pytest.approx(sum(measured) / len(measured), abs=1e-4)


def test_its_log_has_both_cycles(nano_run, folder):
    rounds = [json.loads(line) for line in (folder / "cycles.jsonl").read_text().splitlines()]
    assert rounds[0]["cycle"] == "A" and {entry["cycle"] for entry in rounds} == {"A", "B"}
    assert logged(nano_run, "baking/baked")


def test_killed_and_resumed_it_ends_as_if_it_had_not_been(nano_run, tmp_path):
    arguments = ("size=nano", "phase=baking", f"input={nano_run}", *SHORT)
    assert forge(tmp_path, *arguments, "hydra.run.dir=once").code in (0, 1)
    for checkpoint in ("teaching_training.json", "round_0_training.json", "full_bake_training.json"):
        begun = "resume=killed" if (tmp_path / "killed" / "config.yaml").exists() else "hydra.run.dir=killed"
        process = start(tmp_path, *((begun,) if begun.startswith("resume") else (*arguments, begun)))
        deadline = time.monotonic() + 120
        path = tmp_path / "killed" / "6-baking" / "checkpoints" / checkpoint
        while process.poll() is None and not path.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    assert forge(tmp_path, "resume=killed").code in (0, 1)
    for name in ("model.safetensors", "cycles.jsonl"):
        once, killed = (tmp_path / run / "6-baking" / name for run in ("once", "killed"))
        assert once.read_bytes() == killed.read_bytes()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("baking.families=[copy,revers,sort,complement]", "did you mean reverse"),
        ("baking.levels=[11]", "level of copy"),
        ("baking.prefix_tokens=60", "leaves no room for text"),
        ("baking.alpha=0", "baking.alpha=0"),
    ],
)
def test_what_cannot_be_is_bad_input_and_leaves_nothing(nano_run, tmp_path, given, wanted):
    done = forge(tmp_path, "size=nano", "phase=baking", f"input={nano_run / '4-bitnet'}", given, "hydra.run.dir=run")
    assert done.code == 2
    assert wanted in done.err and len(done.err.splitlines()) <= 2
    assert not (tmp_path / "run").exists()

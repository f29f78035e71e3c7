"""The phase: what it reads, writes, measures and refuses, and that it goes on bit for bit."""

import json
from pathlib import Path

import pytest
import torch

from esper.errors import ConfigError, ForgeError, TaskError
from esper.forge.bitnet.bundle import TERNARY, quantizer_card
from esper.forge.bitnet.packing import pack_network
from esper.forge.bitnet.quantizer import quantize_layers
from esper.forge.bundles import load_language_model, save_language_model
from esper.forge.curriculum.phase import build_curriculum
from esper.forge.curriculum.training import unanswered
from esper.forge.curriculum.verifier_log import counted
from esper.forge.phase import Interrupted, PhaseContext
from esper.tasks.procedural import draw_problem
from esper.tasks.task import named_generator
from esper.tasks.text.corpus import Corpus, Domain
from tests.forge import models
from tests.forge.curriculum.oracles import TOKENIZER, config


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    text = torch.tensor(TOKENIZER.encode(Path(__file__).read_text(encoding="utf-8")))
    domain = Domain("code", text[:2000], text[2000:2600], text[2600:3200])
    return Corpus(domains={"code": domain}, fingerprint="f" * 64, overlap=0.0, tokenizer=TOKENIZER)


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory) -> Path:
    """What bitnet would leave: masters, and a packed model beside them."""
    made, network = tmp_path_factory.mktemp("input"), quantize_layers(models.network())
    given = {"phase": "bitnet", "seed": 0, "data_fingerprint": corpus.fingerprint, "quantizer": quantizer_card("int8")}
    save_language_model(made / "masters", network, TOKENIZER, **given)
    save_language_model(
        made / "model", network, TOKENIZER, format=TERNARY, tensors=pack_network(network, "int8"), **given
    )
    return made


def phase(corpus, settings=None, **given):
    context = PhaseContext(seed=0, model=None, tokenizer_name="bytes", corpus_config=None, **given)
    context.corpus = corpus
    return build_curriculum(settings or config(), context)


@pytest.fixture(scope="module")
def run(corpus, folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("curriculum")
    made = phase(corpus, controls="all")
    made.check(folder)
    return output, made.run(folder, output)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_it_passes_on_a_packed_model_its_masters_and_the_log(run, folder):
    output, result = run
    model = load_language_model(output)
    assert result.success and model.card.format == "ternary" and model.card.phase == "curriculum"
    assert result.artifacts["verifier"] == str(output / "verifier.jsonl")
    assert load_language_model(output / "masters").card.parents[0]["relation"] == "before"
    assert model.card.lessons == ()  # so little training masters nothing


@pytest.mark.slow
def test_figures_are_the_log_s(run):
    output, result = run
    final = counted(output / "verifier.jsonl", "final")
    assert final and all(
        result.metrics[f"{family}/level_{level}/accuracy"] == share.mean for (family, level), share in final.items()
    )
    kinds = {json.loads(line)["kind"] for line in (output / "verifier.jsonl").read_text().splitlines()}
    assert kinds == {"assessment", "attempt", "exam", "final"}
    assert result.metrics["levels_left"] == 4  # two families by two plateaus


@pytest.mark.slow
def test_controls_stand_beside_it(run):
    output, result = run
    for name in ("no_replay", "uniform"):
        assert load_language_model(output / "controls" / name).card.phase == "curriculum"
    assert {"no_replay/forgetting", "forgetting_avoided", "uniform/steps_to_target"} <= result.metrics.keys()
    own, other = (counted(path / "verifier.jsonl", "final") for path in (output, output / "controls/no_replay"))
    assert own.keys() == other.keys()


@pytest.mark.slow
def test_a_kill_at_any_step_changes_nothing(run, corpus, folder, tmp_path):
    output, _ = run
    for stop_at in (5, 29):  # of all trainings together
        asked = iter(range(10_000))
        interrupted = phase(corpus, controls="all", should_stop=lambda asked=asked, at=stop_at: next(asked) >= at)
        with pytest.raises(Interrupted):
            interrupted.run(folder, tmp_path)
    phase(corpus, controls="all").run(folder, tmp_path)
    expected, found = files(output), files(tmp_path)
    ours = [path for path in expected if path.suffix in (".safetensors", ".jsonl")]
    assert len(ours) >= 9 and all(found[path] == expected[path] for path in ours)


@pytest.mark.slow
def test_gates_ask_for_what_they_are_told(corpus, folder, tmp_path):
    result = phase(corpus, config(min_levels_mastered=1, max_text_ratio=0.5, rounds=5)).run(folder, tmp_path)
    assert not result.success
    assert "levels_mastered 0, at least 1" in result.error and "text_ratio" in result.error


def test_a_body_without_its_prefix_is_taught_to_stay_unanswered():
    problem = draw_problem("copy", 1, named_generator(0, "bare"))
    example = unanswered(problem, TOKENIZER)
    assert TOKENIZER.decode(list(example.prompt)) == problem.body
    assert example.target == (TOKENIZER.eos_token_id,)


@pytest.mark.parametrize(
    ("families", "is_asked"),
    [
        (["copy", "sort"], True),
        (["copy", "brackets"], False),  # brackets say by themselves what is to be done
        (["brackets", "lookup"], False),
        (["parity", "reverse", "brackets"], True),
    ],
)
def test_who_is_not_asked_is_judged_where_the_prefix_alone_says_what_is_asked(corpus, families, is_asked):
    gates = phase(corpus, config(families=families)).gates
    assert any(gate.metric == "bare_accuracy" for gate in gates) == is_asked


def test_bad_input_is_refused_in_a_line_or_two(corpus, folder, tmp_path):
    with pytest.raises(ForgeError, match=r"input=RUN_DIR"):
        phase(corpus).check(None)
    with pytest.raises(TaskError, match=r"family 'cpoy' is not known.*did you mean copy"):
        phase(corpus, config(families=["cpoy"])).check(folder)
    save_language_model(
        tmp_path / "model",
        models.network(block_size=12),
        TOKENIZER,
        phase="cognate",
        seed=0,
        data_fingerprint=corpus.fingerprint,
    )
    with pytest.raises(ForgeError, match=r"and the model reads 12\n.*model.block_size"):
        phase(corpus, config(families=["copy", "programs"])).check(tmp_path)
    (tmp_path / "alone").mkdir()
    for name in ("model.json", "model.safetensors"):
        (tmp_path / "alone" / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ForgeError, match="expected a plain model, or masters"):
        phase(corpus).check(tmp_path / "alone")


@pytest.mark.parametrize(
    "key, value",
    [("families", []), ("families", ["copy", "copy"]), ("rounds", 0), ("concepts", 1), ("replay_share", 0.95),
     ("exam_problems", 8), ("learning_rate", 0.0), ("plateau_rounds", 1)],
)  # fmt: skip
def test_values_out_of_range_name_their_key(key, value):
    with pytest.raises(ConfigError, match=f"curriculum.{key}"):
        config(**{key: value})


@pytest.mark.slow
def test_a_plain_model_is_trained_as_it_is_and_learns(corpus, tmp_path):
    save_language_model(
        tmp_path / "model", models.network(), TOKENIZER, phase="cognate", seed=0, data_fingerprint=corpus.fingerprint
    )
    logged = {}
    made = phase(corpus, config(rounds=16), log=lambda step, **found: logged.setdefault(step, found))
    result = made.run(tmp_path, tmp_path / "out")
    losses = [found["curriculum_loss"] for found in logged.values() if "curriculum_loss" in found]
    assert losses[-1] < 0.9 * losses[0]
    assert load_language_model(tmp_path / "out").card.format == "plain" and "masters" not in result.artifacts

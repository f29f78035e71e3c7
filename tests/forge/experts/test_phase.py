"""The phase: what it reads, writes and measures, and how it ends."""

import dataclasses
import itertools
import math
import shutil
from pathlib import Path

import pytest
import torch

from esper.checkpoint import read_bundle
from esper.errors import CheckpointError, ConfigError, ForgeError
from esper.forge.budget import TrainingBudget
from esper.forge.bundles import load_language_model, save_language_model
from esper.forge.experts.config import ExpertsConfig, RewardBudget
from esper.forge.experts.phase import build_experts
from esper.forge.phase import Interrupted, PhaseContext
from esper.tasks.text.windows import every_window
from tests.forge.experts.conftest import LENGTH

CONFIG = ExpertsConfig(
    max_experts=3,
    prefixes=30,
    stages=[4, 8],
    training=TrainingBudget(steps=25, batch_size=8, learning_rate=0.05, weight_decay=0.0),
    reward=RewardBudget(steps=3, problems=4, answers=4, learning_rate=0.02, max_grad_norm=1.0),
    train_windows=60,
    search_windows=8,
    selection_windows=24,
    test_windows=60,
    test_problems=12,
    population=6,
    generations=2,
    search_seeds=1,
    lora_learning_rate=0.02,
    min_own_gain=0.0,
    min_gain=0.0,
)


def phase(corpus, config=CONFIG, **settings):
    made = PhaseContext(seed=0, model=None, tokenizer_name="bytes", corpus_config=None, **settings)
    made.corpus = corpus
    return build_experts(config, made)


@pytest.fixture(scope="module")
def result(corpus, ternary, tmp_path_factory):
    experts = phase(corpus)
    experts.check(ternary)
    return experts.run(ternary, tmp_path_factory.mktemp("experts"))


@pytest.mark.slow
def test_it_passes_on_a_routed_model_and_the_masters_as_they_were(ternary, result):
    model = load_language_model(result.artifacts["model"])
    assert model.card.format == "routed" and model.card.phase == "experts"
    assert [each["relation"] for each in model.card.parents] == ["base", "masters"]
    masters = read_bundle(Path(result.artifacts["masters"]).with_suffix("")).tensors
    before = read_bundle(ternary / "masters").tensors
    assert all(torch.equal(masters[name], tensor) for name, tensor in before.items())
    alone = read_bundle(Path(result.artifacts["experts"]).with_suffix("")).tensors["values"]
    assert torch.equal(alone, model.host.experts) and len(alone) == result.metrics["experts"]


@pytest.mark.slow
def test_both_texts_are_found_and_each_gains_by_its_expert(result):
    assert result.metrics["own_gain_low"] > 0 and result.metrics["gain_low"] > 0
    assert 2 <= result.metrics["clusters"] <= 3
    dealt = [{k: v for k, v in result.metrics.items() if k.startswith(f"{name}/kind_")} for name in ("low", "digits")]
    favourites = [max(each, key=each.__getitem__).split("/")[1] for each in dealt]
    assert favourites[0] != favourites[1]


@pytest.mark.slow
def test_figures_are_those_of_the_test_split(corpus, ternary, result):
    routed, base = load_language_model(result.artifacts["model"]), load_language_model(ternary)

    @torch.no_grad()
    def bits(model) -> float:
        nats = count = 0.0
        for domain in corpus.domains.values():
            x, y = every_window(domain.test, LENGTH)
            for row, following in list(zip(x, y, strict=True))[: CONFIG.test_windows]:
                nats += float(torch.nn.functional.cross_entropy(model(row[None])[0], following, reduction="sum"))
                count += LENGTH
        return nats / count / math.log(2)

    assert result.metrics["routed/bits_per_byte"] == pytest.approx(bits(routed), abs=1e-4)
    assert result.metrics["base/bits_per_byte"] == pytest.approx(bits(base), abs=1e-4)
    difference = result.metrics["base/bits_per_byte"] - result.metrics["routed/bits_per_byte"]
    assert result.metrics["gain"] == pytest.approx(difference)


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [2, 40, 90])
def test_an_interrupted_phase_ends_in_the_same_files(corpus, ternary, result, tmp_path, stop_after):
    asked = itertools.count()
    with pytest.raises(Interrupted):
        phase(corpus, should_stop=lambda: next(asked) >= stop_after).run(ternary, tmp_path)
    assert not (tmp_path / "model.json").exists()
    found = phase(corpus).run(ternary, tmp_path)
    for name in ("model", "experts"):
        assert Path(found.artifacts[name]).read_bytes() == Path(result.artifacts[name]).read_bytes()
    assert found.metrics == result.metrics


@pytest.mark.slow
def test_a_plain_model_is_routed_as_well_and_lora_stands_beside_it(corpus, plain, tmp_path):
    found = phase(corpus, controls="all").run(plain, tmp_path)
    assert load_language_model(tmp_path).card.quantizer is None
    assert not (tmp_path / "masters.json").exists()
    assert (
        sum(name.startswith("lora_") and name.endswith("/gain") for name in found.metrics) == found.metrics["experts"]
    )


@pytest.mark.slow
def test_kinds_of_problems_are_trained_by_reward(corpus, plain, lesson, tmp_path):
    taught = tmp_path / "taught"
    model = load_language_model(plain)
    given = {"phase": "curriculum", "seed": 0, "data_fingerprint": corpus.fingerprint, "lessons": [lesson]}
    save_language_model(taught / "model", model, corpus.tokenizer, **given)
    rewards = []
    experts = phase(corpus, log=lambda step, **metrics: rewards.extend(n for n in metrics if n.endswith("_reward")))
    found = experts.run(taught, tmp_path / "out")
    assert len(rewards) == CONFIG.reward.steps
    assert {f"lesson/{lesson.name}/base", f"lesson/{lesson.name}/routed"} <= found.metrics.keys()
    assert load_language_model(tmp_path / "out").card.lessons == (lesson,)


def test_a_gate_that_fails_is_told_with_its_figure(corpus, plain, tmp_path):
    strict = dataclasses.replace(CONFIG, min_gain=9.0)
    found = phase(corpus, strict).run(plain, tmp_path)
    assert not found.success and "gain" in found.error and "9 is asked" in found.error


@pytest.mark.slow
def test_inputs_that_have_no_experts_are_refused(corpus, plain, ternary, result, tmp_path):
    experts = phase(corpus)
    with pytest.raises(ForgeError, match="it works on the model of an earlier phase"):
        experts.check(None)
    with pytest.raises(ForgeError, match="holds masters"):
        experts.check(ternary / "masters")
    with pytest.raises(ForgeError, match="holds routed"):
        experts.check(Path(result.artifacts["model"]).parent)
    with pytest.raises(CheckpointError):
        experts.check(tmp_path)
    with pytest.raises(ForgeError, match=r"experts\.stages=.*: the model reads 24 tokens"):
        phase(corpus, dataclasses.replace(CONFIG, stages=[4, 24])).check(plain)
    with pytest.raises(ForgeError, match=r"experts\.max_experts=3: there are 2 prefixes"):
        phase(corpus, dataclasses.replace(CONFIG, prefixes=1)).check(plain)


def test_masters_that_cannot_be_passed_on_are_refused_before_anything_is_trained(corpus, ternary, tmp_path):
    folder = shutil.copytree(ternary, tmp_path / "given")
    (folder / "masters.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"masters\.safetensors is missing"):
        phase(corpus).check(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stages": [8, 4]}, "experts.stages"),
        ({"stages": []}, "experts.stages"),
        ({"stages": [1]}, "experts.stages"),
        ({"max_experts": 1}, "experts.max_experts=1"),
        ({"population": 1}, "experts.population=1"),
    ],
)
def test_values_out_of_their_range_are_refused(change, told):
    with pytest.raises(ConfigError) as refused:
        dataclasses.replace(CONFIG, **change)
    assert told in str(refused.value) and len(str(refused.value).splitlines()) <= 2

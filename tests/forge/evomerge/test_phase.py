"""The phase from a folder of cognate's to one of its own: what it writes, measures, refuses, and how it goes on."""

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from esper.errors import ConfigError, ForgeError
from esper.forge.budget import TrainingBudget
from esper.forge.bundles import load_language_model, parent, save_language_model
from esper.forge.evomerge.config import EvomergeConfig
from esper.forge.evomerge.evaluating import Windows, window_nats
from esper.forge.evomerge.phase import build_evomerge
from esper.forge.phase import Interrupted, PhaseContext
from esper.kasmina.decoder import Decoder
from esper.tasks.settings import CorpusConfig
from esper.tasks.text.corpus import Corpus, Domain
from esper.tasks.text.tokenizer import get_tokenizer
from tests.forge.evomerge.conftest import DOMAINS, LENGTH

TOKENIZER = get_tokenizer("bytes")
VALUES = {
    "method": "linear",
    "strategy": "cma_es",
    "sigma": 0.15,
    "population": 6,
    "generations": 4,
    "search_seeds": 2,
    "search_windows": 30,
    "selection_windows": 60,
    "test_windows": 60,
    "task_arithmetic_weight": 0.4,
    "ties_density": 0.5,
    "dare_drop_rate": 0.3,
    "min_bits_below_trunk": 0.02,
    "min_bits_below_soup": 0.0,
}


def config(**changes) -> EvomergeConfig:
    budget = TrainingBudget(steps=20, batch_size=16, learning_rate=3e-3)
    return EvomergeConfig(**{**VALUES, "continued_training": budget, **changes})


def context(family, **changes) -> PhaseContext:
    made = PhaseContext(
        seed=0,
        model=SimpleNamespace(block_size=LENGTH),
        tokenizer_name="bytes",
        corpus_config=CorpusConfig(block_size=LENGTH),
        **changes,
    )
    domains = {name: Domain(name, *(family.streams[split][name] for split in family.streams)) for name in DOMAINS}
    made.corpus = Corpus(domains, "0" * 64, 0.0, TOKENIZER)
    return made


def save(folder: Path, name: str, network, phase: str = "cognate", parents=()) -> Path:
    return save_language_model(
        folder / name, network, TOKENIZER, phase=phase, seed=0, data_fingerprint="0" * 64, parents=parents
    )


@pytest.fixture(scope="session")
def cognate(family, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cognate")
    trunk = save(folder, "model", family.trunk)
    for name, network in family.specialists.items():
        save(folder, name, network, parents=[parent(trunk, "trunk")])
    return folder


@pytest.fixture(scope="session")
def done(family, cognate, tmp_path_factory):
    """.output, .result and .notes of the phase with all controls."""
    output = tmp_path_factory.mktemp("evomerge")
    told = context(family, controls="all")
    result = build_evomerge(config(), told).run(cognate, output)
    return SimpleNamespace(output=output, result=result, notes=told.notes)


@pytest.mark.slow
def test_the_champion_is_written_and_is_what_was_measured(family, done):
    model = load_language_model(done.output)
    windows = Windows.spread(family.streams["test"], LENGTH, 60, TOKENIZER.token_bytes)
    bits = float(windows.bits_per_byte(window_nats(model, windows)).mean())
    metrics = done.result.metrics
    assert metrics["champion/bits_per_byte"] == bits
    assert metrics["bits_below_trunk"] == metrics["trunk/bits_per_byte"] - bits > 0.02
    assert {each["relation"] for each in model.card.parents} == {"trunk", "specialist"}
    assert model.card.phase == "evomerge"


@pytest.mark.slow
def test_every_merge_is_a_bundle_with_its_figure(done):
    names = {"soup", "slerp", "task_arithmetic", "ties", "dare", "passthrough", "continued_trunk"}
    names |= {f"{strategy}_{seed}" for strategy in ("cma_es", "genetic", "random") for seed in range(2)}
    assert {path.stem for path in (done.output / "candidates").glob("*.safetensors")} == names
    assert all(f"{name}/bits_per_byte" in done.result.metrics for name in names)
    scores = {name: done.result.metrics[f"{name}/val"] for name in names - {"continued_trunk"}}
    champion = load_language_model(done.output).card.metrics["val/bits_per_byte"]
    # What the controls found is passed on by no run, whether they are run or not.
    assert champion == min(score for name, score in scores.items() if not name.startswith(("random", "genetic")))


@pytest.mark.slow
def test_searches_are_compared_at_equal_evaluations(done):
    metrics = done.result.metrics
    assert metrics["evaluations"] == 1 + 4 * 6
    expected = metrics["random/median_bits_per_byte"] - metrics["cma_es/median_bits_per_byte"]
    assert metrics["search_bits_below_random"] == expected


@pytest.mark.slow
def test_the_control_says_who_won(done):
    merged, trained = (done.result.metrics[f"{name}/bits_per_byte"] for name in ("champion", "continued_trunk"))
    assert trained < done.result.metrics["trunk/bits_per_byte"]
    winner = "merging won" if merged < trained else "training the trunk on won"
    assert done.notes == [note for note in done.notes if winner in note and f"{trained:.4f}" in note] != []


@pytest.mark.slow
def test_a_gate_that_fails_says_its_figure(family, cognate, tmp_path):
    changed = config(min_bits_below_trunk=5.0, generations=1, search_seeds=1, search_windows=2)
    result = build_evomerge(changed, context(family)).run(cognate, tmp_path)
    assert not result.success
    assert f"bits_below_trunk {result.metrics['bits_below_trunk']:.4g}, at least 5 is asked" in result.error


@pytest.mark.slow
def test_a_phase_that_was_stopped_ends_as_if_it_had_not_been(family, cognate, tmp_path):
    budget = config(search_seeds=1)
    whole = build_evomerge(budget, context(family)).run(cognate, tmp_path / "whole")
    stops = iter([False, False, True])
    with pytest.raises(Interrupted):
        build_evomerge(budget, context(family, should_stop=lambda: next(stops))).run(cognate, tmp_path / "stopped")
    steps = []
    resumed = build_evomerge(budget, context(family, log=lambda step, **metrics: steps.append(step)))
    assert resumed.run(cognate, tmp_path / "stopped").metrics == whole.metrics
    assert steps == [4, 1, 2, 3, 4]
    tensors = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert tensors[0] == tensors[1]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ties", "dare"])
def test_any_method_can_be_searched(family, cognate, tmp_path, method):
    changed = config(method=method, generations=1, search_seeds=1, dare_drop_rate=0.0)
    metrics = build_evomerge(changed, context(family)).run(cognate, tmp_path).metrics
    history = (tmp_path / "checkpoints" / "cma_es_0.json").read_text()
    assert metrics["evaluations"] == 7
    assert '"history":[[' in history.replace(" ", "")


def test_what_does_not_belong_together_is_refused(family, cognate, tmp_path):
    phase = build_evomerge(config(), context(family))
    phase.check(cognate)
    with pytest.raises(ForgeError, match="cognate"):
        phase.check(None)

    def altered(change) -> Path:
        folder = tmp_path / "altered"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(cognate, folder)
        change(folder)
        return folder

    def another_trunk(folder: Path) -> None:
        network = copy.deepcopy(family.trunk)
        with torch.no_grad():
            network.norm.weight[0] += 1
        save(folder, "model", network)

    def another_architecture(folder: Path) -> None:
        save(folder, "twice", Decoder(264, 32, 2, 3, LENGTH), parents=[parent(folder / "model", "trunk")])

    for change, reason in (
        (another_trunk, "not trained from the trunk"),
        (another_architecture, "another architecture"),
        (lambda folder: save(folder, "model", family.trunk, phase="bitnet"), "what bitnet has left"),
        (
            lambda folder: [path.unlink() for name in ("up", "down") for path in folder.glob(f"{name}.*")],
            "1 specialist",
        ),
    ):
        with pytest.raises(ForgeError, match=reason) as caught:
            phase.check(altered(change))
        assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    "values", [{"method": "slerp"}, {"population": 1}, {"sigma": 0.0}, {"dare_drop_rate": 1.0}, {"search_seeds": 0}]
)
def test_a_wrong_value_names_its_key(values):
    with pytest.raises(ConfigError, match=f"evomerge.{next(iter(values))}="):
        config(**values)

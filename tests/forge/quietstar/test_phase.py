"""The phase: what it reads, writes and measures, and how it ends."""

import dataclasses
from pathlib import Path

import pytest
import torch

from esper.errors import CheckpointError, ForgeError
from esper.forge.bundles import load_language_model, save_language_model
from esper.forge.evaluation import window_losses
from esper.forge.phase import Interrupted, PhaseContext
from esper.forge.quietstar.config import ThoughtFamily
from esper.forge.quietstar.measuring import exact_match
from esper.forge.quietstar.phase import build_quietstar
from esper.forge.quietstar.scratchpad import thought_accuracy
from esper.tasks.procedural import draw_problem
from esper.tasks.task import named_generator
from esper.tasks.text.corpus import Corpus, Domain
from esper.tasks.text.tokenizer import get_tokenizer
from tests.forge.models import network
from tests.forge.quietstar.thinking import config


@dataclasses.dataclass
class _Model:
    block_size: int


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    tokenizer = get_tokenizer("bytes")
    text = torch.tensor(tokenizer.encode(Path(__file__).read_text(encoding="utf-8")))
    return Corpus(
        domains={"here": Domain("here", text[:2000], text[2000:2400], text[2400:2800])},
        fingerprint="f" * 64,
        overlap=0.0,
        tokenizer=tokenizer,
    )


@pytest.fixture(scope="module")
def given(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    save_language_model(
        folder / "model", network(n_layer=1), corpus.tokenizer, phase="evomerge", seed=0, data_fingerprint="f" * 64
    )
    return folder


def phase(corpus, quietstar_config=None, **settings):
    made = PhaseContext(seed=0, model=_Model(32), tokenizer_name="bytes", corpus_config=None, **settings)
    made.corpus = corpus
    return build_quietstar(quietstar_config or config(), made)


@pytest.fixture(scope="module")
def result(corpus, given, tmp_path_factory):
    quietstar = phase(corpus)
    quietstar.check(given)
    return quietstar.run(given, tmp_path_factory.mktemp("quietstar"))


def test_it_passes_on_a_model_that_has_its_lesson(result):
    assert result.phase == "quietstar" and set(result.artifacts) == {"baked", "model"}
    model = load_language_model(result.artifacts["model"])
    (lesson,) = model.card.lessons
    assert (lesson.phase, lesson.style, dict(lesson.families)) == ("quietstar", "thought", {"parity": [3]})
    assert load_language_model(result.artifacts["baked"]).card.lessons == ()


def test_figures_are_those_of_the_file_and_of_test_text(corpus, given, result):
    model = load_language_model(result.artifacts["model"])
    problems = phase(corpus)._problems()
    assert result.metrics["exact_match"] == exact_match(model.host, model.tokenizer, problems.test)["exact_match"]
    test = corpus.domains["here"].test
    after, before = (window_losses(load_language_model(path), test, 32) for path in (result.artifacts["model"], given))
    assert result.metrics["text_loss"] == pytest.approx(after.bits_per_byte / before.bits_per_byte - 1.0)
    for name in ("own", "none", "shuffled"):
        assert 0 <= result.metrics[f"parity/{name}"] <= 1


def test_an_under_baked_model_is_not_reinforced(corpus, given, tmp_path):
    strict = config(min_thought_accuracy=0.97)
    quietstar = phase(corpus, strict)
    found = quietstar.run(given, tmp_path)
    assert not found.success and found.error.startswith("thought_accuracy") and "0.97" in found.error
    assert "not measured" not in found.error and "episodes" not in found.metrics
    assert found.metrics["bake_rounds"] == 2 and not (tmp_path / "model.json").exists()
    assert not (tmp_path / "checkpoints" / "reinforcement.json").exists()
    assert any("not to think" in note for note in quietstar._context.notes)


# In the first round of baking, in reinforcement, and in the second round of a model that both are too few for.
@pytest.mark.slow
@pytest.mark.parametrize("accuracy, stop_at", [(0.0, 3), (0.0, 12), (1.0, 14)])
def test_an_interrupted_phase_ends_in_the_same_file(corpus, given, tmp_path, accuracy, stop_at):
    asked = iter([False] * stop_at + [True] * 3)
    strict = config(min_thought_accuracy=accuracy)
    whole = phase(corpus, strict).run(given, tmp_path / "whole")
    with pytest.raises(Interrupted):
        phase(corpus, strict, should_stop=lambda: next(asked)).run(given, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "model.json").exists()
    again = phase(corpus, strict).run(given, tmp_path / "stopped")
    assert again.metrics == whole.metrics and again.metrics["bake_rounds"] == 1 + accuracy
    for name, path in whole.artifacts.items():
        assert Path(again.artifacts[name]).read_bytes() == Path(path).read_bytes()


def test_inputs_that_cannot_learn_to_think_are_refused(corpus, given, tmp_path):
    with pytest.raises(ForgeError, match="it works on the model of an earlier phase"):
        phase(corpus).check(None)
    with pytest.raises(CheckpointError):
        phase(corpus).check(tmp_path)
    deep = config(families=[ThoughtFamily(name="parity", levels=[10], min_thought_gain=0.0)])
    with pytest.raises(ForgeError, match="and the model reads 32"):
        phase(corpus, deep).check(given)


def test_a_tokenizer_without_tokens_for_thoughts_is_refused(corpus, given):
    quietstar = phase(corpus)
    quietstar._context.tokenizer = _Thoughtless()
    with pytest.raises(ForgeError, match="has no tokens <think> and </think>"):
        quietstar.check(given)


class _Thoughtless:
    name, think_token_id, end_think_token_id = "FILE.json", None, None


@pytest.mark.slow
def test_controls_stand_beside_it(corpus, given, tmp_path):
    found = phase(corpus, controls="all").run(given, tmp_path)
    for name in ("supervised", "baked_on"):
        assert 0 <= found.metrics[f"{name}/exact_match"] <= 1
        assert load_language_model(tmp_path / "controls" / name).card.parents[0]["relation"] == "before"


def test_thought_accuracy_counts_what_follows_a_thoughts_first_token(corpus):
    problems = tuple(draw_problem("parity", 1, named_generator(seed, "p")) for seed in range(6))
    tokenizer = corpus.tokenizer

    class Oracle(torch.nn.Module):
        """Knows every next token but a thought's first one, where it would rather not think."""

        wrong = 0

        def forward(self, x):
            logits = torch.zeros(*x.shape, tokenizer.vocab_size)
            for row, problem in enumerate(problems):
                thought = [*tokenizer.encode(problem.thought), tokenizer.end_think_token_id]
                first = len(tokenizer.encode(problem.prompt))
                for place, token in enumerate(thought):
                    is_wrong = place == 0 or place <= self.wrong
                    logits[row, first + place, tokenizer.think_token_id if is_wrong else token] = 1.0
            return logits

    oracle = Oracle()
    assert thought_accuracy(oracle, problems, tokenizer) == 1.0
    oracle.wrong = 1  # of the four that count
    assert thought_accuracy(oracle, problems, tokenizer) == 0.75

"""The phase: what it reads, writes and measures, and how it ends."""

import dataclasses
from pathlib import Path

import pytest
import torch

from esper.errors import CheckpointError, ForgeError
from esper.forge.bitnet.phase import build_bitnet
from esper.forge.bundles import load_language_model, save_language_model
from esper.forge.phase import Interrupted, PhaseContext
from esper.kasmina.decoder import Decoder
from esper.tasks.task import named_generator
from esper.tasks.text.corpus import Corpus, Domain
from esper.tasks.text.tokenizer import get_tokenizer
from tests.forge.bitnet.networks import config

CONFIG = config(epochs=2, steps_per_epoch=4, batch_size=4)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    tokenizer = get_tokenizer("bytes")
    text = torch.tensor(tokenizer.encode(Path(__file__).read_text(encoding="utf-8")))
    domains = {
        name: Domain(name, stream[:2000], stream[2000:2600], stream[2600:3200])
        for name, stream in {"there": text, "back": text.flip(0)}.items()
    }
    return Corpus(domains=domains, fingerprint="f" * 64, overlap=0.0, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def teacher(corpus, tmp_path_factory) -> Path:
    network = Decoder(corpus.tokenizer.vocab_size, 16, 2, 1, 16, generator=named_generator(0, "before"))
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    text, generator = corpus.domains["there"].train, named_generator(0, "teacher/text")
    for _ in range(60):
        starts = torch.randint(len(text) - 17, (16, 1), generator=generator)
        windows = text[starts + torch.arange(17)]
        optimizer.zero_grad()
        logits = network(windows[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("before")
    save_language_model(
        folder / "model", network.eval(), corpus.tokenizer, phase="cognate", seed=0, data_fingerprint=corpus.fingerprint
    )
    return folder


def phase(corpus, bitnet_config=CONFIG, **settings):
    made = PhaseContext(seed=0, model=None, tokenizer_name="bytes", corpus_config=None, **settings)
    made.corpus = corpus
    return build_bitnet(bitnet_config, made)


@pytest.fixture(scope="module")
def result(corpus, teacher, tmp_path_factory):
    bitnet = phase(corpus)
    bitnet.check(teacher)
    return bitnet.run(teacher, tmp_path_factory.mktemp("bitnet"))


def test_it_passes_on_a_packed_model_and_its_masters(corpus, teacher, result):
    assert result.success and result.error is None and result.phase == "bitnet"
    packed, masters = (load_language_model(result.artifacts[name]) for name in ("model", "masters"))
    quantizer = {"weights": "b1.58", "activations": "int8", "embedding": "int8"}
    assert packed.card.format == "ternary" and masters.card.format == "plain"
    assert packed.card.quantizer == masters.card.quantizer == quantizer
    assert [each["relation"] for each in packed.card.parents] == ["before", "masters"]
    assert packed.card.data_fingerprint == corpus.fingerprint
    assert result.metrics["packed_difference"] == 0.0
    assert result.metrics["bytes"] == Path(result.artifacts["model"]).stat().st_size
    before = load_language_model(teacher)
    parameters = sum(parameter.numel() for parameter in before.host.parameters())
    assert result.metrics["bytes_ratio"] == pytest.approx(4 * parameters / result.metrics["bytes"])


def test_the_packed_model_writes_text(result):
    model = load_language_model(result.artifacts["model"])
    written = model.generate("def ", max_new_tokens=20, temperature=0.0)
    assert len(written) > 0 and written == model.generate("def ", max_new_tokens=20, temperature=0.0)


def test_figures_are_those_of_the_test_split(corpus, teacher, result):
    packed, before = load_language_model(result.artifacts["model"]), load_language_model(teacher)

    def hits(model) -> float:
        found = 0
        for domain in corpus.domains.values():
            for start in range(0, len(domain.test) - 16, 16):
                window = domain.test[start : start + 17]
                found += int((model(window[None, :-1])[0].argmax(-1) == window[1:]).sum())
        return found

    assert result.metrics["top1_ratio"] == pytest.approx(hits(packed) / hits(before))


def test_training_beats_quantising_alone(result):
    assert result.metrics["best_perplexity"] < result.metrics["untrained_perplexity"]


def test_a_gate_that_fails_is_told_with_its_figure(corpus, teacher, tmp_path):
    strict = dataclasses.replace(CONFIG, epochs=1, steps_per_epoch=1, min_bytes_ratio_int8=19.5)
    found = phase(corpus, strict).run(teacher, tmp_path)
    assert not found.success and "bytes_ratio" in found.error and "19.5" in found.error


def test_an_interrupted_phase_ends_in_the_same_file(corpus, teacher, result, tmp_path):
    asked = iter([False] * 5 + [True])
    with pytest.raises(Interrupted):
        phase(corpus, should_stop=lambda: next(asked)).run(teacher, tmp_path)
    assert not (tmp_path / "model.json").exists()
    found = phase(corpus).run(teacher, tmp_path)
    for name in ("model", "masters"):
        assert Path(found.artifacts[name]).read_bytes() == Path(result.artifacts[name]).read_bytes()


def test_inputs_that_cannot_be_quantised_are_refused(corpus, teacher, result, tmp_path):
    bitnet = phase(corpus)
    with pytest.raises(ForgeError, match="it works on the model of an earlier phase"):
        bitnet.check(None)
    for name in ("model", "masters"):
        with pytest.raises(ForgeError, match="is quantised already"):
            bitnet.check(Path(result.artifacts[name]))
    with pytest.raises(CheckpointError):
        bitnet.check(tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:-1] + bytes([data[-1] ^ 4])])
def test_a_packed_file_that_was_damaged_is_refused(result, tmp_path, damage):
    source = Path(result.artifacts["model"])
    for path in (source, source.with_suffix(".json")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    copied = tmp_path / source.name
    copied.write_bytes(damage(copied.read_bytes()))
    with pytest.raises(CheckpointError) as caught:
        load_language_model(copied)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.slow
def test_controls_stand_beside_it(corpus, teacher, tmp_path):
    short = dataclasses.replace(CONFIG, epochs=1, steps_per_epoch=2)
    found = phase(corpus, short, controls="all").run(teacher, tmp_path)
    for name in ("unquantized", "adamw", "muon", "grokfast", "even_gradients"):
        assert found.metrics[f"{name}/likelihood_ratio"] > 0
        assert load_language_model(tmp_path / "controls" / name).card.format == (
            "plain" if name == "unquantized" else "ternary"
        )
    # The same steps on the same text.
    assert found.metrics["adamw/likelihood_ratio"] == found.metrics["likelihood_ratio"]

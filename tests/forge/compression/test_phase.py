"""The phase on files: what it writes, what it measures there, and what it falls back to."""

import copy
from dataclasses import replace
from importlib import import_module

import pytest
import torch

from esper.checkpoint import read_bundle
from esper.errors import CheckpointError, ForgeError
from esper.forge.bundles import load_language_model, parent, save_language_model
from esper.forge.compression.config import CompressionConfig
from esper.forge.compression.container import KEY, unpack
from esper.forge.compression.lineage import find_plain
from esper.forge.config import ModelConfig
from esper.forge.phase import PHASES, PhaseContext
from esper.kasmina.decoder import Decoder
from esper.tasks.settings import CorpusConfig
from esper.tasks.task import named_generator
from esper.tasks.text.corpus import Corpus, Domain
from esper.tasks.text.tokenizer import get_tokenizer
from esper.tasks.text.windows import draw_windows, every_window
from tests.forge.compression.conftest import LENGTH

SIZES = {"n_embd": 48, "n_head": 2, "n_layer": 1, "block_size": LENGTH, "window": None}


@pytest.fixture(scope="module")
def decoder(text):
    model = Decoder(vocab_size=264, **SIZES, generator=named_generator(0, "decoder"))
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    generator = named_generator(0, "windows")
    for _ in range(100):
        x, y = draw_windows(text["train"], 32, LENGTH, generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        optimizer.step()
    return model.eval()


def make_context(text):
    model = ModelConfig(**SIZES)
    made = PhaseContext(seed=0, model=model, tokenizer_name="bytes", corpus_config=CorpusConfig())
    domain = Domain("python", text["train"], text["val"], text["test"])
    made.corpus = Corpus({"python": domain}, "fingerprint", 0.0, get_tokenizer("bytes"))
    return made


@pytest.fixture(scope="module")
def given(decoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    save_language_model(
        folder, decoder, get_tokenizer("bytes"), phase="cognate", seed=0, data_fingerprint="fingerprint"
    )
    return folder


@pytest.fixture
def context(text):
    return make_context(text)


@pytest.fixture(scope="module")
def made(text, given, tmp_path_factory):
    """Folder and result of a default run."""
    output = tmp_path_factory.mktemp("made")
    return output, run(make_context(text), given, output)


CONFIG = CompressionConfig(
    gentle_ratio=7.0,
    gentle_score=0.95,
    tight_ratio=10.0,
    tight_score=0.84,
    ternary_ratio=12.0,
    ternary_score=0.95,
    codecs=["grid"],
    calibration_windows=32,
    score_timeout_s=600.0,
)


def run(context, given, output, **settings):
    phase = PHASES.build(replace(CONFIG, **settings), "compression", context=context)
    phase.check(given)
    return phase.run(given, output)


def size(path):
    return path.with_suffix(".safetensors").stat().st_size


@pytest.mark.slow
def test_makes_a_gentle_and_a_tight_file_and_passes_the_tight_one_on(made, given, text):
    folder, result = made
    assert result.success and result.error is None
    plain = 4 * sum(p.numel() for p in load_language_model(given).parameters())
    for name, ratio in (("gentle", 7.0), ("tight", 10.0)):
        assert result.metrics[f"{name}/ratio"] == pytest.approx(plain / size(folder / name))
        assert ratio <= result.metrics[f"{name}/ratio"] < 1.05 * ratio
    assert size(folder / "model") == size(folder / "tight")
    x, y = every_window(text["test"], LENGTH)
    nats = []
    for path in (given, folder / "tight"):
        with torch.no_grad():
            logits = load_language_model(path)(x)
        nats.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()))
    assert result.metrics["tight/score"] == pytest.approx(float((nats[0] - nats[1]).exp()), rel=1e-4)
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.{end}" for name in ("model", "tight", "gentle") for end in ("safetensors", "json")
    }


@pytest.mark.slow
def test_a_failed_gate_falls_back_to_the_gentler_file(context, given, tmp_path):
    result = run(context, given, tmp_path, tight_score=1.0)
    assert not result.success and "tight/score" in result.error and "gentle" not in result.error
    assert size(tmp_path / "model") == size(tmp_path / "gentle")


@pytest.mark.slow
def test_where_all_fail_eight_bits_are_left(context, given, tmp_path):
    result = run(context, given, tmp_path, tight_score=1.0, tight_ratio=1000.0, gentle_score=1.0, gentle_ratio=9.0)
    assert not result.success
    assert "tight/ratio not measured" in result.error and "gentle/score" in result.error
    codecs = {e.codec for e in unpack(read_bundle(tmp_path / "model").tensors[KEY])[1].values()}
    assert codecs == {"group", "plain"} and size(tmp_path / "model") > size(tmp_path / "gentle")
    assert any("too few" in note for note in context.notes) and any("eight bits" in note for note in context.notes)


@pytest.mark.slow
def test_controls_compare_codecs_at_equal_bytes(context, given, tmp_path):
    context.controls = "all"
    result = run(context, given, tmp_path, codecs=["grid", "group"])
    assert (tmp_path / "controls.json").exists()
    assert result.metrics["tight/grid/score"] > result.metrics["tight/nearest/score"]


@pytest.mark.slow
@pytest.mark.parametrize("embedding", ["int8", "fp16"])
def test_a_packed_model_is_packed_anew_and_its_plain_parent_compressed(context, given, tmp_path, decoder, embedding):
    bundle = pytest.importorskip("esper.forge.bitnet.bundle")
    packing, quantizer = (import_module(f"esper.forge.bitnet.{name}") for name in ("packing", "quantizer"))
    ternary = quantizer.quantize_layers(copy.deepcopy(decoder))
    packed = tmp_path / "packed"
    packed.mkdir()
    save_language_model(
        packed,
        ternary,
        get_tokenizer("bytes"),
        phase="bitnet",
        seed=0,
        data_fingerprint="fingerprint",
        parents=[parent(given, "teacher")],
        quantizer=bundle.quantizer_card(embedding),
        format=bundle.TERNARY,
        tensors=packing.pack_network(ternary, embedding),
    )
    assert find_plain(packed) == given / "model"
    result = run(context, packed, tmp_path / "out", ternary_ratio=6.0)
    assert result.success, result.error
    assert result.metrics["ternary/score"] > 0.99
    assert size(tmp_path / "out" / "ternary") < size(packed / "model")
    assert size(tmp_path / "out" / "model") == size(tmp_path / "out" / "ternary")


@pytest.mark.slow
def test_what_is_compressed_already_is_refused(made, context, tmp_path):
    with pytest.raises(ForgeError, match="compressed already"):
        run(context, made[0], tmp_path)
    with pytest.raises(ForgeError, match="works on a model"):
        PHASES.build(CONFIG, "compression", context=context).check(None)


@pytest.mark.slow
def test_an_altered_file_is_refused_in_a_line(made, tmp_path):
    for path in made[0].glob("model.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = tmp_path / "model.safetensors"
    data = bytearray(tensors.read_bytes())
    data[len(data) // 2] ^= 1
    tensors.write_bytes(data)
    with pytest.raises(CheckpointError) as refused:
        load_language_model(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_process_that_takes_too_long_is_ended(context, given, tmp_path):
    with pytest.raises(ForgeError, match="score_timeout_s=0"):
        run(context, given, tmp_path, score_timeout_s=0.2)
    assert not list(tmp_path.glob("scored_text*"))


def test_no_codec_but_a_known_one():
    with pytest.raises(Exception, match="codecs=grids"):
        replace(CONFIG, codecs=["grids"])

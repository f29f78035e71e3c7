"""What is written is what is read, and what is not is refused in a line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import esper
from esper.checkpoint import Checkpoint, read_bundle, write_bundle
from esper.errors import CheckpointError, EsperError, ForgeError
from esper.forge.architectures import build_network
from esper.forge.bundles import FORMATS, load_language_model, parent, save_language_model
from esper.forge.canary import check_canary, take_canary
from esper.forge.card import ModelCard
from esper.kasmina import Decoder
from tests.forge.models import network, tokenizer


def save(path: Path, model: torch.nn.Module, **given) -> Path:
    return save_language_model(path, model, tokenizer(), phase="cognate", seed=3, data_fingerprint="abc", **given)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return save(tmp_path / "model", network())


def rewritten(bundle: Path, **changed) -> None:
    """The same bundle with another card, sound in all that checksums tell."""
    held = read_bundle(bundle)
    fields = {"kind": held.kind, "config": held.config, "metadata": held.metadata, "metrics": held.metrics}
    write_bundle(bundle, Checkpoint(**{"tensors": held.tensors, **fields, **changed}))


def carded(bundle: Path, **changed) -> None:
    rewritten(bundle, metadata={**read_bundle(bundle).metadata, **changed})


def refusal(path: Path) -> str:
    with pytest.raises(EsperError) as caught:
        load_language_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_comes_back_as_it_was_saved(tmp_path):
    model, x = network(window=5), torch.randint(264, (3, 20))
    written = save(tmp_path / "made" / "python", model, metrics={"bits": 2.5}, quantizer={"bits": 2})
    assert written == tmp_path / "made" / "python.safetensors"
    for path in (written, written.with_suffix(""), written.with_suffix(".json"), str(written)):
        read = esper.load_language_model(path)
        assert torch.equal(read(x), model(x)) and not read.training
    card = read.card
    assert (card.phase, card.seed, card.data_fingerprint) == ("cognate", 3, "abc")
    assert (card.metrics, card.gates, card.quantizer) == ({"bits": 2.5}, {}, {"bits": 2})
    assert card.architecture == model.architecture()
    assert card.tokenizer == {"name": "bytes", "sha256": tokenizer().sha256}
    assert read.tokenizer.encode("é") == [0xC3, 0xA9]
    assert load_file(written).keys() == dict(model.named_parameters()).keys()  # the tied head is stored once


def test_a_folder_means_the_model_in_it(tmp_path):
    model = network()
    assert save(tmp_path, model) == tmp_path / "model.safetensors"
    assert torch.equal(load_language_model(tmp_path).host.norm.weight, model.norm.weight)


def test_what_was_read_trains_on_and_is_saved_again(bundle):
    read = load_language_model(bundle)
    read(torch.zeros(1, 4, dtype=torch.int64)).sum().backward()
    assert all(parameter.grad is not None for parameter in read.parameters())
    with torch.no_grad():
        read.host.norm.weight += 1
    save(bundle, read, parents=[parent(bundle, "trunk")])
    again = load_language_model(bundle)
    assert torch.equal(again.host.norm.weight, read.host.norm.weight)
    assert [entry["relation"] for entry in again.card.parents] == ["trunk"]


def test_a_parent_is_named_by_what_its_tensors_are(bundle):
    sha256 = json.loads(bundle.with_suffix(".json").read_text())["tensors_sha256"]
    assert parent(bundle, "trunk") == {"path": str(bundle), "sha256": sha256, "relation": "trunk"}
    with pytest.raises(CheckpointError, match="missing"):
        parent(bundle.with_name("other"), "trunk")


def test_what_grew_comes_back_as_a_plain_part(tmp_path):
    model, x = network(), torch.randint(264, (2, 20))
    for slot, blueprint in {"block1": "mlp", "block2": "attention"}.items():
        model.settle(slot, blueprint, max_ratio=0.5)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    read = load_language_model(save(tmp_path / "grown", model))
    assert torch.equal(read(x), model(x))
    assert read.card.architecture["growth"][1] == {"slot": "block2", "blueprint": "attention", "max_ratio": 0.5}


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
@pytest.mark.parametrize("place", [0.02, 0.5, 0.98])
def test_one_flipped_byte_is_refused(bundle, suffix, place):
    file = bundle.with_suffix(suffix)
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 1
    file.write_bytes(data)
    assert str(file) in refusal(bundle)


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_file_that_is_missing_or_cut_short_is_refused(bundle, suffix):
    file = bundle.with_suffix(suffix)
    data = file.read_bytes()
    file.write_bytes(data[:-3])
    assert str(file) in refusal(bundle)
    file.unlink()
    assert f"{file} is missing" in refusal(bundle)
    shutil.rmtree(bundle.parent)
    assert "is missing" in refusal(bundle)


def test_another_tokenizer_is_refused(bundle, tmp_path):
    carded(bundle, tokenizer={"name": "bytes", "sha256": "0" * 64})
    assert "its tokenizer was another: bytes has changed since" in refusal(bundle)
    carded(bundle, tokenizer={"name": str(tmp_path / "gone.json"), "sha256": "0" * 64})
    assert "gone.json: cannot be read" in refusal(bundle)


def test_a_canary_that_does_not_reproduce_is_refused(bundle):
    held = read_bundle(bundle)
    name = "layers.1.mlp.down.weight"
    changed = {**held.tensors, name: held.tensors[name] + 0.01}  # written anew: every checksum is right
    rewritten(bundle, tensors=changed)
    assert "its canary does not reproduce" in refusal(bundle)


def test_the_canary_is_strict_where_it_was_written_and_lenient_elsewhere():
    model = network()
    canary = take_canary(model, 264)
    check_canary(model, canary)
    model.norm.weight.data *= 1 + 1e-4
    with pytest.raises(CheckpointError, match="does not reproduce"):
        check_canary(model, canary)
    check_canary(model, {**canary, "threads": canary["threads"] + 1})
    check_canary(model, {**canary, "machine": {**canary["machine"], "cpu": "another"}})
    model.norm.weight.data *= 1 + 1e-2
    with pytest.raises(CheckpointError, match="does not reproduce"):
        check_canary(model, {**canary, "threads": canary["threads"] + 1})


class Fixed(torch.nn.Module):
    """Logits of 1, and a little more for one token at each position, another one at the first `moved`."""

    def __init__(self, moved: int = 0) -> None:
        super().__init__()
        self.likeliest = torch.arange(64) + torch.cat([torch.ones(moved), torch.zeros(64 - moved)]).long()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return 1 + 1e-4 * torch.nn.functional.one_hot(self.likeliest, 264)[None].float()


def test_elsewhere_two_of_the_likeliest_tokens_may_be_others():
    canary = {**take_canary(Fixed(), 264), "threads": 0}
    check_canary(Fixed(moved=2), canary)
    with pytest.raises(CheckpointError, match="95% of the likeliest tokens"):
        check_canary(Fixed(moved=3), canary)


@pytest.mark.parametrize(
    ("canary", "said"),
    [
        ({}, "no probe"),
        ({"tokens": [1], "logits": "AAAA", "shape": [1, 264]}, "no probe"),
        ({"tokens": [999], "logits": "AAAAAA==", "shape": [1, 1]}, "no probe"),
        ({"tokens": [0], "logits": "AAAAAA==", "shape": [1, 1]}, r"has logits \[1, 1\]"),
    ],
)
def test_a_canary_that_is_none_is_refused(bundle, canary, said):
    carded(bundle, canary=canary)
    with pytest.raises(CheckpointError, match=said):
        load_language_model(bundle)


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ({"name": "os.system", "arguments": {}}, "expected one of decoder"),
        ({"name": "decoder", "arguments": {"generator": 1}}, "no argument 'generator'"),
        ({"name": "decoder", "arguments": {"n_embd": 8}}, "missing"),
        ({"name": "decoder", "arguments": {**network().architecture()["arguments"], "n_embd": "8"}}, "n_embd=8"),
        ({"name": "decoder", "arguments": {**network().architecture()["arguments"], "n_layer": 10**6}}, "n_layer"),
        ({"name": "decoder", "arguments": {**network().architecture()["arguments"], "n_layer": 3}}, "is missing"),
        (
            {
                "name": "decoder",
                "arguments": dict.fromkeys(("vocab_size", "n_embd", "block_size"), 16_384)
                | {"n_head": 2, "n_layer": 256},
            },
            "fit into memory",
        ),
        ({**network().architecture(), "growth": [{"slot": "block1", "blueprint": "virus", "max_ratio": 1}]}, "virus"),
        ({**network().architecture(), "growth": [{"slot": "block1"}]}, "growth="),
        ({**network().architecture(), "growth": ["block1"]}, "growth="),
        ({"name": "decoder"}, "no name with arguments"),
    ],
)
def test_what_is_no_architecture_is_refused(bundle, architecture, said):
    rewritten(bundle, config=architecture)
    assert said in refusal(bundle)


def test_an_unknown_format_another_kind_and_a_lacking_card_are_refused(bundle):
    carded(bundle, format="pickle")
    assert "'pickle'" in refusal(bundle) and "plain" in refusal(bundle)
    carded(bundle, format="plain", seed="one")
    assert "lacks 'seed'" in refusal(bundle)
    rewritten(bundle, kind="agent")
    assert "kind 'agent', and no language model" in refusal(bundle)


def test_another_format_says_how_its_tensors_become_a_network(tmp_path):
    def halved(card: ModelCard, tensors):
        model = build_network(card.architecture)
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        return model

    FORMATS.register("halved_in_tests", ModelCard)(halved)
    try:
        model = network()
        tensors = {name: tensor.half() for name, tensor in model.state_dict().items()}
        written = save(tmp_path / "packed", model, format="halved_in_tests", tensors=tensors)
        assert written.stat().st_size < 0.6 * save(tmp_path / "whole", model).stat().st_size
        x = torch.randint(264, (2, 10))
        assert torch.equal(load_language_model(written)(x), model.half().float()(x))
    finally:
        del FORMATS.parts["halved_in_tests"]


def test_nothing_is_written_where_the_tensors_are_not_the_networks(bundle):
    before = bundle.read_bytes()
    with pytest.raises(CheckpointError, match="another architecture"):
        save(bundle, network(), tensors={"embedding.weight": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="JSON has no such number"):
        save(bundle, network(1), metrics={"bits": float("nan")})
    assert bundle.read_bytes() == before


def test_what_is_no_path_is_told():
    with pytest.raises(ForgeError, match="expected the path of a bundle"):
        load_language_model(None)


def test_an_architecture_is_what_the_network_was_made_with():
    model = Decoder(300, 24, 3, 4, 20, 7)
    again = build_network(model.architecture())
    assert again.architecture() == model.architecture()
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]

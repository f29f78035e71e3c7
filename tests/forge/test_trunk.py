"""A decoder that a run has grown, as a trunk of the forge."""

import json
from pathlib import Path

import pytest
import torch

from esper.config.composing import compose
from esper.errors import EsperError, ForgeError
from esper.forge.bundles import load_language_model, save_language_model
from esper.forge.trunk import plain_decoder, trunk_from_run
from esper.kasmina import Decoder, MorphogeneticModel, SlotConfig
from esper.leyline import SeedStage
from esper.runner.checkpointing import load_member
from esper.runner.launch import start
from esper.runner.spec import RunSpec
from esper.tasks.text.tokenizer import Tokenizer
from tests.engine.growing import plant
from tests.forge.models import network, tokenizer

SMALL = ["host.n_embd=8", "host.n_layer=2", "slots=early_late", "task.block_size=16", "task.epoch_windows=16"]
SMALL += ["task.train_bytes=3000", "task.val_bytes=500", "task.test_bytes=500", "engine.members=2", "engine.threads=1"]
SMALL += ["engine=sequential", "epochs=2", "telemetry=local", "telemetry.report=false", "policy=static"]
OURS = ["host=decoder", "task=text", f"task.path={__file__}", "task.tokenizer=bytes"]


def run(folder: Path, *overrides: str) -> Path:
    folder.mkdir()
    given = ["optimizer=adamw", *overrides, *SMALL]
    assert start(RunSpec(compose(given), folder, given)) == 0
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("runs") / "grown", *OURS)


@pytest.mark.parametrize("left_out", [SeedStage.BLENDING, SeedStage.CULLED])
def test_what_is_blended_in_is_a_plain_part_and_other_seeds_are_left_out(tmp_path, left_out):
    model = MorphogeneticModel(network(n_layer=3)).eval()
    plant(model, "early", "mlp", "gated", SeedStage.FOSSILIZED, 0)
    plant(model, "late", "attention", "linear", SeedStage.PROBATIONARY, 1)
    x = torch.randint(264, (3, 32), generator=torch.Generator().manual_seed(0))
    expected = model(x)
    plant(model, "mid", "mlp", "linear", left_out, 2)
    assert not torch.allclose(model(x), expected, atol=1e-3)
    plain = plain_decoder(model)
    assert type(plain) is Decoder and not any(isinstance(m, type(model.slots["early"])) for m in plain.modules())
    assert [(entry["slot"], entry["blueprint"]) for entry in plain.growth] == [
        ("block1", "mlp"),
        ("block3", "attention"),
    ]
    torch.testing.assert_close(plain(x), expected, rtol=0, atol=1e-5)
    written = save_language_model(tmp_path, plain, tokenizer(), phase="cognate", seed=0, data_fingerprint="")
    assert torch.equal(load_language_model(written)(x), plain(x))


def test_the_ratio_that_a_seed_was_bounded_to_comes_along():
    model = MorphogeneticModel(network(), slots=["early"], slot_config=SlotConfig(max_ratio=0.25)).eval()
    plant(model, "early", "mlp", "linear", SeedStage.FOSSILIZED, 0)
    x = torch.randint(264, (2, 20), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain_decoder(model)(x), model(x), rtol=0, atol=1e-5)
    assert plain_decoder(model).growth[0]["max_ratio"] == 0.25


@pytest.mark.slow
def test_a_runs_best_grown_member_is_taken(finished):
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])["members"]
    losses = {row["member"]: row["val_loss"] for row in last if not row["is_twin"]}
    best = min(losses, key=losses.get)
    assert len(losses) == 2 and losses[best] < losses[1 - best]
    trunk = trunk_from_run(finished, tokenizer())
    states = [load_member(finished, member).host.state_dict() for member in range(2)]
    assert torch.equal(trunk.embedding.weight, states[best]["embedding.weight"])
    for member in range(2):
        chosen = trunk_from_run(finished, tokenizer(), member=member)
        assert torch.equal(chosen.embedding.weight, states[member]["embedding.weight"])
    assert trunk.architecture()["arguments"]["vocab_size"] == 264 and not trunk.training


def refused(folder: Path, text: Tokenizer, said: str) -> None:
    with pytest.raises(EsperError, match=said) as caught:
        trunk_from_run(folder, text)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.slow
def test_other_runs_are_refused_with_the_reason(tmp_path, finished):
    refused(tmp_path / "nowhere", tokenizer(), "no run lies there")
    refused(run(tmp_path / "a", *OURS[:3]), tokenizer(), "has read task=text without a tokenizer")
    refused(run(tmp_path / "b", "host=transformer", *OURS[1:]), tokenizer(), "its host is transformer, and no decoder")
    other = tokenizer()
    other.name, other.sha256 = "mine.json", "0" * 64
    refused(finished, other, "by tokenizer bytes, and this is mine.json")
    (finished / "metrics.jsonl").rename(tmp_path / "metrics.jsonl")
    try:
        with pytest.raises(ForgeError, match=r"metrics\.jsonl cannot be read"):
            trunk_from_run(finished, tokenizer())
    finally:
        (tmp_path / "metrics.jsonl").rename(finished / "metrics.jsonl")

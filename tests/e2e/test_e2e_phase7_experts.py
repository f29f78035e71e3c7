"""Phase 7 from end to end: one file that routes by what it has read, better than the model without experts."""

import pytest
import torch

from esper import load_language_model
from esper.checkpoint import read_bundle
from tests.e2e.forge_runs import bits_per_byte, corpus_of, forge, logged, result

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def folder(nano_run):
    return nano_run / "7-experts"


@pytest.fixture(scope="module")
def metrics(nano_run):
    return result(nano_run, "experts")["result"]["metrics"]


def test_it_says_what_the_record_says(nano_run, folder, metrics):
    corpus, length = corpus_of(nano_run)
    found = {
        name: bits_per_byte(load_language_model(folder), domain.test, length) for name, domain in corpus.domains.items()
    }
    continuity = result(nano_run, "experts")["continuity"]
    for name, bits in found.items():
        assert continuity[f"bits_per_byte/{name}"] == pytest.approx(bits, abs=1e-4)
    assert metrics["gain"] == pytest.approx(metrics["base/bits_per_byte"] - metrics["routed/bits_per_byte"])
    assert metrics["gain_low"] > 0 and metrics["own_gain_low"] > 0


def test_no_logit_looks_ahead(folder):
    model = load_language_model(folder)
    tokens = torch.randint(256, (1, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(tokens)
        for place in (3, 7, 8, 15, 31, 40, 63):
            changed = tokens.clone()
            changed[0, place] = (tokens[0, place] + 1) % 256
            assert torch.equal(model(changed)[:, :place], before[:, :place])


def test_experts_are_scales_of_singular_values_alone(nano_run, folder, metrics):
    routed = read_bundle(folder / "model").tensors
    base = read_bundle(next(nano_run.glob("*-bitnet")) / "model").tensors
    assert {name for name in routed if name.startswith("base.")} == {f"base.{name}" for name in base}
    parameters = sum(parameter.numel() for parameter in load_language_model(nano_run / "1-cognate").parameters())
    assert routed["experts"].shape[1] < 0.01 * parameters
    assert torch.equal(read_bundle(folder / "experts").tensors["values"], routed["experts"])
    assert (folder / "masters.safetensors").exists()


def test_what_was_trained_was_logged(nano_run, metrics):
    names = [f"experts/expert_{kind}_loss" for kind in range(int(metrics["clusters"]))]
    assert any(logged(nano_run, name) for name in names)


def test_compression_takes_it(nano_run):
    parents = load_language_model(nano_run / "8-compression").card.parents
    assert "7-experts" in parents[0]["path"] or "7-experts" in str(result(nano_run, "compression")["input"])


def test_from_the_command_line_more_experts_than_prefixes_are_bad_input(nano_run, tmp_path):
    given = next(nano_run.glob("*-bitnet"))
    done = forge(
        tmp_path,
        "size=nano",
        "phase=experts",
        f"input={given}",
        "experts.prefixes=1",
        "experts.max_experts=60",
        "hydra.run.dir=run",
    )
    assert done.code == 2
    assert "experts.max_experts=60" in done.err and len(done.err.splitlines()) <= 2
    assert not (tmp_path / "run").exists()

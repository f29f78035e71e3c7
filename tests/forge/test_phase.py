"""How a phase ends: which gates were passed, by its result and by the card of what it passes on."""

import math
import time

import pytest

from esper.errors import CheckpointError
from esper.forge.bundles import load_language_model, save_language_model
from esper.forge.phase import Gate, conclude
from esper.forge.pipeline import bundle_checksums
from tests.forge.models import network, tokenizer

GATES = (
    Gate("bits", "at_most", 2.5),
    Gate("ratio", "at_least", 7.0),
    Gate("ratio", "at_most", 9.0),
    Gate("unmeasured", "at_least", 0.0),
    Gate("nan", "at_least", 0.0),
)
METRICS = {"bits": 2.5, "ratio": 10.0, "nan": math.nan}


def saved(path, seed=0):
    return save_language_model(path, network(seed), tokenizer(), phase="cognate", seed=0, data_fingerprint="f")


def concluded(gates, metrics, artifacts):
    return conclude("cognate", gates, metrics, artifacts, time.monotonic())


def test_the_card_of_what_is_passed_on_says_which_gates_were_passed(tmp_path):
    artifacts = {"trunk": saved(tmp_path / "model"), "prose": saved(tmp_path / "prose", seed=1)}
    before = bundle_checksums(tmp_path), artifacts["trunk"].read_bytes()
    result = concluded(GATES, METRICS, artifacts)
    card = load_language_model(tmp_path).card
    assert card.gates == {"bits": True, "ratio": False, "unmeasured": False, "nan": False}
    assert load_language_model(tmp_path / "prose").card.gates == {}
    assert (bundle_checksums(tmp_path), artifacts["trunk"].read_bytes()) == before
    assert not result.success and result.error.count(" is asked") == 3
    assert "ratio 10, at most 9 is asked" in result.error and "bits" not in result.error


def test_what_is_concluded_again_says_the_same_and_the_new_verdict_alone(tmp_path):
    artifacts = {"model": saved(tmp_path / "model").with_suffix("")}
    assert concluded(GATES[:1], METRICS, artifacts).success
    once = (tmp_path / "model.json").read_bytes()
    assert concluded(GATES[:1], METRICS, artifacts).error is None
    assert (tmp_path / "model.json").read_bytes() == once
    concluded(GATES[1:2], METRICS, artifacts)
    assert load_language_model(tmp_path).card.gates == {"ratio": True}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_a_card_whose_gates_are_no_verdicts_is_refused(tmp_path):
    from esper.checkpoint.bundle import amend_metadata

    path = saved(tmp_path / "model")
    amend_metadata(path, gates={"bits": "yes"})
    with pytest.raises(CheckpointError, match=r"model card is malformed: .*gates"):
        load_language_model(path)


def test_what_is_no_plain_value_leaves_the_sidecar_as_it_was(tmp_path):
    from esper.checkpoint.bundle import amend_metadata

    path = saved(tmp_path / "model")
    before = path.with_suffix(".json").read_bytes()
    with pytest.raises(CheckpointError):
        amend_metadata(path, gates={"bits": object()})
    assert path.with_suffix(".json").read_bytes() == before

"""A seed's whole life in a host of each kind, through the front door."""

import json

import pytest

from esper.config.composing import compose
from esper.runner.launch import start
from esper.runner.spec import RunSpec
from tests.e2e.conftest import record_of

QUICK = ["epochs=4", "slots=late", "slots.blending_epochs=1", "gates=permissive", "policy.first_plant_epoch=1"]
QUICK += ["policy.min_training_epochs=1", "policy.probation_epochs=1", "policy.max_live_seeds=1"]
SMALL = ["debug=smoke", "engine.members=1", "engine.threads=1", "task.image_size=8", "telemetry.report=false"]
SERIES = ["host=custom", "host.factory=tests.networks:series", "host.positions=[body]"]
HOSTS = {
    "cnn": (["host.channels=[2,4]"], "conv_enhance"),
    "resnet": (["host=resnet", "host.width=2"], "conv_enhance"),
    "vit": (["host=vit", "host.n_embd=8", "host.n_layer=2"], "mlp"),
    "mlp": (["host=mlp", "host.widths=[8,8]"], "hidden"),
    "series": (SERIES, "conv_enhance"),
}


@pytest.mark.parametrize("kind", ["fused", "sequential"])
@pytest.mark.parametrize("host", HOSTS)
def test_the_heuristic_grows_every_kind_of_host(host, kind, tmp_path):
    own, blueprint = HOSTS[host]
    overrides = [*SMALL, *QUICK, *own, f"engine={kind}"]
    assert start(RunSpec(compose(overrides), tmp_path, overrides)) == 0
    record = record_of(tmp_path)
    assert record["status"] == "finished" and record["engine"]["kind"] == kind
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    planted = [event["data"] for event in events if event["type"] == "germinated"]
    assert planted and planted[0]["blueprint"] == blueprint
    assert any(event["data"].get("to") == "BLENDING" for event in events)

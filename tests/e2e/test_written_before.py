"""Runs that an earlier version began (commit 17c1738, before modules moved) go on here, and their members load."""

import json
import shutil
from pathlib import Path

import pytest

from esper import load_member
from tests.e2e.conftest import lines, record_of

WRITTEN = Path(__file__).with_name("written_before")


@pytest.fixture(params=["scheduled", "ppo"])
def begun(request, esper):
    shutil.copytree(WRITTEN / request.param, esper.folder / request.param)
    return esper.folder / request.param


def test_it_goes_on_from_where_it_stopped(esper, begun):
    before = {
        name: (begun / name).read_text() for name in ("metrics.jsonl", "learning.jsonl") if (begun / name).exists()
    }
    wanted = record_of(begun)
    finished = esper.run_here(f"resume={begun}")
    assert finished.code == 0, finished.err
    record = record_of(begun)
    assert (record["status"], record["epoch"], record["update"]) == (
        "finished",
        wanted["max_epochs"],
        wanted["max_updates"],
    )
    for name, text in before.items():
        assert (begun / name).read_text().startswith(text)
    assert [line["epoch"] for line in lines(begun / "metrics.jsonl")] == list(range(wanted["max_epochs"] + 1))


def test_its_members_load(begun):
    if record_of(begun)["epoch"]:
        events = [json.loads(line) for line in (begun / "events.jsonl").read_text().splitlines()]
        planted = {event["slot"] for event in events if event["message"] == "planted" and event["member"] == 1}
        member = load_member(begun, 1)
        assert planted == {name for name, slot in member.slots.items() if slot.seed is not None} != set()

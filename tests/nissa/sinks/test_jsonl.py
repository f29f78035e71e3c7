import json
import math
import os
import resource
from pathlib import Path

import pytest

from esper.leyline import TelemetryEvent, TelemetryEventType
from esper.nissa import EventHub, JsonlSink, cut_back, read_jsonl
from esper.nissa.sinks.cutting import Carried


def event(epoch: int, slot: str = "early") -> TelemetryEvent:
    return TelemetryEvent(TelemetryEventType.CULLED, epoch, 1, slot, "s", "weil's nötig war")


def test_a_line_is_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path)
    sink.epoch({"epoch": 0, "val": 1.5})
    sink.event(event(0))
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"epoch": 0, "val": 1.5}
    ]
    assert json.loads((tmp_path / "events.jsonl").read_text()) == event(0).to_dict()


def test_a_new_sink_appends(tmp_path: Path) -> None:
    for epoch in range(2):
        sink = JsonlSink(tmp_path)
        sink.epoch({"epoch": epoch})
        sink.close("interrupted")
    assert read_jsonl(tmp_path / "metrics.jsonl") == ([{"epoch": 0}, {"epoch": 1}], 0)


def test_nan_never_gets_into_the_file(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        sink.epoch({"epoch": 0, "loss": math.nan})
    EventHub([sink]).epoch({"epoch": 0, "loss": math.nan})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch":0,"loss":null}\n'


def test_a_full_disk_propagates_through_the_hub(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    sink = JsonlSink(tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, sink._metrics._file.fileno())
    os.close(full)
    hub = EventHub([sink])
    with pytest.raises(OSError, match="No space left"):
        hub.epoch({"epoch": 0})
    hub.close("failed")


def test_a_line_cut_short_by_a_full_disk_is_taken_back(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path)
    sink.epoch({"epoch": 0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # a disk with room for half of the next line
    try:
        with pytest.raises(OSError, match="too large"):
            sink.epoch({"epoch": 1, "text": "x" * 200})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch":0}\n'
    sink.epoch({"epoch": 1})
    assert read_jsonl(tmp_path / "metrics.jsonl") == ([{"epoch": 0}, {"epoch": 1}], 0)


def test_reading_skips_and_counts_what_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch":0}\n[1]\n\n\xff\xfe\n{"epoch":1}\n{"epo')
    assert read_jsonl(path) == ([{"epoch": 0}, {"epoch": 1}], 3)
    assert read_jsonl(tmp_path / "absent.jsonl") == ([], 0)


def test_cut_back_keeps_what_the_checkpoint_knows(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path)
    for epoch in range(5):
        sink.event(event(epoch))
        sink.event(event(epoch))
        sink.epoch({"epoch": epoch})
    sink.close("interrupted")
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "torn')
    cut_back(tmp_path, metrics=2, events=2)
    assert [r["epoch"] for r in read_jsonl(tmp_path / "metrics.jsonl")[0]] == [0, 1, 2]
    assert [r["epoch"] for r in read_jsonl(tmp_path / "events.jsonl")[0]] == [0, 0, 1, 1, 2, 2]
    sink = JsonlSink(tmp_path)
    sink.epoch({"epoch": 3})
    assert [r["epoch"] for r in read_jsonl(tmp_path / "metrics.jsonl")[0]] == [0, 1, 2, 3]


def test_cut_back_drops_a_torn_last_line_of_an_epoch_to_keep(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"epoch":0}\n{"epoch":1}')
    cut_back(tmp_path, metrics=7, events=7)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch":0}\n'
    assert not (tmp_path / "events.jsonl").exists()


def test_a_line_of_the_runs_course_that_was_altered_gives_way_to_the_one_that_a_checkpoint_carries(
    tmp_path: Path,
) -> None:
    saved = [TelemetryEvent(TelemetryEventType.CHECKPOINT_SAVED, data={"checkpoint": number}) for number in (1, 2)]
    sink = JsonlSink(tmp_path)
    for one in saved:
        sink.event(one)
    sink.close("interrupted")
    path = tmp_path / "events.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace('"seed":""', '"seed":1', 1))
    carried = Carried(-1, 0, {"events.jsonl": whole.splitlines()[:1]})  # the other was told after it was saved
    assert cut_back(tmp_path, events=0, checkpoint=2, carried=[carried])
    assert path.read_text() == whole


ALTERED = {
    "of another epoch": lambda lines: [lines[0].replace('"epoch":0', '"epoch":1'), *lines[1:]],
    "of its course and of another epoch": lambda lines: [
        *lines[:2],
        lines[2].replace('h":0', 'h":1'),
        *lines[3:],
    ],
    "of its course and without a field": lambda lines: [*lines[:2], lines[2].replace('"data', '"da4a'), *lines[3:]],
    "of its course and of another number": lambda lines: [
        *lines[:2],
        lines[2].replace('checkpoint":1', 'checkpoint":0'),
        *lines[3:],
    ],
    "of its course and of no number": lambda lines: [
        *lines[:2],
        lines[2].replace('checkpoint"', 'chuckpoint"'),
        *lines[3:],
    ],
    "in another order": lambda lines: [lines[1], lines[0], *lines[2:]],
    "twice": lambda lines: [lines[0], *lines],
    "all twice": lambda lines: [*lines, *lines],
    "missing": lambda lines: lines[1:],
}


def two_epochs(folder: Path) -> tuple[list[str], list[Carried]]:
    """The lines of a run's events, and those of them that its checkpoints carry: all but the last."""
    sink = JsonlSink(folder)
    for epoch in range(2):
        for slot in ("early", "late"):
            sink.event(event(epoch, slot))
        sink.event(TelemetryEvent(TelemetryEventType.CHECKPOINT_SAVED, epoch=epoch, data={"checkpoint": epoch + 1}))
    sink.close("interrupted")
    lines = (folder / "events.jsonl").read_text().splitlines()
    return lines, [Carried(-1, 0, {"events.jsonl": lines[:2]}), Carried(0, 1, {"events.jsonl": lines[2:5]})]


def cut(folder: Path, lines: list[str], carried: list[Carried]) -> list[str]:
    """What cut_back makes of these lines."""
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))
    cut_back(folder, events=1, checkpoint=2, carried=carried)
    return (folder / "events.jsonl").read_text().splitlines()


@pytest.mark.parametrize("alteration", ALTERED)
def test_events_that_checkpoints_carry_are_as_they_were_written(tmp_path: Path, alteration: str) -> None:
    lines, carried = two_epochs(tmp_path)
    assert cut(tmp_path, ALTERED[alteration](lines), carried) == lines


def test_an_altered_event_of_the_course_that_nothing_carries_goes_and_is_told_anew(tmp_path: Path) -> None:
    lines, carried = two_epochs(tmp_path)
    assert cut(tmp_path, [*lines[:5], lines[5].replace('"message":""', '"message":"a"')], carried) == lines[:5]


def test_what_one_checkpoint_less_carries_leaves_the_order_as_it_was(tmp_path: Path) -> None:
    lines, _ = two_epochs(tmp_path)
    carried = [Carried(-1, 0, {"events.jsonl": lines[1:2]}), Carried(0, 1, {"events.jsonl": lines[3:5]})]
    assert cut(tmp_path, [lines[2], *lines[1:2], *lines[3:]], carried) == [lines[2], *lines[1:2], *lines[3:]]

"""TensorBoard's own reader is asked what was written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorboard", reason="pip install 'esper[tensorboard]'")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from esper.nissa.sinks.curves import epoch_curves, outcome
from esper.nissa.sinks.tensorboard_sink import TensorBoardSink


def records_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def read_back(run_dir: Path) -> EventAccumulator:
    reader = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    return reader


def curve(reader: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in reader.Scalars(name)]


def test_every_curve_is_read_back(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=3, epochs=6)
    sink = TensorBoardSink(run_dir)
    for update in (1, 2):
        sink.update({"update": update, "entropy": update / 2})
    drawn = [epoch_curves(record) for record in records_of(run_dir)]
    for record in records_of(run_dir):
        sink.epoch(record)
    sink.close("finished")
    reader = read_back(run_dir)
    names = {name for curves in drawn for name in curves} | {"learning/entropy"} | outcome(run_dir).keys()
    assert set(reader.Tags()["scalars"]) == names
    accuracy = [(epoch, pytest.approx(curves["grown/val_accuracy"])) for epoch, curves in enumerate(drawn)]
    assert curve(reader, "grown/val_accuracy") == accuracy
    assert curve(reader, "learning/entropy") == [(1, 0.5), (2, 1.0)]
    assert curve(reader, "grown/test_accuracy") == [(6, pytest.approx(outcome(run_dir)["grown/test_accuracy"]))]


def test_an_epoch_is_there_when_the_call_returns(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=1, epochs=2)
    sink = TensorBoardSink(run_dir)
    sink.epoch(records_of(run_dir)[1])
    assert [step for step, _ in curve(read_back(run_dir), "grown/val_loss")] == [1]
    sink.close("failed")


def test_a_reader_that_watches_forgets_what_a_resumed_run_lives_through_again(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=1, epochs=5)
    sink = TensorBoardSink(run_dir)
    for record in records_of(run_dir):
        sink.epoch(record)
    watching = read_back(run_dir)
    sink = TensorBoardSink(run_dir)
    for record in records_of(run_dir)[:4]:
        sink.epoch(record | {"wall_s": 9.0})
    for reader in (watching, read_back(run_dir)):
        reader.Reload()
        assert curve(reader, "time/wall_s") == [(epoch, 9.0) for epoch in range(4)]
    sink.close("interrupted")

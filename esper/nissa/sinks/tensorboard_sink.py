"""TensorBoard: a run's curves in its folder `tensorboard`."""

import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from esper.files import make_folder, open_new
from esper.files.records import TENSORBOARD
from esper.leyline import TelemetryEvent
from esper.nissa.sinks.curves import epoch_curves, outcome, update_curves


class TensorBoardSink:
    """Writes one event file, an epoch or update at a time; each is in the system's hands on return.

    A resumed run begins another file, and is told again what its JSON lines hold; readers forget what came before.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._last_epoch = 0
        folder = run_dir / TENSORBOARD
        make_folder(folder)
        # A file of our own: TensorBoard's would wake TensorFlow, where that is installed, and write from a thread.
        self._file = open_new(folder / f"events.out.tfevents.{time.time():.6f}")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        # At step 0: what an earlier file holds is void.
        self._write(Event(session_log=SessionLog(status=SessionLog.START)))

    def epoch(self, record: dict[str, Any]) -> None:
        """Write the epoch's curves."""
        self._last_epoch = record["epoch"]
        self._draw(epoch_curves(record), record["epoch"])

    def update(self, record: dict[str, Any]) -> None:
        """Write the update's curves."""
        self._draw(update_curves(record), record["update"])

    def event(self, event: TelemetryEvent) -> None:
        """Nothing: events are no curves."""

    def close(self, status: str) -> None:
        """Write what a finished run came to, and close the file."""
        with self._file:
            self._draw(outcome(self._run_dir), self._last_epoch)

    def _draw(self, numbers: dict[str, float], step: int) -> None:
        values = [Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
        self._write(Event(step=step, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._file.flush()

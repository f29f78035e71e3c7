"""What telemetry costs an epoch: milliseconds and share of the epoch's time, sink by sink, all in one run.

    python -m benchmarks.telemetry [--json FILE] [OVERRIDE ...]

The default run, as `python -m esper.run` would do it with the overrides, into a temporary folder; its sinks (JSON
lines, plain console, TensorBoard, and W&B offline) are timed while it goes, and so is what makes the records for them.
The live view, which takes the plain console's place in a terminal, is told the same run again afterwards.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import esper.runner.run
from esper.config.composing import compose
from esper.leyline import Sink
from esper.nissa import EventHub, RunTitle, read_jsonl
from esper.nissa.sinks.live import LiveConsole
from esper.runner.launch import start
from esper.runner.spec import RunSpec

OUTPUTS = ["telemetry.console=plain", "telemetry.tensorboard=true", "telemetry.wandb.enabled=true"]
NAMES = {
    "JsonlSink": "JSON lines",
    "PlainConsole": "plain console",
    "TensorBoardSink": "TensorBoard",
    "WandbSink": "W&B, offline",
}
LOCAL = ("records", "hub", "JSON lines", "plain console", "TensorBoard")
LIMIT = 0.02


class Stopwatch:
    """Seconds by part and epoch. A part's time within another is taken out of the other's."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = [defaultdict(float)]
        self._inner: list[float] = []

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, on the clock."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                taken = time.perf_counter() - started
                self.epochs[-1][part] += taken - self._inner.pop()
                if self._inner:
                    self._inner[-1] += taken

        return run


def measure(overrides: list[str], run_dir: Path) -> Stopwatch:
    """The run, with every part that tells of it on the clock."""
    watch = Stopwatch()
    running: Any = esper.runner.run
    opened, recorded, hub_epoch = running.open_sinks, running.epoch_record, EventHub.epoch

    def open_timed(*args: Any) -> list[Sink]:
        sinks = opened(*args)
        for sink in sinks:
            for told in ("epoch", "event"):
                setattr(sink, told, watch.timed(NAMES[type(sink).__name__], getattr(sink, told)))
        return sinks

    def end_of_epoch(*args: Any) -> None:
        watch.timed("hub", hub_epoch)(*args)
        watch.epochs.append(defaultdict(float))

    running.open_sinks, running.epoch_record = open_timed, watch.timed("records", recorded)
    hub: Any = EventHub
    hub.epoch, hub.event = end_of_epoch, watch.timed("hub", EventHub.event)
    with contextlib.redirect_stdout(io.StringIO()):
        if start(RunSpec(compose(overrides), run_dir, overrides)):
            sys.exit("the run failed")
    return watch


def live_view_s(records: list[dict[str, Any]], epoch_s: float) -> float:
    """What the live view takes an epoch: to be told of it, and its share of a drawing a second (120 columns)."""
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120, height=50)
    view = LiveConsole(RunTitle("benchmark", "heuristic", "cnn", len(records)), terminal.file, terminal)
    told, drawn = Stopwatch(), Stopwatch()
    for record in records:
        told.timed("live", view.epoch)(record)
        drawn.timed("live", view._live.refresh)()
    view.close("finished")
    return told.epochs[0]["live"] / len(records) + epoch_s * drawn.epochs[0]["live"] / len(records)


def main() -> None:
    """Measure, print a table, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    options = parser.parse_args()
    os.environ["WANDB_MODE"] = "offline"
    with tempfile.TemporaryDirectory() as folder:
        watch = measure([*OUTPUTS, *options.overrides], Path(folder))
        records = read_jsonl(Path(folder) / "metrics.jsonl")[0]
    epochs = list(zip(watch.epochs, records, strict=False))[1:]  # epoch 0 trains nothing
    epoch_s = statistics.mean(record["wall_s"] for _, record in epochs)
    seconds = {
        part: statistics.mean(parts[part] for parts, _ in epochs) for part in ("records", "hub", *NAMES.values())
    }
    seconds["live view"] = live_view_s(records[1:], epoch_s)
    together = sum(seconds[part] for part in LOCAL)
    table = Table("part", "ms an epoch", "share of it")
    for part, taken in (*seconds.items(), ("all local sinks", together)):
        table.add_row(part, f"{1e3 * taken:.2f}", f"{taken / epoch_s:.2%}")
    console = Console()
    console.print(table)
    asked = f"asked: all local sinks at most {LIMIT:.0%} of it"
    console.print(f"an epoch takes {1e3 * epoch_s:.0f} ms, mean of {len(epochs)} epochs; {asked}")
    if options.json:
        figures = {"epoch_s": epoch_s, "epochs": len(epochs), "seconds": seconds, "local_share": together / epoch_s}
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

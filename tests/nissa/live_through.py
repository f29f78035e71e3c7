"""A process of its own that lives through a recorded run, with the sinks that a configuration opens.

python -m tests.nissa.live_through PLAN [together], where PLAN is a JSON list of stretches:
{"run": folder, "recorded": folder, "overrides": [...], "first": epoch, "last": epoch, "status": how it ends}
and at choice "record": changes to run.json; "timeouts_s": of the W&B sink, for an answer and for the upload;
"die": "kill -9" after the last epoch, or "core": kill W&B's service before it.
"""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from esper.builders.sinks import open_sinks
from esper.config.composing import compose
from esper.leyline import TelemetryEvent, TelemetryEventType
from esper.nissa import EventHub, cut_back, read_jsonl


def live_through(stretch: dict[str, Any]) -> Iterator[None]:
    """One stretch of a run's life, as esper.runner leads it: cut back, open, tell epoch by epoch, report, close."""
    run, recorded = Path(stretch["run"]), Path(stretch["recorded"])
    first, last = stretch["first"], stretch["last"]
    run.mkdir(exist_ok=True)
    record = json.loads((recorded / "run.json").read_text()) | stretch.get("record", {})
    (run / "run.json").write_text(json.dumps(record | {"summary": None}))
    cut_back(run, metrics=first - 1, events=first - 1, learning=0)
    if "timeouts_s" in stretch:
        from esper.nissa.sinks import wandb_sink

        wandb_sink.ANSWER_TIMEOUT_S, wandb_sink.FINISH_TIMEOUT_S = stretch["timeouts_s"]
    hub = EventHub(open_sinks(compose(stretch["overrides"]), SimpleNamespace(path=run, record=record)))
    events = read_jsonl(recorded / "events.jsonl")[0]
    for line in read_jsonl(recorded / "metrics.jsonl")[0]:
        if first <= line["epoch"] <= last:
            for event in (event for event in events if event["epoch"] == line["epoch"]):
                hub.event(revive(event))
            if stretch.get("die") == "core" and line["epoch"] == last:
                kill_service()
            hub.epoch(line)
            yield
    if stretch.get("die") == "kill -9":
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    if stretch["status"] == "finished":
        shutil.copy(recorded / "run.json", run / "run.json")
        (run / "report.html").write_text("<html>a report</html>")
    hub.close(stretch["status"])


def revive(event: dict[str, Any]) -> TelemetryEvent:
    """An event as it was before it was written down."""
    kind = TelemetryEventType(event["type"])
    return TelemetryEvent(
        kind, event["epoch"], event["member"], event["slot"], event["seed"], event["message"], event["data"]
    )


def kill_service() -> None:
    """SIGKILL to this process's wandb-core, and to nothing else."""
    found = subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True, text=True, check=True)
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    time.sleep(0.3)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("esper").setLevel(logging.INFO)
    lives = [live_through(stretch) for stretch in json.loads(sys.argv[1])]
    for _ in zip_longest(*lives) if sys.argv[2:] == ["together"] else chain(*lives):
        pass

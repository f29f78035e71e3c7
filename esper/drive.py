"""One run, from its folder to its report."""

import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from esper.build import build_growth
from esper.checkpoint import CheckpointManager
from esper.config.checks import in_short
from esper.config.composing import read_config, to_plain
from esper.config.root import RunSchema
from esper.errors import EsperError
from esper.learning import POLICY, build_policy
from esper.leyline import EpochReport, Sink, TelemetryEvent, TelemetryEventType
from esper.nissa import EventHub, JsonlSink, RunTitle, console_sink, cut_back, print_summary, write_report
from esper.records import EpochTimes, checkpoint_metrics, count_seeds, epoch_record, summarize, update_record
from esper.rundir import CONFIG_FILE, RunDirectory
from esper.stopping import StopRequest

FAILED = 1


def start(
    config: RunSchema,
    path: Path,
    overrides: list[str],
    options: Mapping[str, str] | None = None,
    sweep: str | None = None,
) -> int:
    """A new run in this folder. Returns the exit code; raises EsperError on bad input, and leaves no folder then.

    options: group -> the option that was chosen, where that is known. sweep: the sweep that the run is a job of.
    """
    with RunDirectory.create(path, to_plain(config), overrides, options, sweep) as folder:
        return _see_through(folder, config, is_new=True)


def resume(path: Path, overrides: list[str]) -> int:
    """Continue the run in this folder. Returns the exit code; raises EsperError on bad input."""
    with RunDirectory.reopen(path) as folder:
        config = read_config(path / CONFIG_FILE, overrides)
        if folder.record["status"] == "finished":
            print(f"{path}: this run has finished, after epoch {folder.record['epoch']}")
            return 0
        return _see_through(folder, config, is_new=False)


def _see_through(folder: RunDirectory, config: RunSchema, is_new: bool) -> int:
    """Bring the run to whatever end, and let run.json, the terminal and the exit code say which."""
    run: Run | None = None
    with StopRequest() as stop:
        try:
            run = Run(folder, config, is_new)
            is_done = run.drive(stop)
        except KeyboardInterrupt:
            is_done = False
        except (EsperError, OSError) as error:
            reason = in_short(_spelled(error))
            if run is None and not isinstance(error, OSError) and not isinstance(error.__cause__, OSError):
                folder.discard() if is_new else folder.fail(reason)
                raise  # bad input, which the command line answers
            folder.fail(reason)
            kept = f" from {run.checkpoints.path(run.saved_at).stem}" if run is not None and run.saved_at >= 0 else ""
            print(f"error: {reason}\n  to continue{kept}: python -m esper.run resume={folder.path}", file=sys.stderr)
            return FAILED
        except Exception as error:
            folder.fail(f"{type(error).__name__}: {error}")
            traceback.print_exc()
            return FAILED
        if is_done:
            return 0
        folder.finish("interrupted")
        with _unread_output_is_none():
            print(f"interrupted after {_place(folder.record)}; to continue:")
            print(f"  python -m esper.run resume={folder.path}")
        return 128 + (stop.signal or signal.SIGINT)


@contextmanager
def _unread_output_is_none() -> Iterator[None]:
    """Inside, it costs nothing that nobody reads the output any more, as after `| head`."""
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich would end the process
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _place(record: dict[str, Any]) -> str:
    """How far a run has come, in words."""
    if record["update"] < record["max_updates"] and record["epoch"] == 0:
        return f"update {record['update']} of {record['max_updates']}"
    return f"epoch {record['epoch']} of {record['max_epochs']}"


class Run:
    """A run that is under way: its parts, and the loops that they serve (first the policy learns, if it does)."""

    def __init__(self, folder: RunDirectory, config: RunSchema, is_new: bool) -> None:
        self.folder = folder
        self.config = config
        self.checkpoints = CheckpointManager(folder.path)
        checkpoint = self.checkpoints.load_latest_agent() if not is_new and self.checkpoints.exists() else None
        grown = build_growth(config, folder.record["engine"])
        self.growth, self.twin_of = grown.growth, grown.twin_of
        self.controller, self.learning = build_policy(config, grown, is_resumed=checkpoint is not None)
        self.seeds: dict[str, int] = {}
        self.saved_at = -1
        self.metrics: Mapping[str, float | None] = {}  # what the next checkpoint is ranked by
        if checkpoint:
            for unsound in checkpoint.skipped:
                print(f"skipped the checkpoint of epoch {unsound.epoch}: {unsound.reason}", file=sys.stderr)
            self.growth.load_state(dict(checkpoint.tensors), checkpoint.state["growth"])
            if self.learning:
                learned = {
                    name.removeprefix(POLICY): t for name, t in checkpoint.tensors.items() if name.startswith(POLICY)
                }
                self.learning.load_state(learned, checkpoint.state["learning"])
            self.controller.load_state_dict(checkpoint.state["controller"])
            self.seeds = checkpoint.state["seeds"]
            self.saved_at = self.progress
        # Nothing of the growth is written before the policy has learned: epoch 0 is then recorded again.
        cut_back(
            folder.path,
            metrics=self.growth.epoch or -1,
            events=self.growth.epoch if checkpoint else -1,
            learning=self.update,
        )
        folder.start(
            engine=grown.engine,
            epoch=self.growth.epoch,
            update=self.update,
            max_updates=self.learning.total if self.learning else 0,
        )
        self.hub = EventHub(self._sinks())
        self._tell(TelemetryEventType.RUN_RESUMED if checkpoint else TelemetryEventType.RUN_STARTED)

    @property
    def update(self) -> int:
        """Updates of the policy so far."""
        return self.learning.update if self.learning else 0

    @property
    def progress(self) -> int:
        """Updates and epochs so far: what checkpoints are numbered by."""
        return self.update + self.growth.epoch

    def drive(self, stop: StopRequest) -> bool:
        """Learn, then grow, until the last epoch or until asked to stop; whether it is done."""
        status, summary = "failed", None
        try:
            self._learn(stop)
            if not stop:
                summary = self._grow(stop)
            if self.saved_at != self.progress:
                self._save()
            status = "finished" if summary else "interrupted"
            if summary:
                self._tell(TelemetryEventType.RUN_FINISHED)
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            self.hub.close(status)
        if summary:
            self._conclude(summary)
        return summary is not None

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that decides what comes next, for a checkpoint."""
        tensors, growth = self.growth.state()
        state = {"growth": growth, "controller": self.controller.state_dict(), "seeds": self.seeds}
        if self.learning:
            learned, state["learning"] = self.learning.state()
            tensors |= {POLICY + name: tensor for name, tensor in learned.items()}
        return tensors, state

    # ---- the two loops

    def _learn(self, stop: StopRequest) -> None:
        """Update the policy until it is done; a policy that does not learn is."""
        while self.learning and not self.learning.done and not stop:
            started = time.perf_counter()
            self.metrics = self.learning.step()
            self.hub.update(update_record(self.update, self.metrics, time.perf_counter() - started))
            self._keep()

    def _grow(self, stop: StopRequest) -> dict[str, Any] | None:
        """Train and act epoch by epoch; the summary, once the last one is over."""
        reports = self._first_reports()
        while not self.growth.done and not stop:
            started = time.perf_counter()
            reports, events = self.growth.step(self.controller.act(reports))
            self._record(reports, events, time.perf_counter() - started)
            self._keep()
        return self._summary(reports) if self.growth.done else None

    def _keep(self) -> None:
        """Say that the run lives, and save it where that is due."""
        self.folder.beat(self.growth.epoch, self.update)
        if self.progress % self.config.checkpoint.every_epochs == 0:
            self._save()

    # ---- the parts of an epoch

    def _first_reports(self) -> Sequence[EpochReport]:
        """Those to decide the next epoch by; the untrained hosts' are recorded as epoch 0."""
        started = time.perf_counter()
        reports = self.growth.reports()
        if self.growth.epoch == 0:
            self._record(reports, (), time.perf_counter() - started)
        return reports

    def _record(self, reports: Sequence[EpochReport], events: Sequence[TelemetryEvent], wall_s: float) -> None:
        for event in events:
            self.hub.event(event)
        self.seeds = count_seeds(events, self.seeds)
        seconds = self.growth.seconds
        times = EpochTimes(
            wall_s=wall_s,
            train_s=seconds.get("train", 0.0),
            validation_s=seconds.get("validation", 0.0),
            counterfactual_s=seconds.get("counterfactual", 0.0),
            samples=len(reports) * self.growth.task.epoch_size if self.growth.epoch else 0,
            members=len(reports),
        )
        self.hub.epoch(epoch_record(reports, times, self.twin_of))
        self.metrics = checkpoint_metrics(reports)

    def _save(self) -> None:
        keep = self.config.checkpoint
        self.checkpoints.save_checkpoint(
            self,
            self.progress,
            kind="population",
            metrics=dict(self.metrics),
            config=to_plain(self.config),
            growth_log=self.growth.growth_log,
            metadata={"engine": self.folder.record["engine"]},
        )
        self.saved_at = self.progress
        self.checkpoints.prune(keep_last=keep.keep_last, keep_best=keep.keep_best)
        self._tell(TelemetryEventType.CHECKPOINT_SAVED)

    def _summary(self, reports: Sequence[EpochReport]) -> dict[str, Any]:
        scores = self.growth.test()
        tested = {"test_accuracy": scores.accuracy.tolist()}
        if self.growth.task.is_text:
            tested["test_bits_per_byte"] = (scores.loss / math.log(2)).tolist()
        self.folder.update()
        return summarize(reports, tested, self.twin_of, self.seeds, self.folder.record["wall_s"])

    def _conclude(self, summary: dict[str, Any]) -> None:
        self.folder.finish("finished", summary=summary)
        report = self._report() if self.config.telemetry.report else None
        if self.config.telemetry.console == "off":
            return
        with _unread_output_is_none():
            print_summary(summary, self.folder.path, report)

    def _report(self) -> Path | None:
        try:
            return write_report(self.folder.path)
        except Exception as error:  # a picture that cannot be drawn must not cost a finished run
            print(f"no report: {type(error).__name__}: {error}; the run itself is whole", file=sys.stderr)
            return None

    def _tell(self, kind: TelemetryEventType) -> None:
        self.hub.event(TelemetryEvent(kind, epoch=self.growth.epoch))

    def _sinks(self) -> list[Sink]:
        config = self.config
        sinks: list[Sink] = [JsonlSink(self.folder.path)] if config.telemetry.jsonl else []
        updates = self.learning.total if self.learning else 0
        policy = self.folder.record.get("options", {}).get("policy", config.policy.name)
        host = getattr(config.host, "factory", config.host.name)
        title = RunTitle(config.name, policy, host, config.epochs, updates)
        console = console_sink(title, config.telemetry.console)
        return sinks if console is None else [*sinks, console]


def _spelled(error: Exception) -> str:
    """An OSError in words, anything else as it says."""
    if not isinstance(error, OSError):
        return str(error)
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}; what was saved earlier is intact"

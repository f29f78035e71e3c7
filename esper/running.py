"""One run that is under way: its parts, what it writes down, and what it keeps."""

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from esper.build import Grown
from esper.checkpoint import Checkpoint, CheckpointManager, restoring
from esper.config.composing import to_plain
from esper.config.root import RunSchema
from esper.config.telemetry import require_packages
from esper.engine.population import Scores
from esper.learning import POLICY, build_policy
from esper.leyline import WAIT, Action, EpochReport, TelemetryEvent, TelemetryEventType
from esper.nissa import EventHub, cut_back, write_report
from esper.records import (
    CHECKPOINT,
    EpochTimes,
    checkpoint_metrics,
    count_seeds,
    epoch_record,
    summarize,
    update_record,
)
from esper.rundir import RunDirectory
from esper.sinks import open_sinks
from esper.stopping import StopRequest


class Run:
    """A run on its way; whoever drives it (`esper.drive`) trains its growth, alone or beside others.

    Args: checkpoint: where it goes on from; None: it begins. Nothing is written before `open`. What goes wrong is kept
    in `error`, and the run stands still from then on.
    """

    def __init__(self, folder: RunDirectory, config: RunSchema, grown: Grown, checkpoint: Checkpoint | None) -> None:
        require_packages(config.telemetry)
        self.folder = folder
        self.config, self._plain_config = config, to_plain(config)
        self.checkpoints = CheckpointManager(folder.path)
        self.engine, self.growth, self.twin_of = grown.engine, grown.whole, grown.twin_of
        self.members, self.ranks = grown.growth, grown.ranks
        self.controller, self.learning = build_policy(config, grown, is_resumed=checkpoint is not None)
        self.seeds: dict[str, int] = {}
        self.saved_at = -1
        self.metrics: Mapping[str, float | None] = {}  # what the next checkpoint is ranked by
        self.reports: Sequence[EpochReport] = ()
        self.summary: dict[str, Any] | None = None
        self.report: Path | None = None
        self.error: Exception | None = None
        self.hub = EventHub([])
        if checkpoint:
            self._continue(checkpoint)

    def _continue(self, checkpoint: Checkpoint) -> None:
        for unsound in checkpoint.skipped:
            print(f"skipped the checkpoint of epoch {unsound.epoch}: {unsound.reason}", file=sys.stderr)
        with restoring(checkpoint, CHECKPOINT):
            self.growth.load_state(dict(checkpoint.tensors), checkpoint.state["growth"])
            if self.learning:
                named = checkpoint.tensors.items()
                learned = {name.removeprefix(POLICY): tensor for name, tensor in named if name.startswith(POLICY)}
                self.learning.load_state(learned, checkpoint.state["learning"])
            self.controller.load_state_dict(checkpoint.state["controller"])
            self.seeds = checkpoint.state["seeds"]
        self.saved_at = self.progress

    @property
    def update(self) -> int:
        """Updates of the policy so far."""
        return self.learning.update if self.learning else 0

    @property
    def progress(self) -> int:
        """Updates and epochs so far: what checkpoints are numbered by."""
        return self.update + self.growth.epoch

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Inside, what goes wrong is this run's own, and ends it alone."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that decides what comes next, for a checkpoint."""
        tensors, growth = self.growth.state()
        state = {"growth": growth, "controller": self.controller.state_dict(), "seeds": self.seeds}
        if self.learning:
            learned, state["learning"] = self.learning.state()
            tensors |= {POLICY + name: tensor for name, tensor in learned.items()}
        return tensors, state

    # ---- its course, in this order; nothing is done any more once something has gone wrong

    def open(self, is_shown: bool, together: int = 1) -> None:
        """Say that it is under way, and begin to write.

        is_shown: whether it has the terminal; together: how many runs train as one program.
        """
        is_resumed = self.saved_at >= 0
        # Nothing of the growth is written before the policy has learned: epoch 0 is then recorded again.
        cut_back(
            self.folder.path,
            metrics=self.growth.epoch or -1,
            events=self.growth.epoch if is_resumed else -1,
            learning=self.update,
        )
        self.folder.start(
            engine=self.engine,
            ranks=self.ranks.world,
            together=together,
            epoch=self.growth.epoch,
            update=self.update,
            max_updates=self.learning.total if self.learning else 0,
        )
        self.hub = EventHub(open_sinks(self.config, self.folder, is_shown))
        self._tell(TelemetryEventType.RUN_RESUMED if is_resumed else TelemetryEventType.RUN_STARTED)

    def learn(self, stop: StopRequest) -> None:
        """Update the policy until it is done; a policy that does not learn is."""
        while self.learning and not (self.learning.done or stop or self.error):
            started = time.perf_counter()
            self.metrics = self.learning.step()
            self.hub.update(update_record(self.update, self.metrics, time.perf_counter() - started))
            self._keep()

    def begin(self, wall_s: float) -> None:
        """Take the reports to decide the next epoch by; the untrained hosts' are recorded as epoch 0."""
        self.reports = self.growth.reports()
        if self.growth.epoch == 0 and self.error is None:
            self._record((), wall_s)

    def decide(self) -> list[Action]:
        """What the controller asks of each member; nothing, once something has gone wrong."""
        with self.guarded():
            if self.error is None:
                return self.controller.act(self.reports)
        return [WAIT] * len(self.reports)

    def take(self, reports: Sequence[EpochReport], events: Sequence[TelemetryEvent], wall_s: float) -> None:
        """An epoch is over: write it down, and save where that is due."""
        self.reports = reports
        if self.error:
            return
        self._record(events, wall_s)
        self._keep()

    def finish(self, scores: Scores) -> None:
        """The last epoch is over; scores: on the test split. Summary, last checkpoint and report are written."""
        if self.error:
            return
        tested = {"test_accuracy": scores.accuracy.tolist()}
        if self.growth.task.is_text:
            tested["test_bits_per_byte"] = (scores.loss / math.log(2)).tolist()
        self.folder.update()
        summary = summarize(self.reports, tested, self.twin_of, self.seeds, self.folder.record["wall_s"])
        self.save()
        self._tell(TelemetryEventType.RUN_FINISHED)
        self.folder.finish("finished", summary=summary)
        if self.config.telemetry.report:
            self._draw()
        self.summary = summary

    def close(self, status: str) -> None:
        """It ended: "finished", "failed" or "interrupted"."""
        self.hub.close(status)

    def save(self) -> None:
        """Write a checkpoint, if there is anything new."""
        if self.saved_at == self.progress or self.error:
            return
        keep = self.config.checkpoint
        self.checkpoints.save_checkpoint(
            self,
            self.progress,
            kind="population",
            metrics=dict(self.metrics),
            config=self._plain_config,
            growth_log=self.growth.growth_log,
            metadata={"engine": self.folder.record["engine"]},
        )
        self.saved_at = self.progress
        self.checkpoints.prune(keep_last=keep.keep_last, keep_best=keep.keep_best)
        self._tell(TelemetryEventType.CHECKPOINT_SAVED)

    # ---- the parts

    def _keep(self) -> None:
        self.folder.beat(self.growth.epoch, self.update)
        if self.progress % self.config.checkpoint.every_epochs == 0:
            self.save()

    def _record(self, events: Sequence[TelemetryEvent], wall_s: float) -> None:
        for event in events:
            self.hub.event(event)
        self.seeds = count_seeds(events, self.seeds)
        seconds = self.growth.seconds
        times = EpochTimes(
            wall_s=wall_s,
            train_s=seconds.get("train", 0.0),
            validation_s=seconds.get("validation", 0.0),
            counterfactual_s=seconds.get("counterfactual", 0.0),
            samples=len(self.reports) * self.growth.task.epoch_size if self.growth.epoch else 0,
            members=len(self.reports),
        )
        self.hub.epoch(epoch_record(self.reports, times, self.twin_of))
        self.metrics = checkpoint_metrics(self.reports)

    def _draw(self) -> None:
        try:
            self.report = write_report(self.folder.path)
        except Exception as error:  # a picture that cannot be drawn must not cost a finished run
            print(f"no report: {type(error).__name__}: {error}; the run itself is whole", file=sys.stderr)

    def _tell(self, kind: TelemetryEventType) -> None:
        self.hub.event(TelemetryEvent(kind, epoch=self.growth.epoch))

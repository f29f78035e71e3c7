"""One run that is under way: its parts, what it writes down, and what it keeps."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from esper.build import Grown
from esper.checkpoint import Checkpoint, CheckpointManager, restoring
from esper.config.composing import to_plain
from esper.config.root import RunSchema
from esper.config.telemetry import require_packages
from esper.engine.population import Scores
from esper.errors import CheckpointError, DivergedError
from esper.files.records import EVENTS_FILE
from esper.learning import POLICY, build_policy
from esper.leyline import WAIT, Action, EpochReport, TelemetryEvent, TelemetryEventType
from esper.nissa import EventHub, JsonlSink, cut_back, read_jsonl, write_report
from esper.nissa.cutting import Carried
from esper.printing import say
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
        self._lines: JsonlSink | None = None
        self._saved_epoch = -1  # of the growth, at the last checkpoint
        if checkpoint:
            self._continue(checkpoint)

    def _continue(self, checkpoint: Checkpoint) -> None:
        for unsound in checkpoint.skipped:
            say(f"skipped the checkpoint of epoch {unsound.epoch}: {unsound.reason}", is_error=True)
        with restoring(checkpoint, CHECKPOINT):
            self.growth.load_state(dict(checkpoint.tensors), checkpoint.state["growth"])
            if self.learning:
                named = checkpoint.tensors.items()
                learned = {name.removeprefix(POLICY): tensor for name, tensor in named if name.startswith(POLICY)}
                self.learning.load_state(learned, checkpoint.state["learning"])
            self.controller.load_state_dict(checkpoint.state["controller"])
            self.seeds = checkpoint.state["seeds"]
        self.saved_at, self._saved_epoch = self.progress, self.growth.epoch

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
        self._tidy(is_resumed)
        self.folder.start(
            engine=self.engine,
            ranks=self.ranks.world,
            together=together,
            epoch=self.growth.epoch,
            update=self.update,
            seed=self.config.seed,
            max_epochs=self.config.epochs,
            max_updates=self.learning.total if self.learning else 0,
        )
        if is_shown and (note := self.config.policy.note):
            say(note, is_error=True)
        sinks = open_sinks(self.config, self.folder, is_shown)
        self._lines = next((sink for sink in sinks if isinstance(sink, JsonlSink)), None)
        self.hub = EventHub(sinks)
        if is_resumed and not self._was_told_saved():
            self._tell_saved()
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
        self.error = self._divergence(summary["retired"])
        if self.error is None:
            self._tell(TelemetryEventType.RUN_FINISHED)
            self.folder.finish("finished", summary=summary)
            self.summary = summary
        else:
            self.folder.finish("failed", summary=summary, error=str(self.error))
        if self.config.telemetry.report:
            self._draw()

    def close(self, status: str) -> None:
        """It ended: "finished", "failed" or "interrupted"."""
        self.hub.close(status)

    def save(self) -> None:
        """Write a checkpoint, if there is anything new."""
        if self.saved_at == self.progress or self.error:
            return
        self.checkpoints.save_checkpoint(
            self,
            self.progress,
            kind="population",
            metrics=dict(self.metrics),
            config=self._plain_config,
            growth_log=self.growth.growth_log,
            metadata=self._metadata(),
        )
        self.saved_at, self._saved_epoch = self.progress, self.growth.epoch
        if self._lines:
            self._lines.forget()
        self._prune()
        self._tell_saved()

    # ---- the parts

    def _metadata(self) -> dict[str, Any]:
        """All of the run that a checkpoint has to carry for the run to go on from it alone."""
        record = self.folder.record
        carried = Carried(self._saved_epoch, self.growth.epoch, self._lines.recent) if self._lines else None
        return {"engine": record["engine"], "run": dict(record), "carried": carried and carried.to_plain()}

    def _tidy(self, is_resumed: bool) -> None:
        """Leave in the folder what is of this run up to here: neither what comes next nor what a kill has left."""
        numbers = [number for number in self.checkpoints.list_epochs() if is_resumed and number <= self.saved_at]
        carried = []
        for number in numbers:
            with suppress(CheckpointError):
                carried.append(Carried.from_plain(self.checkpoints.sidecar(number)["metadata"].get("carried")))
        # Nothing of the growth is written before the policy has learned: epoch 0 is then recorded again.
        notes = cut_back(
            self.folder.path,
            metrics=self.growth.epoch or -1,
            events=self.growth.epoch if is_resumed else -1,
            learning=self.update,
            checkpoint=self.saved_at,
            carried=[one for one in carried if one is not None],
        )
        say(*notes, is_error=True)
        if is_resumed:
            self._prune()

    def _prune(self) -> None:
        keep = self.config.checkpoint
        self.checkpoints.prune(keep_last=keep.keep_last, keep_best=keep.keep_best)

    def _was_told_saved(self) -> bool:
        """Whether events.jsonl has the checkpoint that the run goes on from: a kill may have come between the two."""
        events, _ = read_jsonl(self.folder.path / EVENTS_FILE)
        return {"checkpoint": self.saved_at} in (
            event.get("data") for event in events if event.get("type") == TelemetryEventType.CHECKPOINT_SAVED
        )

    def _tell_saved(self) -> None:
        self._tell(TelemetryEventType.CHECKPOINT_SAVED, {"checkpoint": self.saved_at})

    def _divergence(self, retired: Mapping[str, int]) -> DivergedError | None:
        """What to say where every member that was to grow has diverged, so that nothing came of the run."""
        twins, grown = len(self.twin_of), len(self.reports) - len(self.twin_of)
        if retired["grown"] < grown:
            return None
        who = f"all {grown} members" if grown > 1 else "the only member"
        who += (" and all their twins" if grown > 1 else " and its twin") if 0 < twins == retired["twin"] else ""
        return DivergedError(
            f"{who} diverged, and were put back by the governor: nothing was learned\n"
            f"  most likely by optimizer.learning_rate={self.config.optimizer.learning_rate:g}: try a smaller one"
        )

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
            say(f"no report: {type(error).__name__}: {error}; the run itself is whole", is_error=True)

    def _tell(self, kind: TelemetryEventType, data: dict[str, Any] | None = None) -> None:
        self.hub.event(TelemetryEvent(kind, epoch=self.growth.epoch, data=data or {}))

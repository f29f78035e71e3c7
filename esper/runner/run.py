"""One run that is under way: its parts, and what it does as it starts, learns, grows and ends."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from torch import Tensor

from esper.builders.finals import FinalNetworks
from esper.builders.loading import POLICY
from esper.builders.policy import build_policy
from esper.builders.population import Grown
from esper.builders.references import measure_references
from esper.builders.sinks import open_sinks
from esper.checkpoint import Checkpoint
from esper.config.composing import to_plain
from esper.config.root import RunConfig
from esper.config.telemetry import require_packages
from esper.engine.scores import Scores, test_figures
from esper.errors import ConfigError, DivergedError
from esper.factories import as_own_failure
from esper.files import checked
from esper.files.records import DATA, EVENTS_FILE, RETURN_UNIT, TARGETS, TOKENIZER
from esper.files.shapes import ANY
from esper.leyline import WAIT, Action, EpochReport, TelemetryEvent, TelemetryEventType
from esper.nissa import EventHub, JsonlSink, cut_back, read_jsonl, write_report
from esper.printing import say
from esper.runner.checkpointing import RunCheckpoints
from esper.runner.directory import RunDirectory
from esper.runner.finals import Finals
from esper.runner.records import (
    EpochTimes,
    checkpoint_metrics,
    compared,
    count_seeds,
    epoch_record,
    figures_of,
    pick,
    summarize,
    update_record,
)
from esper.runner.stop import StopRequest
from esper.simic.on_policy.config import LearnedPolicyConfig
from esper.simic.rewards.config import return_unit

P = ParamSpec("P")


def _contained(method: Callable[Concatenate["Run", P], None]) -> Callable[Concatenate["Run", P], None]:
    """What goes wrong inside is the run's own and ends it alone: nothing is done any more from then on."""

    @wraps(method)
    def contained(self: "Run", *args: P.args, **kwargs: P.kwargs) -> None:
        if self.error is None:
            try:
                method(self, *args, **kwargs)
            except (Exception, SystemExit) as error:
                self.error = as_own_failure(error)

    return contained


class Run:
    """A run on its way; `esper.runner.loop.fit` trains its growth, alone or beside others.

    Args: checkpoint: where it goes on from; None: it begins. Nothing is written before `open`. What goes wrong is kept
    in `error`, and the run stands still from then on.
    """

    def __init__(self, folder: RunDirectory, config: RunConfig, grown: Grown, checkpoint: Checkpoint | None) -> None:
        require_packages(config.telemetry)
        self.folder = folder
        self.config = config
        self.checkpoints = RunCheckpoints(folder.path, config.checkpoint, to_plain(config))
        self.engine, self.growth, self.twin_of = grown.engine, grown.growth, grown.twin_of
        self.ranks = grown.ranks
        self.controller, self.learning = build_policy(config, grown, is_resumed=checkpoint is not None)
        self.finals = Finals()
        self.references: dict[str, float] = {}  # what rules earn where the policy learns
        self._measure_references = partial(measure_references, config, grown)
        self.seeds: dict[str, int] = {}
        self.metrics: Mapping[str, float | None] = {}  # what the next checkpoint is ranked by
        self.reports: Sequence[EpochReport] = ()
        self.summary: dict[str, Any] | None = None
        self.report: Path | None = None
        self.error: Exception | None = None
        self.hub = EventHub([])
        self.lines: JsonlSink | None = None
        self.is_resumed = checkpoint is not None
        if checkpoint:
            self._check_data(checkpoint)
            self.checkpoints.restore(self, checkpoint)
            self._check_grown()

    @property
    def update(self) -> int:
        """Updates of the policy so far."""
        return self.learning.update if self.learning else 0

    @property
    def epoch(self) -> int:
        """Epochs of growth so far, and then of the final networks."""
        return self.growth.epoch + self.finals.epoch

    @property
    def progress(self) -> int:
        """Updates and epochs so far: what checkpoints are numbered by."""
        return self.update + self.epoch

    # ---- its course, in this order

    @property
    def notes(self) -> list[str]:
        """What nobody should miss before it begins."""
        return [note for note in (*self.growth.task.notes, self.config.policy.note) if note]

    @_contained
    def open(self, owns_terminal: bool, runs_in_program: int = 1) -> None:
        """Say that it is under way, and begin to write. runs_in_program: how many train as one."""
        self._tidy()
        self.folder.start(
            engine=self.engine,
            ranks=self.ranks.world,
            together=runs_in_program,
            epoch=self.growth.epoch,
            update=self.update,
            seed=self.config.seed,
            max_epochs=self.config.epochs,
            max_updates=self.learning.total if self.learning else 0,
            **{name: sha256 for name in (TOKENIZER, DATA) if (sha256 := getattr(self.growth.task, name))},
            **({TARGETS: scale} if (scale := self.growth.task.target_scale) else {}),
            **({RETURN_UNIT: unit} if (unit := self._return_unit()) else {}),
        )
        sinks = open_sinks(self.config, self.folder, owns_terminal)
        self.lines = next((sink for sink in sinks if isinstance(sink, JsonlSink)), None)
        self.hub = EventHub(sinks)
        if self.is_resumed and not self._was_told_saved():
            self._tell_saved()
        self._tell(TelemetryEventType.RUN_RESUMED if self.is_resumed else TelemetryEventType.RUN_STARTED)

    @_contained
    def learn(self, stop: StopRequest) -> None:
        """Update the policy until it is done; a policy that does not learn is."""
        references_s: dict[str, float] = {}
        if self._has_returns and self.learning and not (self.learning.done or self.references):
            started = time.perf_counter()
            self.references = self._measure_references(lambda: bool(stop))
            references_s = {"references_s": time.perf_counter() - started}
        while self.learning and not (self.learning.done or stop):
            started = time.perf_counter()
            self.metrics = self.learning.step()
            self.on_update(time.perf_counter() - started, references_s)
            references_s = {}

    def on_update(self, wall_s: float, seconds: Mapping[str, float]) -> None:
        """The policy was updated: write it down, and save where that is due. seconds: of what came before, by name."""
        self.hub.update(update_record(self.update, {**self.metrics, **self.references, **seconds}, wall_s))
        self._keep()

    @_contained
    def on_fit_start(self, reports: Sequence[EpochReport], wall_s: float) -> None:
        """Take the reports to decide the next epoch by; the untrained hosts' are recorded as epoch 0."""
        self.reports = reports
        if self.growth.epoch == 0:
            self._record((), wall_s)

    def act(self) -> list[Action]:
        """What the controller asks of each member; nothing, once something has gone wrong."""
        if self.error is None:
            try:
                return self.controller.act(self.reports)
            except Exception as error:
                self.error = error
        return [WAIT] * len(self.growth.member_ids)

    @_contained
    def on_epoch_end(self, reports: Sequence[EpochReport], events: Sequence[TelemetryEvent], wall_s: float) -> None:
        """Write the epoch down, and save where that is due."""
        self.reports = reports
        self._record(events, wall_s)
        self._keep()

    @_contained
    def begin_finals(self, networks: FinalNetworks | None) -> None:
        """Growth is over: take on the final networks, as far as they were trained before."""
        self.finals.begin(networks)

    @_contained
    def on_final_epoch_end(self) -> None:
        """Tell of an epoch of the final networks, and save where that is due."""
        if self.finals.is_waiting:
            return
        self.hub.event(self.finals.event(self.growth.epoch, self.growth.task.score))
        if self.finals.done:  # from here on they may wait for others
            self.save()
        self._keep()

    @_contained
    def on_fit_end(self, scores: Scores) -> None:
        """The last epoch is over; scores: on the test split. Summary, last checkpoint and report are written."""
        task = self.growth.task
        tested = test_figures(task, scores)
        self.folder.update()
        wall_s = self.folder.record["wall_s"]
        summary = summarize(self.reports, tested, self.twin_of, self.seeds, wall_s, task.score)
        self._add_finals(summary, tested)
        self.save()
        if self.error:
            return
        if diverged := self._divergence(summary["retired"]):
            self.folder.fail(str(diverged), summary=summary)
        else:
            self._tell(TelemetryEventType.RUN_FINISHED)
            self.folder.finish(summary)
            self.summary = summary
        if self.config.telemetry.report:
            self._draw()
        if diverged:
            raise diverged

    @_contained
    def save(self) -> None:
        """Write a checkpoint, if there is anything new."""
        if self.checkpoints.saved_at == self.progress:
            return
        self.checkpoints.save(self)
        if self.lines:
            self.lines.forget()
        self._tell_saved()

    def close(self) -> None:
        """It ended, in whatever way."""
        try:
            self.hub.close("failed" if self.error else "finished" if self.summary else "interrupted")
            if self.summary is None and self.error is None:
                self.folder.interrupt()
        except Exception as error:
            self.error = self.error or error

    # ---- the parts

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that decides what comes next, for a checkpoint."""
        tensors, growth = self.growth.state()
        state = {"growth": growth, "controller": self.controller.state_dict(), "seeds": self.seeds}
        final_tensors, finals = self.finals.state()
        if finals is not None:
            tensors |= final_tensors
            state["finals"] = finals
        if self.learning:
            learned, state["learning"] = self.learning.state()
            tensors |= {POLICY + name: tensor for name, tensor in learned.items()}
            state["references"] = self.references
        return tensors, state

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self.growth.load_state(dict(tensors), state["growth"])
        if self.learning:
            learned = {name.removeprefix(POLICY): t for name, t in tensors.items() if name.startswith(POLICY)}
            self.learning.load_state(learned, state["learning"])
            self.references = checked(state.get("references") or {}, {ANY: float}, "references")
        self.finals.load_state(tensors, state.get("finals"))
        self.controller.load_state_dict(state["controller"])
        self.seeds = state["seeds"]

    def _tidy(self) -> None:
        """Leave in the folder what is of this run up to here: neither what comes next nor what a kill has left."""
        # Nothing of the growth is written before the policy has learned: epoch 0 is then recorded again.
        notes = cut_back(
            self.folder.path,
            metrics=self.growth.epoch or -1,
            events=self.epoch if self.is_resumed else -1,
            learning=self.update,
            checkpoint=self.checkpoints.saved_at,
            carried=self.checkpoints.carried(),
        )
        say(*notes, is_error=True)
        if self.is_resumed:
            self.checkpoints.prune()

    def _check_grown(self) -> None:
        """Raises ConfigError where growth is to go on of which the final networks are in training already."""
        if self.finals.epoch and not self.growth.done:
            raise ConfigError(
                f"epochs={self.config.epochs}: the run has grown for its {self.growth.epoch} epochs, and trains its "
                f"final networks (controls={self.config.controls})\n  put epochs back, or begin a new run"
            )

    def _check_data(self, checkpoint: Checkpoint) -> None:
        """Raises ConfigError where the data, or the file that made a text's tokens, are others by now."""
        began_with = checkpoint.metadata.get("run") or {}
        task, settings = self.growth.task, self.config.task
        if (was := began_with.get(TOKENIZER)) != task.tokenizer_sha256:
            raise ConfigError(
                f"task.tokenizer={getattr(settings, 'tokenizer', None)}: this is not the tokenizer that the run began "
                f"with\n  put the file back whose sha256 is {was}"
            )
        if began_with.get(DATA) != task.data_sha256:
            raise ConfigError(
                f"task={settings.name}: the data are not those that the run began with\n"
                "  put them back as they were, or begin a new run"
            )

    @property
    def _has_returns(self) -> bool:
        """Whether the policy learns from episodes of its own."""
        return isinstance(self.config.policy, LearnedPolicyConfig)

    def _return_unit(self) -> str:
        return return_unit(self.config.reward, self.growth.task.score) if self._has_returns else ""

    def _was_told_saved(self) -> bool:
        """Whether events.jsonl has the checkpoint that the run goes on from: a kill may have come between the two."""
        events, _ = read_jsonl(self.folder.path / EVENTS_FILE)
        return {"checkpoint": self.checkpoints.saved_at} in (
            event.get("data") for event in events if event.get("type") == TelemetryEventType.CHECKPOINT_SAVED
        )

    def _tell_saved(self) -> None:
        self._tell(TelemetryEventType.CHECKPOINT_SAVED, {"checkpoint": self.checkpoints.saved_at})

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

    def _add_finals(self, summary: dict[str, Any], tested: Mapping[str, Sequence[float]]) -> None:
        """Put the final networks, each with its difference, into the summary."""
        grown = [index for index, report in enumerate(self.reports) if report.member not in self.twin_of]
        kind, figures = self.growth.task.score, figures_of(self.reports, tested, self.growth.task.score)
        for control, found in self.finals.figures(self.config.finals, pick(figures, grown), kind).items():
            summary |= compared(control, summary["grown"], found)
            summary["retired"][control] = self.finals.retired(control)
            summary["never_grew"] = len(grown) - self.finals.count(control)

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
        self.hub.epoch(epoch_record(self.reports, times, self.twin_of, self.growth.task.score))
        self.metrics = checkpoint_metrics(self.reports, self.growth.task.score)

    def _draw(self) -> None:
        try:
            self.report = write_report(self.folder.path)
        except Exception as error:  # a picture that cannot be drawn must not cost a finished run
            say(f"no report: {type(error).__name__}: {error}; the run itself is whole", is_error=True)

    def _tell(self, kind: TelemetryEventType, data: dict[str, Any] | None = None) -> None:
        self.hub.event(TelemetryEvent(kind, epoch=self.epoch, data=data or {}))

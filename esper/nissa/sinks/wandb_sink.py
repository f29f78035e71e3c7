"""Weights & Biases: a run's curves, its events as a table, its report and its checkpoints as artifacts."""

import functools
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

# Read on import: what is drawn goes to the user's project and nothing anywhere else; what there is to say is said here.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
os.environ.setdefault("WANDB_SILENT", "true")

import wandb
from wandb.sdk import wandb_setup

from esper.files import make_folder
from esper.files.records import CHECKPOINTS, REPORT_FILE, WANDB
from esper.leyline import TelemetryEvent, TelemetryEventType
from esper.nissa.metric_names import CURVES, axis_of
from esper.nissa.sinks.curves import epoch_curves, outcome, update_curves
from esper.nissa.sinks.jsonl import EVENTS_FILE, read_jsonl
from esper.printing import logger, say

log = logger("esper.nissa")

INIT_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 10
FINISH_TIMEOUT_S = 60.0
MOST_ROWS = 10_000  # of a table; W&B cuts off what is more
EXIT_CODES = {"finished": 0, "failed": 1, "interrupted": 255}  # 255 is what W&B calls killed
EVENT_COLUMNS = ("epoch", "member", "slot", "event", "seed", "blueprint", "from", "to", "reason")
LIFECYCLE = (
    TelemetryEventType.GERMINATED,
    TelemetryEventType.STAGE_CHANGED,
    TelemetryEventType.FOSSILIZED,
    TelemetryEventType.CULLED,
    TelemetryEventType.GOVERNOR_ROLLBACK,
    TelemetryEventType.MEMBER_RETIRED,
)


class WandbSink:
    """One W&B run for a run of ours, in its folder `wandb`; online where there is a login and a network, else offline.

    A resumed run is told again what its JSON lines hold. Online that continues the same W&B run, after the last epoch
    and update that the server has. Offline it makes a new part that holds everything, as the part that is synchronised
    last replaces all that W&B had of the run.

    Args:
        record: run.json as it stands; `uid` is the id of the W&B run, `sweep` its group.
        config: the run's whole configuration, plain values; its task, host and policy are tags.
        policy: its job type.
        checkpoints: upload those that were kept, too.

    Raises:
        wandb.Error, OSError: no W&B run could be opened.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        record: Mapping[str, Any],
        config: dict[str, Any],
        policy: str,
        project: str,
        entity: str | None = None,
        checkpoints: bool = False,
    ) -> None:
        self._run_dir = run_dir
        self._checkpoints = checkpoints
        make_folder(run_dir / WANDB)  # W&B would follow a link
        self._run = wandb.init(
            mode=_mode(),
            project=project,
            entity=entity,
            id=record["uid"],
            resume="allow",
            name=f"{record['name']}/{record['id']}",
            group=record["sweep"],
            job_type=policy,
            tags=list(dict.fromkeys([config["task"]["name"], config["host"]["name"], policy])),
            notes=" ".join(record["overrides"]) or None,
            config=config,
            dir=run_dir,
            reinit="create_new",  # jobs of a sweep may share a process, and a user's code may have a W&B run of its own
            settings=wandb.Settings(
                console="off",
                init_timeout=INIT_TIMEOUT_S,
                finish_timeout=FINISH_TIMEOUT_S * (10 if checkpoints else 1),
                finish_timeout_raises=True,
            ),
        )
        self._folder = Path(self._run.settings.sync_dir)
        self._seen_epoch = self._run.summary.get("epoch", -1)
        self._seen_update = self._run.summary.get("update", 0)
        self._groups: set[str] = set()
        for group in CURVES:
            self._define(group, axis_of(group))
        if self._run.url:
            say(f"W&B: {self._run.url}", is_error=True)

    def epoch(self, record: dict[str, Any]) -> None:
        """Draw the epoch, unless W&B has it: one that is lived through again comes out the same."""
        if record["epoch"] > self._seen_epoch:
            self._run.log({"epoch": record["epoch"], **epoch_curves(record)})

    def update(self, record: dict[str, Any]) -> None:
        """Draw the update, unless W&B has it."""
        if record["update"] > self._seen_update:
            curves = update_curves(record)
            for group in {name.partition("/")[0] for name in curves} - self._groups:
                self._define(group, "update")
            self._run.log({"update": record["update"], **curves})

    def _define(self, group: str, axis: str) -> None:
        """Draw the curves of a group over epochs or updates, whatever W&B's own step is."""
        self._groups.add(group)
        self._run.define_metric(axis, hidden=True)
        self._run.define_metric(f"{group}/*", step_metric=axis)

    def event(self, event: TelemetryEvent) -> None:
        """Nothing yet: the table of events is made at the end, out of events.jsonl."""

    def close(self, status: str) -> None:
        """Add table, report, checkpoints and outcome, and wait for the upload, a minute (with checkpoints ten) at most.

        Raises:
            TimeoutError: not all was uploaded; `wandb sync` uploads the rest.
        """
        try:
            self._add_what_is_left()
        finally:
            self._finish(EXIT_CODES[status])
        if self._run.disabled:
            return
        for part in self._folder.parent.glob(f"offline-run-*-{self._run.id}*"):
            if part != self._folder:
                shutil.rmtree(part, ignore_errors=True)
        if self._run.offline:
            say(f"W&B is offline; to upload this run: wandb sync {self._folder}", is_error=True)

    def _add_what_is_left(self) -> None:
        if self._run.url:  # it is online: artifacts ask the server first, and would wait for a lost one for minutes
            wandb.Api(timeout=ANSWER_TIMEOUT_S)
        run_dir = self._run_dir
        rows = [_row(event) for event in read_jsonl(run_dir / EVENTS_FILE)[0] if event["type"] in LIFECYCLE]
        with _staging_in(self._folder):
            self._run.log({"events": wandb.Table(columns=list(EVENT_COLUMNS), data=rows[-MOST_ROWS:])})
        self._run.summary.update(outcome(run_dir))
        self._add("report", "report", [run_dir / REPORT_FILE])
        if self._checkpoints:
            self._add("checkpoints", "model", sorted(run_dir.glob(f"{CHECKPOINTS}/*")))

    def _add(self, name: str, kind: str, files: list[Path]) -> None:
        """Log the files that are there as one artifact; they are uploaded from where they lie."""
        artifact = wandb.Artifact(f"{name}-{self._run.id}", type=kind)
        for file in filter(Path.is_file, files):
            artifact.add_file(str(file), policy="immutable", skip_cache=True)
        if artifact.manifest.entries:
            self._run.log_artifact(artifact)

    def _finish(self, exit_code: int) -> None:
        try:
            self._run.finish(exit_code)
        except TimeoutError:
            _mode.cache_clear()  # the next job of a sweep asks anew
            raise TimeoutError(f"not all was uploaded in time; to upload it: wandb sync {self._folder}") from None
        except Exception:  # its service has died; the next job starts another, and the process ends in peace
            with suppress(Exception):
                wandb.teardown()
            raise


@functools.cache
def _mode() -> Literal["offline"] | None:
    """None for what W&B's own settings say (WANDB_MODE); "offline" where there is no login, or no answer to it.

    Asked once a process, so that a sweep without a network waits and warns once. Never prompts.
    """
    if wandb_setup.singleton().settings.mode != "online":  # wandb.setup() waits forever where no service can start
        return None
    try:
        return None if wandb.login(prompt=False, verify=True) else "offline"
    except wandb.Error as error:
        log.warning("W&B stays offline: %s", " ".join(str(error).split()))
        return "offline"


@contextmanager
def _staging_in(folder: Path) -> Iterator[None]:
    """Inside, W&B keeps what is yet to be uploaded here, where it stays with the run, and not in the user's home."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = before or str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]


def _row(event: dict[str, Any]) -> list[Any]:
    data = event["data"]
    of_event = (event["epoch"], event["member"], event["slot"], event["type"], event["seed"])
    of_data = (str(data.get(key) or "") for key in ("blueprint", "from", "to"))
    return [*of_event, *of_data, str(data.get("reason") or event["message"])]

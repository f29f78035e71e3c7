"""A Hydra sweeper whose sweeps survive: what finished is skipped, what was under way goes on."""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from esper.checks import did_you_mean
from esper.sweep.composing import JOB_HASH, SUBDIR, SWEEP_HASH, SweepLoader, digest, plain, task_part
from esper.sweep.errors import JobError, SweepEnded, SweepError
from esper.sweep.expanding import expand
from esper.sweep.folder import SweepFolder
from esper.sweep.jobs import FAILED, FINISHED, NEW, RUNNING, JobFile
from esper.sweep.terminal import Job, Terminal, Watch, counted, jobs_text, show_end, show_jobs, shown
from esper.sweep.tracked import TrackedTask

RERUN = {"none": (), "failed": (FAILED,), "all": None}  # what is run again from its beginning; None: whatever there is
DYING_S = 5.0  # workers of a sweep that was killed may take this long to notice


@dataclass
class ResumableSweeperConfig:
    """`hydra.sweeper.*`."""

    _target_: str = "hydra_plugins.esper.sweep.sweeper.ResumableSweeper"
    # run again, from the beginning: none, failed or all (an earlier attempt is moved aside, to JOB.1, JOB.2, ...)
    rerun: str = "none"
    # keys whose values go in pairs instead of in all combinations, as in [a,b] or [[a,b],[c,d]]
    zip: list[Any] = field(default_factory=list)
    # list the jobs and run none
    dry_run: bool = False
    # keys and groups that do not tell one job from another, unless they are swept
    volatile: list[str] = field(default_factory=list)
    # further overrides of the sweep, for recipes, as in {seed: "0,1,2"}
    params: dict[str, str] = field(default_factory=dict)
    # what the sweep is called, and what differs from job to job; found out
    id: str | None = None
    swept: list[str] = field(default_factory=list)


class ResumableSweeper(Sweeper):
    """Runs each combination of values once, each in a folder that is named after its configuration.

    The same command again comes back to the same folders. A task function may have an attribute `check`, a function
    that is called with every job's configuration before the first job starts, and raises where one is wrong; and one
    `units`, of the figures that it returns, by name.
    """

    hydra_context: HydraContext
    config: DictConfig
    launcher: Launcher

    def __init__(
        self,
        rerun: str,
        zip: Sequence[Any],
        dry_run: bool,
        volatile: Sequence[str],
        params: dict[str, str],
        id: str | None,
        swept: Sequence[str],
    ) -> None:
        self.rerun = rerun
        self.zip = list(zip)
        self.dry_run = dry_run
        self.volatile = list(volatile)
        self.params = dict(params)
        self.id = id

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        if self.rerun not in RERUN:
            hint = did_you_mean(self.rerun, RERUN)
            raise SweepError(f"rerun={self.rerun}: not known{hint}\n  rerun may be: {', '.join(RERUN)}")
        loader = SweepLoader(hydra_context.config_loader.get_search_path())
        self.hydra_context = HydraContext(config_loader=loader, callbacks=hydra_context.callbacks)
        self.config = config
        self.task = TrackedTask(task_function)
        self.units: Mapping[str, str] = getattr(task_function, "units", {})
        self.check: Callable[[DictConfig], Any] = getattr(task_function, "check", lambda _: None)

    def sweep(self, arguments: list[str]) -> None:
        """Bring every job to its end. Raises SweepError, and SweepEnded where a job did not finish."""
        lines = [f"{key}={value}" for key, value in self.params.items()] + arguments
        overrides = OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides(lines)
        job_overrides, swept = expand(overrides, _groups(self.zip))
        self.volatile = [key for key in self.volatile if key not in {name.split(".")[0] for name in swept}]
        folder = self._place(swept)
        terminal = Terminal(self.units)
        try:
            jobs = self._jobs(job_overrides, swept, folder.path)
            if not swept:
                terminal.say("nothing is swept: one job")
            if len(jobs) < len(job_overrides):
                terminal.say(f"{len(job_overrides)} combinations are {jobs_text(jobs)}: some are alike")
            if self.dry_run:
                folder.check()
                statuses = [job.file.status() for job in jobs]
                show_jobs(terminal, jobs, statuses)
                terminal.say(f"{jobs_text(jobs)} in {shown(folder.path)}: {counted(statuses)}; none is run now")
                return
            self.launcher = Plugins.instance().instantiate_launcher(self.hydra_context, self.task, self.config)
            with folder:
                folder.note({job.id: job.sets for job in jobs}, sys.argv[1:])
                self._run(jobs, folder.path, terminal)
        finally:
            terminal.close()

    # ---- which sweep, which jobs

    def _place(self, swept: Sequence[str]) -> SweepFolder:
        """The sweep's folder, which the configuration of all its jobs names from here on."""
        base = plain(self.config, self.volatile, is_resolved=False)
        self.id = digest([base, sorted(swept)], SWEEP_HASH)
        with open_dict(self.config):
            self.config.hydra.sweeper.id = self.id
            self.config.hydra.sweeper.swept = sorted(swept)
            path = Path(os.path.abspath(self.config.hydra.sweep.dir))
            self.config.hydra.sweep.dir = str(path)
            fixed = (f"hydra.sweeper.id='{self.id}'", f"hydra.sweep.dir={_quoted(str(path))}")
            self.config.hydra.overrides.hydra.extend(fixed)
        return SweepFolder(path, {"id": self.id, "base": base, "swept": sorted(swept)})

    def _jobs(self, job_overrides: Sequence[list[str]], swept: Sequence[str], path: Path) -> list[Job]:
        """Every job with its identity, composed and checked; those that are alike are one."""
        jobs: dict[str, Job] = {}
        for overrides in job_overrides:
            try:
                composed = task_part(self.hydra_context.config_loader.load_sweep_config(self.config, overrides))
                self.check(composed)
            except Exception as error:  # whatever a configuration can be refused with
                raise JobError(overrides, error) from error
            name = digest(plain(composed, self.volatile, is_resolved=True), JOB_HASH)
            sets = [line for line in overrides if line.lstrip("+~").partition("=")[0].partition("@")[0] in swept]
            jobs.setdefault(name, Job(JobFile(path / name), [*overrides, f"{SUBDIR}={_quoted(name)}"], sets))
        return list(jobs.values())

    # ---- running them

    def _run(self, jobs: list[Job], path: Path, terminal: Terminal) -> None:
        due = self._due(jobs, terminal)
        statuses = [job.file.status() for job in jobs]
        terminal.say(f"sweep {self.id}: {jobs_text(jobs)} in {shown(path)}: {counted(statuses)}; {len(due)} to run")
        code = self._launch(due, terminal) if due else 0
        statuses = [job.file.status() for job in jobs]
        show_end(terminal, jobs, statuses)
        if set(statuses) == {FINISHED}:
            return
        hints = [counted(statuses)]
        if set(statuses) - {FINISHED, FAILED}:
            hints.append("the same command goes on from here")
        if FAILED in statuses:
            hints.append("rerun=failed runs again what failed")
        terminal.say("; ".join(hints))
        raise SweepEnded(code or 1)

    def _due(self, jobs: Sequence[Job], terminal: Terminal) -> list[Job]:
        """The jobs to launch; earlier attempts of those that run again are moved aside."""
        waited_until = time.monotonic() + DYING_S
        due, again = [], RERUN[self.rerun]
        for job in jobs:
            while (status := job.file.status()) == RUNNING and time.monotonic() < waited_until:
                time.sleep(0.1)
            if status == RUNNING:
                terminal.say(f"{job.id} is left to {job.file.holder()}")
                continue
            if status != NEW and (again is None or status in again):
                job.file.set_aside()
            elif status in (FINISHED, FAILED):
                continue
            due.append(job)
        return due

    def _launch(self, due: Sequence[Job], terminal: Terminal) -> int:
        """Run these jobs; the exit code of what stopped the sweep, or 0."""
        with Watch(terminal, due, self.task.stop):
            try:
                returns = self.launcher.launch([job.overrides for job in due], initial_job_idx=0)
            except KeyboardInterrupt:
                return 130
            except SystemExit as stop:
                return stop.code if isinstance(stop.code, int) else 1
            except SweepError:
                raise
            except Exception as error:  # what became of each job is in its folder
                terminal.say(f"error: the launcher gave up: {type(error).__name__}: {error}", is_error=True)
                return 1
        for job, done in zip(due, returns, strict=False):
            if done.status == JobStatus.FAILED:  # it could not even begin
                terminal.say(f"error: {job.id}: {done._return_value}", is_error=True)
        return 0


def _groups(zipped: list[Any]) -> list[list[str]]:
    """[a, b] is one group of keys, [[a, b], [c, d]] are two."""
    groups = zipped if all(isinstance(keys, Sequence) and not isinstance(keys, str) for keys in zipped) else [zipped]
    if any(not isinstance(key, str) for keys in groups for key in keys):
        raise SweepError(f"zip={zipped}: expected names of keys, as in zip=[a,b] or zip=[[a,b],[c,d]]")
    return [list(keys) for keys in groups]


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()

"""`hydra/launcher=fused`: jobs that differ only in what a member can carry train as members of one population.

Each has its own run directory, metrics, checkpoints and result all the same, as if it had run alone.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from esper.errors import ConfigError, EsperError
from esper.files import open_log
from esper.printing import error_text, say, say_text, say_traceback
from esper.runner.figures import figures
from esper.runner.spec import RunSpec, run_spec
from esper.sweep import FAILED, FINISHED, INTERRUPTED, JobFile, composed_job, job_folder, job_return
from esper.sweep.composing import task_part
from esper.sweep.terminal import shown
from esper.sweep.tracked import TrackedTask, output_to

PlannedJob = tuple[DictConfig, RunSpec]


@dataclass
class FusedLauncherConfig:
    """`hydra.launcher.*`."""

    _target_: str = "hydra_plugins.esper.runner.fused_launcher.FusedLauncher"
    # members of one population, twins included, at most; more of them are several populations, one after another
    members: int = 256


class FusedLauncher(Launcher):
    """Brings jobs to their ends group by group; a job that shares a population with no other runs by itself."""

    def __init__(self, members: int) -> None:
        self.members = members

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        if self.members < 1:
            raise ConfigError(f"hydra.launcher.members={self.members}: expected 1 or more")
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; leaves by SystemExit where it was asked to stop."""
        setup_globals()
        jobs = [
            composed_job(self.hydra_context, self.config, overrides, number)
            for number, overrides in enumerate(job_overrides, start=initial_job_idx)
        ]
        returns: dict[int, JobReturn] = {}
        for group in self._groups(jobs):
            if isinstance(self.task_function, TrackedTask):
                self.task_function.go_on()
            ended = self._together(group) if len(group) > 1 else [self._alone(group[0][0])]
            returns |= zip((job.hydra.job.num for job, _ in group), ended, strict=True)
        return [returns[number] for number in sorted(returns)]

    def _groups(self, jobs: Sequence[DictConfig]) -> list[list[PlannedJob]]:
        """Jobs that can train together, with their plans; as many as fit into one population."""
        groups: dict[object, list[list[PlannedJob]]] = {}
        for number, job in enumerate(jobs):
            plan = _spec(job)
            common = plan.fusion_key()
            fitting = groups.setdefault(number if common is None else common, [[]])
            if fitting[-1] and sum(other.members for _, other in fitting[-1]) + plan.members > self.members:
                fitting.append([])
            fitting[-1].append((job, plan))
        return [group for fitting in groups.values() for group in fitting]

    def _alone(self, job: DictConfig) -> JobReturn:
        return run_job(
            task_function=self.task_function,
            config=job,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            hydra_context=self.hydra_context,
        )

    def _together(self, group: Sequence[PlannedJob]) -> list[JobReturn]:
        from esper.runner.launch import run_many  # here, since it loads torch

        files = [JobFile(plan.path) for _, plan in group]
        for (_, plan), file in zip(group, files, strict=True):
            file.begin(plan.overrides)
        for file in files[1:]:
            with open_log(file.log) as log:
                say(f"trains together with {files[0].folder.name}; see {shown(files[0].log)}", file=log)
        with output_to(files[0].log):
            outcomes = run_many([plan for _, plan in group])
        returns, stopped = [], 0
        for (job, _), file, outcome in zip(group, files, outcomes, strict=True):
            status = FINISHED if outcome.code == 0 else INTERRUPTED if outcome.code >= 128 else FAILED
            if status == INTERRUPTED:
                stopped = outcome.code
            error = None if outcome.error is None else error_text(outcome.error)
            if error:
                with open_log(file.log) as log:
                    if outcome.error and not isinstance(outcome.error, (EsperError, OSError)):
                        say_traceback(outcome.error, file=log)
                    say_text(f"error: {error}", file=log)
            returns.append(job_return(job, file.end(status, figures(outcome.record), error)))
        if stopped:
            raise SystemExit(stopped)
        return returns


def _spec(job: DictConfig) -> RunSpec:
    return run_spec(task_part(copy.deepcopy(job)), job.hydra, shown(job_folder(job)))

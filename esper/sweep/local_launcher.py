"""`hydra/launcher=local`: several jobs at once on this machine, each in a process of its own."""

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from esper.sweep.errors import SweepError
from esper.sweep.jobs import FAILED, INTERRUPTED, RUNNING, JobFile, composed_job, job_folder, job_return

STOPS = (signal.SIGINT, signal.SIGTERM)
FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}  # exit codes
FROM_OUTSIDE |= {128 + number for number in STOPS}
POLL_S = 0.5
GRACE_S = 3.0  # for what was asked to stop at once
CAPS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class LocalLauncherConfig:
    """`hydra.launcher.*`."""

    _target_: str = "hydra_plugins.esper.sweep.local_launcher.LocalLauncher"
    # jobs at once
    processes: int = 2
    # of each job, at most
    threads: int = 1
    # modules that are imported once, for all jobs
    preload: list[str] = field(default_factory=list)


@dataclass
class Worker:
    """A job's process; stops_passed_on: how many requests to stop have been passed on to it."""

    process: BaseProcess
    composed: DictConfig
    stops_passed_on: int = 0


class LocalLauncher(Launcher):
    """Starts a fresh process for every job, out of one that has imported what all of them need (a fork server).

    A process dies with the sweep's, whatever ends that. The first Ctrl-C or SIGTERM is passed on to every job, and so
    is the second; what has not ended `GRACE_S` later is killed.
    """

    def __init__(self, processes: int, threads: int, preload: Sequence[str]) -> None:
        self.processes = processes
        self.threads = threads
        self.caps = dict.fromkeys(CAPS, str(threads))
        self.preload = list(preload)
        self._workers: list[Worker] = []
        self._stops: list[int] = []
        self._kill_at = math.inf

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        for key, value in (("processes", self.processes), ("threads", self.threads)):
            if value < 1:
                raise SweepError(f"hydra.launcher.{key}={value}: expected 1 or more")
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; leaves by SystemExit once all processes have ended, where it was asked to stop."""
        waiting = deque(enumerate(job_overrides, start=initial_job_idx))
        returns: dict[int, JobReturn] = {}
        try:
            with self._passing_stops_on():
                self._open_server()
                while self._workers or (waiting and not self._stops):
                    while waiting and not self._stops and len(self._workers) < self.processes:
                        self._start(*waiting.popleft())
                    connection.wait([worker.process.sentinel for worker in self._workers], timeout=POLL_S)
                    if time.monotonic() >= self._kill_at:
                        self._kill()
                    for worker in [worker for worker in self._workers if worker.process.exitcode is not None]:
                        self._workers.remove(worker)
                        returns[worker.composed.hydra.job.num] = _ended(worker)
        finally:
            self._kill()
        if self._stops:
            raise SystemExit(128 + self._stops[0])
        return [returns[number] for number in sorted(returns)]

    def _open_server(self) -> None:
        """Start the process that jobs are forked from: single-threaded code with the thread cap in its environment.

        Stop signals wait in it, and in its children until they are ready for them.
        """
        multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, *self.preload])
        before = {name: os.environ.get(name) for name in self.caps}
        os.environ.update(self.caps)
        resource_tracker.ensure_running()  # first, since it would unblock the signals
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})

    def _start(self, number: int, overrides: Sequence[str]) -> None:
        composed = composed_job(self.hydra_context, self.config, overrides, number)
        arguments = (self.task_function, self.hydra_context, composed, self.caps)
        process = multiprocessing.get_context("forkserver").Process(target=_work, args=arguments)
        process.start()
        self._workers.append(Worker(process, composed))
        self._pass_on()

    @contextmanager
    def _passing_stops_on(self) -> Iterator[None]:
        """Inside, each request to stop reaches every process exactly once."""
        if threading.current_thread() is not threading.main_thread():  # no other thread may set handlers
            yield
            return
        before = {number: signal.signal(number, self._stop) for number in STOPS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stops.append(number)
        if len(self._stops) == 2:
            self._kill_at = time.monotonic() + GRACE_S
        self._pass_on()

    def _kill(self) -> None:
        for worker in self._workers:
            worker.process.kill()

    def _pass_on(self) -> None:
        for worker in list(self._workers):
            while worker.stops_passed_on < len(self._stops):
                worker.stops_passed_on += 1
                if worker.process.exitcode is None and worker.process.pid is not None:
                    os.kill(worker.process.pid, self._stops[worker.stops_passed_on - 1])


def _ended(worker: Worker) -> JobReturn:
    """What came of a job whose process has ended, as it said itself, or as its exit code tells."""
    job, process = JobFile(job_folder(worker.composed)), worker.process
    record = job.record()
    has_told = record.get("pid") == process.pid and record.get("status") != RUNNING
    if process.exitcode and not has_told and job.status() != RUNNING:
        if record.get("pid") != process.pid:  # it did not even begin
            job.begin(list(worker.composed.hydra.overrides.task))
        status = INTERRUPTED if process.exitcode in FROM_OUTSIDE else FAILED
        record = job.end(status, error=f"its process ended with {_spelled(process.exitcode)}")
    return job_return(worker.composed, record)


def _spelled(code: int) -> str:
    return f"exit code {code}" if code > 0 else signal.Signals(-code).name


def _work(task: TaskFunction, context: HydraContext, composed: DictConfig, environment: dict[str, Any]) -> None:
    """The life of a job's process."""
    os.setsid()  # Ctrl-C on the terminal reaches it by way of the launcher alone
    threading.Thread(target=_die_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _leave)
    os.environ.update(environment)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        setup_globals()
        done = run_job(
            task_function=task,
            config=composed,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            hydra_context=context,
        )
        _ = done.return_value  # raises what kept the job from beginning
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

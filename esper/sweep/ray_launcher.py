"""`hydra/launcher=ray`: jobs on a Ray cluster, or on this machine under a Ray of their own."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from esper.printing import logger
from esper.sweep.errors import SweepError
from esper.sweep.jobs import composed_job
from esper.sweep.local_launcher import CAPS

log = logger(__name__)

OWN = "local"  # in Ray's words, too
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # tell nobody
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, Ray would upload the working folder, outputs included
}
# Both run in processes of their own. A Ray that is started by the sweep's would be killed with it, and leave helpers
# behind; this one notices, and ends as it should. Jobs pass configurations only, so that it needs little memory.
SERVE = f"""
import sys, ray
context = ray.init("{OWN}", include_dashboard=False, object_store_memory=100 << 20, **{QUIET})
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""
PROBE = f"import sys, ray; ray.init(sys.argv[1], **{QUIET})"
LOG_PREFIX = re.compile(r"^\[.*?\]( [\w.]+:\d+:)? ?")


@dataclass
class RayLauncherConfig:
    """`hydra.launcher.*`."""

    _target_: str = "hydra_plugins.esper.sweep.ray_launcher.RayLauncher"
    # HOST:PORT of the cluster that this machine is part of; auto: of the one that was started on this machine;
    # null: as RAY_ADDRESS says, else a Ray on this machine for this sweep alone
    address: str | None = None
    # of each job, and so many threads
    num_cpus: int = 1
    # of each job; jobs share one where this is a fraction
    num_gpus: float = 0.0
    # how long a cluster may take to answer
    timeout_s: float = 30.0


class RayLauncher(Launcher):
    """Runs every job as a Ray task, in a process that is fresh and sees the code and the working folder of the sweep.

    Nothing is uploaded: the machines of a cluster must share both, and the sweep's folder. Jobs end with the sweep,
    whatever ends that. The first Ctrl-C or SIGTERM reaches every job as Ctrl-C, the second ends them at once.
    """

    def __init__(self, address: str | None, num_cpus: int, num_gpus: float, timeout_s: float) -> None:
        self.address = address
        self.num_cpus = num_cpus
        self.num_gpus = num_gpus
        self.timeout_s = timeout_s

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        for key, least in (("num_cpus", 1), ("num_gpus", 0), ("timeout_s", 1)):
            if not getattr(self, key) >= least:
                raise SweepError(f"hydra.launcher.{key}={getattr(self, key):g}: expected {least} or more")
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; leaves by KeyboardInterrupt, once they have ended, where it was asked to stop."""
        with self._connected() as ray:
            needs = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}
            task = ray.remote(**needs, max_calls=1, max_retries=0)(_entrance())
            common = ray.put((self.task_function, self.hydra_context, Singleton.get_state()))
            place = (sys.path, os.getcwd(), dict.fromkeys(CAPS, str(self.num_cpus)))
            jobs: list[tuple[Any, DictConfig]] = []
            try:
                for number, overrides in enumerate(job_overrides, start=initial_job_idx):
                    composed = composed_job(self.hydra_context, self.config, overrides, number)
                    jobs.append((task.remote(*place, [common, ray.put(composed)]), composed))
                return [_returned(ray, promise, composed) for promise, composed in jobs]
            except KeyboardInterrupt:
                _stop(ray, [promise for promise, _ in jobs])
                raise

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Inside, this process is a driver of the cluster. Raises SweepError where that cannot be."""
        os.environ.update(SETTINGS)
        address = self.address or os.environ.get("RAY_ADDRESS") or OWN
        if address == OWN:
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # nobody else on this machine may use it
        try:
            import ray
        except ImportError as error:
            raise SweepError(f"hydra/launcher=ray: {error}\n  to install it: pip install 'esper[ray]'") from error
        before = signal.getsignal(signal.SIGTERM)
        with _own_ray() if address == OWN else self._cluster(address) as reached:
            try:
                ray.init(reached, **QUIET)
                _at_sigterm(signal.default_int_handler)
                self._check_room(ray, is_own=address == OWN)
                yield ray
            finally:
                ray.shutdown()
                _at_sigterm(before)

    @contextmanager
    def _cluster(self, address: str) -> Iterator[str]:
        """The address, once a process that can be given up has connected: where nobody answers, Ray tries for long."""
        command = [sys.executable, "-c", PROBE, address]
        try:
            subprocess.run(command, timeout=self.timeout_s, check=True, capture_output=True)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            is_late = isinstance(error, subprocess.TimeoutExpired)
            failure = f"no Ray answers there within {self.timeout_s:g} s" if is_late else "no Ray can be used there"
            said = _last_line(error.stderr) or "expected HOST:PORT, as `ray start --head` has printed it"
            raise SweepError(f"hydra.launcher.address={address}: {failure}\n  {said}") from error
        yield address

    def _check_room(self, ray: Any, is_own: bool) -> None:
        """Whether any machine is large enough for a job; a cluster may yet be joined by one."""
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = [(machine.get("CPU", 0), machine.get("GPU", 0)) for machine in machines]
        if any(cpus >= self.num_cpus and gpus >= self.num_gpus for cpus, gpus in room):
            return
        needs = f"hydra.launcher.num_cpus={self.num_cpus}, num_gpus={self.num_gpus:g}"
        there = "; ".join(f"{cpus:g} CPUs, {gpus:g} GPUs" for cpus, gpus in sorted(set(room)))
        if is_own:
            raise SweepError(f"{needs}: more than this machine has\n  it has {there}")
        log.warning(f"{needs}: no machine of the cluster has as much ({there}); the jobs wait for one")


@contextmanager
def _own_ray() -> Iterator[str]:
    """The address of a Ray on this machine that ends with the context, and with this process."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with tempfile.TemporaryFile() as said:
        server = subprocess.Popen([sys.executable, "-c", SERVE], **pipes, stderr=said, start_new_session=True)
        try:
            assert server.stdout
            address = server.stdout.readline().strip()
            if not address:
                said.seek(0)
                raise SweepError(f"hydra/launcher=ray: Ray does not start here\n  {_last_line(said.read())}")
            yield address
        finally:
            with suppress(subprocess.TimeoutExpired):
                server.communicate(timeout=30)  # the end of its input ends it
            server.kill()


def _last_line(said: bytes | None) -> str:
    """The end of what a process has written to its error stream, less the time and place that Ray logs."""
    lines = (LOG_PREFIX.sub("", line).strip() for line in reversed((said or b"").decode(errors="replace").split("\n")))
    return next(filter(None, lines), "")[:160]


def _entrance() -> Any:
    """What Ray calls; sent by value, as the sweep's own modules can be imported only once it has done its part."""

    def enter(path: list[str], folder: str, environment: dict[str, str], parts: list[Any]) -> Any:
        import os
        import sys

        os.environ.update(environment)
        sys.path[:] = dict.fromkeys([*path, *sys.path])
        os.chdir(folder)
        import ray

        from esper.sweep.ray_launcher import work

        # In a list they come as references: what they hold can be brought here only now that its modules are found.
        (task, context, singletons), composed = ray.get(parts)
        return work(task, context, singletons, composed)

    return enter


def work(task: TaskFunction, context: HydraContext, singletons: Any, composed: DictConfig) -> JobReturn:
    """The life of a job in a worker of Ray's. Raises SweepError where it does not see the sweep's folder."""
    if not Path(composed.hydra.sweep.dir).is_dir():
        raise SweepError(f"{composed.hydra.sweep.dir}: {os.uname().nodename} does not see the folder of the sweep")
    _at_sigterm(signal.default_int_handler)  # a job that Ray ends was interrupted, and has not failed
    Singleton.set_state(singletons)
    setup_globals()
    return run_job(
        task_function=task,
        config=composed,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
    )


def _returned(ray: Any, promise: Any, composed: DictConfig) -> JobReturn:
    """What came of a job, once it has ended; one whose worker was lost has failed, as far as Hydra goes."""
    try:
        done: JobReturn = ray.get(promise)
        return done
    except ray.exceptions.RayError as error:
        reason = getattr(error, "cause", None) or f"{type(error).__name__}: {str(error).splitlines()[0]}"
        overrides = list(composed.hydra.overrides.task)
        return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=SweepError(str(reason)))


def _stop(ray: Any, promises: list[Any]) -> None:
    """Ctrl-C for every job, until they have ended; asked again, leave: Ray kills what a driver leaves behind.

    (It cannot be told to kill what was cancelled before: that ends the driver itself.)
    """
    with suppress(KeyboardInterrupt):
        for promise in promises:
            ray.cancel(promise)
        ray.wait(promises, num_returns=len(promises))


def _at_sigterm(handler: Any) -> None:
    """Instead of Ray's own handler, which leaves with an error."""
    if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
        signal.signal(signal.SIGTERM, handler)

"""The folder of a sweep: which sweep it is, what jobs it has had, and one process at a time."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from esper.errors import FormatError
from esper.files import FileLock, read_object, sweep_temporaries
from esper.files.records import JOB_FILE, SWEEP, SWEEP_FILE, SWEEP_LOCK
from esper.sweep.errors import SweepError
from esper.sweep.jobs import write_json


class SweepFolder:
    """Claims a folder for a sweep while it is open: `with SweepFolder(path, identity) as folder`.

    identity: {"id", "base": what all jobs share, "swept": the names of the keys that differ}. Raises SweepError where
    the folder belongs to another sweep or to a single job, another process has it, or it cannot be made.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity = dict(identity)
        self._lock = FileLock(path / SWEEP_LOCK)

    def __enter__(self) -> "SweepFolder":
        self.check()  # before anything is written
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            is_free = self._lock.acquire()
        except OSError as error:
            raise SweepError(f"{self.path}: the folder of a sweep cannot be made here ({error.strerror})") from error
        if not is_free:
            raise SweepError(f"{self.path}: this sweep is run by {self._lock.holder()}; wait until it ends, or stop it")
        try:
            self.check()
        except SweepError:
            self._lock.release()
            raise
        sweep_temporaries(self.path, SWEEP_FILE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def check(self) -> None:
        """Raises SweepError if what lies here is another sweep, or a single job."""
        known = self._read()
        if not known and (sign := self._sign_of_job()):
            raise SweepError(
                f"{self.path}: this is the folder of a single job, as its {sign} says\n"
                "  hydra.sweep.dir: expected the folder of a sweep, or a new one"
            )
        if not known or known["id"] == self.identity["id"]:
            return
        raise SweepError(f"{self.path} is the folder of another sweep: {_difference(known, self.identity)}")

    def note(self, jobs: Mapping[str, list[str]], arguments: Sequence[str]) -> None:
        """Write down the command's arguments and its jobs (id -> what each sets), beside those of earlier commands."""
        known = self._read().get("jobs", {}) | jobs
        write_json(self.path / SWEEP_FILE, self.identity | {"arguments": list(arguments), "jobs": known})

    def _sign_of_job(self) -> str | None:
        """What only the folder of a job holds: job.json, or a lock that the task itself keeps in it."""
        names = (file.name for file in sorted(self.path.glob("*.lock")) if file.name != SWEEP_LOCK)
        return JOB_FILE if (self.path / JOB_FILE).exists() else next(names, None)

    def _read(self) -> dict[str, Any]:
        """sweep.json; nothing where it is missing or cannot be read: the jobs are told by their own folders."""
        try:
            return read_object(self.path / SWEEP_FILE, SWEEP, {"id", "base", "swept", "jobs"})
        except (OSError, FormatError):
            return {}


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The first thing that two sweeps differ in, in words."""
    for key in sorted({*(was := dict(_leaves(there["base"]))), *(now := dict(_leaves(here["base"])))}):
        if was.get(key) != now.get(key):
            return f"{key} is {_spelled(was, key)} there, and {_spelled(now, key)} here"
    keys = (", ".join(sweep["swept"]) or "nothing" for sweep in (there, here))
    return "it goes through {}, and this one through {}".format(*keys)


def _leaves(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted key and value of all that a configuration holds."""
    if not isinstance(values, dict):
        return [(prefix, values)]
    return [leaf for key, value in values.items() for leaf in _leaves(value, f"{prefix}.{key}" if prefix else str(key))]


def _spelled(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key]) if key in leaves else "missing"

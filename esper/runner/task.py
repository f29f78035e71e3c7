"""What Hydra calls, in whatever process: one run in the folder that it was given."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from esper.config.composing import finish
from esper.config.plugins import load_plugins
from esper.config.sources import check_sources
from esper.config.telemetry import require_packages
from esper.errors import ConfigError, EsperError, ExitCode, RunError, RunExistsError, of_machine
from esper.files import read_object
from esper.files.marks import holds_run
from esper.files.records import RUN_FILE
from esper.interrupts import held_interrupts
from esper.lasting import lasting
from esper.printing import complain, say_traceback
from esper.runner.figures import UNITS, figures
from esper.runner.spec import run_spec
from esper.sweep import SweepEnded
from esper.sweep.terminal import shown


class RunEnded(SystemExit):
    """The only run of a command line has ended, and not as it should."""


class Ending:
    """Inside, whatever answering a command line raises becomes its exit code: `code`, see `esper.errors.ExitCode`."""

    code: int = ExitCode.DONE

    def __enter__(self) -> "Ending":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        match error:
            case SweepEnded() | RunEnded():
                self.code = int(str(error.code))
            case SystemExit():  # of Hydra, which has printed what was asked for or what is wrong with it
                self.code = ExitCode.BAD_INPUT if error.code else ExitCode.DONE
            case EsperError():
                self.code = complain(error)
            case KeyboardInterrupt():
                self.code = ExitCode.INTERRUPTED
            case OSError() | MemoryError():
                self.code = complain(of_machine(error))
            case _:
                return False
        return True


class HydraTask:
    """The task function of `esper.run`; in a sweep it continues what lies in its folder."""

    program = "run"
    units = UNITS

    def __call__(self, composed: DictConfig) -> dict[str, float] | None:
        """Start or continue the run; its figures. Leaves by SystemExit, with its exit code, where it did not finish."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra = HydraConfig.get()
        folder = shown(Path(hydra.runtime.output_dir))
        is_taken, is_sweep = holds_run(folder), hydra.mode == RunMode.MULTIRUN
        try:
            if is_taken and not is_sweep:
                raise RunExistsError(folder, self.program)
            code = self.launcher(composed, hydra, folder, is_taken)()
        except EsperError as error:
            remove_empty(folder)  # which Hydra has made
            raise RunEnded(complain(error)) from error
        except Exception as error:
            if is_sweep:
                raise
            say_traceback(error)  # a mistake of ours: Hydra must not take it for one of the command line's
            raise RunEnded(ExitCode.FAILED) from error
        record = read_object(folder / RUN_FILE)
        if code:
            raise RunEnded(code) from RunError(record.get("error") or f"stopped at epoch {record.get('epoch')}")
        return figures(record)

    def launcher(self, composed: DictConfig, hydra: Any, folder: Path, is_taken: bool) -> Callable[[], int]:
        """What starts the run, or goes on with the one in the folder; it gives the exit code. Raises EsperError."""
        load_plugins(composed.plugins)  # of which another process knows nothing yet
        spec = run_spec(composed, hydra, folder)
        spec.config.check_names()
        if not is_taken:  # else a checkpoint holds what was read
            check_sources(spec.config)
        with held_interrupts(), lasting():
            from esper.runner.launch import resume, start  # here, since it loads torch

        return partial(resume, folder, spec.view) if is_taken else partial(start, spec)

    @staticmethod
    def check(composed: DictConfig) -> None:
        """Refuse a configuration before anything is run. Raises ConfigError or OmegaConf's errors."""
        require_packages(finish(composed).telemetry)


def remove_empty(folder: Path) -> None:
    """Where nothing is in it, and those above that were made for it."""
    with suppress(OSError):
        folder.rmdir()
        if not folder.is_absolute():
            os.removedirs(folder.parent)


def check_folder(overrides: Sequence[str], program: str = HydraTask.program) -> None:
    """Raise EsperError where the folder that is asked for has no name, or holds a run; Hydra would take long for it."""
    for override in overrides:
        key, _, value = override.partition("=")
        name = value.strip("'\" ")
        if key == "hydra.run.dir" and not name:
            raise ConfigError("hydra.run.dir=: no folder is named, as by a variable of the shell that is not set")
        if key == "hydra.run.dir" and holds_run(Path(name)):
            raise RunExistsError(Path(name), program)

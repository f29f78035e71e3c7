"""What Hydra calls, in whatever process: one run in the folder that it was given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from esper.config.composing import finish
from esper.config.telemetry import require_packages
from esper.errors import EsperError, ExitCode, RunError, RunExistsError, of_machine
from esper.files import read_object
from esper.files.marks import holds_run
from esper.files.records import RUN_FILE
from esper.printing import complain, say_traceback
from esper.runner.figures import figures
from esper.runner.spec import run_spec
from esper.sweep import SweepEnded
from esper.sweep.terminal import shown


class RunEnded(SystemExit):
    """The only run of a command line has ended, and not as it should."""


def exit_code(answer: Callable[[], int]) -> int:
    """That of a command line, whatever answering it raises; see `esper.errors.ExitCode`."""
    try:
        return answer()
    except (SweepEnded, RunEnded) as ended:
        return int(str(ended.code))
    except SystemExit as left:  # of Hydra, which has printed what was asked for or what is wrong with it
        return ExitCode.BAD_INPUT if left.code else ExitCode.DONE
    except EsperError as error:
        return complain(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except (OSError, MemoryError) as error:
        return complain(of_machine(error))


class HydraTask:
    """The task function of `esper.run`; in a sweep it continues what lies in its folder."""

    program = "run"

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
            code = self.launch(composed, hydra, folder, is_taken)
        except EsperError as error:
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

    def launch(self, composed: DictConfig, hydra: Any, folder: Path, is_taken: bool) -> int:
        """Start the run, or go on with the one in the folder; its exit code. Raises EsperError on bad input."""
        spec = run_spec(composed, hydra, folder)
        spec.config.check_names()
        from esper.runner.launch import resume, start  # here, since it loads torch

        return resume(folder, spec.view) if is_taken else start(spec)

    @staticmethod
    def check(composed: DictConfig) -> None:
        """Refuse a configuration before anything is run. Raises ConfigError or OmegaConf's errors."""
        require_packages(finish(composed).telemetry)

"""`python -m esper.run`: grow a population as configured (see --help)."""

import itertools
import logging
import os
import select
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig

from esper.config.checks import in_short
from esper.config.composing import compose, finish
from esper.config.explain import explain
from esper.config.help import help_text
from esper.config.store import conf_dir, register
from esper.errors import ConfigError, EsperError, RunError

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
NOT_RESUMED = ("resume=null", "resume=None", "resume=")


class Interrupted(SystemExit):
    """A run was stopped and has said so; no other run of its sweep follows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if {"-h", "--help"} & set(arguments):
            print(help_text(), end="")
            return 0
        resumed = [argument for argument in arguments if argument.startswith("resume=")]
        if resumed and resumed[-1] not in NOT_RESUMED:
            return _resume(resumed[-1].removeprefix("resume="), [a for a in arguments if a not in resumed])
        return _launch(arguments)
    except EsperError as error:
        return complain(error)
    except KeyboardInterrupt:
        return INTERRUPTED


def complain(error: EsperError) -> int:
    """Print what is wrong and return the exit code of bad input."""
    print(f"error: {in_short(str(error))}", file=sys.stderr)
    return BAD_INPUT


def _launch(arguments: list[str]) -> int:
    """Check every job that the command line asks for, then let Hydra make its folders and run it."""
    import hydra
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = _refuse_flags  # type: ignore[method-assign]
    flags = parser.parse_args(arguments)
    if flags.experimental_rerun or flags.config_path:
        raise ConfigError("--experimental-rerun and --config-path are not offered; use --config-dir, or resume=RUN_DIR")
    if flags.config_dir and not Path(flags.config_dir).is_dir():
        raise ConfigError(f"--config-dir {flags.config_dir}: there is no such folder")
    for overrides in _jobs(flags.overrides, flags.multirun):
        compose(overrides, flags.config_name or "config", flags.config_dir)
    register()
    codes: list[int] = []
    logging.raiseExceptions = False  # Hydra logs to an output that may be closed, as by `| head`
    with _as_command_line(arguments):
        try:
            job = hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")
            job(lambda composed: codes.append(_job(composed)))()
        except (ConfigError, KeyboardInterrupt):
            raise
        except Interrupted as stopped:
            return int(str(stopped.code))
        except SystemExit as left:  # of Hydra, which has printed what was asked for or what is wrong with it
            return BAD_INPUT if left.code else 0
        except Exception as error:  # of Hydra: what goes wrong in a job never gets here
            raise ConfigError(explain(error, flags.overrides)) from error
    return next(filter(None, codes), 0)


def _job(composed: DictConfig) -> int:
    """What Hydra calls, once a run; its exit code."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    try:
        from esper.drive import start  # here, since it loads torch

        _leave_closed_output()
        options = {group: str(chosen) for group, chosen in hydra.runtime.choices.items() if chosen and "/" not in group}
        code = start(finish(composed), shown, list(hydra.overrides.task), options)
    except EsperError as error:
        code = complain(error)
    except Exception:  # a mistake of ours: Hydra must not take it for one of the command line's
        traceback.print_exc()
        code = FAILED
    if code >= 128:
        raise Interrupted(code)
    return code


def _resume(name: str, others: list[str]) -> int:
    folder = Path(name.strip("'\""))
    missing = [file for file in ("run.json", "config.yaml") if not os.path.isfile(folder / file)]
    if missing:
        found = f"it has no {missing[0]}" if os.path.isdir(folder) else "there is no such folder"
        raise RunError(f"resume={name}: {found}\n  expected the folder of a run, such as outputs/NAME/ID")
    from esper.drive import resume

    _leave_closed_output()
    return resume(folder, others)


def _leave_closed_output() -> None:
    """Write to nowhere from now on if nobody reads the output any more: that must not cost a run."""
    with suppress(OSError, ValueError, AttributeError):  # no descriptor, or no way to ask
        output, poll = sys.stdout.fileno(), select.poll()
        poll.register(output, 0)
        if poll.poll(0):
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)


def _jobs(overrides: list[str], multirun: bool) -> Iterator[list[str]]:
    """The overrides of each run that a command line stands for."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if not multirun or any(override.startswith("hydra/sweeper=") for override in overrides):
        yield overrides
        return
    choices: list[list[str]] = []
    for override in overrides:
        try:
            parsed = OverridesParser.create().parse_override(override)
        except HydraException as error:
            raise ConfigError(explain(error, overrides)) from error
        if parsed.is_sweep_override() and parsed.is_discrete_sweep():
            choices.append([f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()])
        else:
            choices.append([override])
    for job in itertools.product(*choices):
        yield list(job)


def _refuse_flags(message: str) -> NoReturn:
    raise ConfigError(f"{message}; see python -m esper.run --help")


@contextmanager
def _as_command_line(arguments: list[str]) -> Iterator[None]:
    """Hydra reads sys.argv, and hands exceptions on instead of printing them only under HYDRA_FULL_ERROR."""
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [argv[0], *arguments], "1"
    try:
        yield
    finally:
        sys.argv = argv
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


if __name__ == "__main__":
    sys.exit(main())

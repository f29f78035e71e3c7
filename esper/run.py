"""`python -m esper.run`: grow a population as configured (see --help)."""

from esper.interrupts import held_interrupts

with held_interrupts(is_program=__name__ == "__main__"):
    import os
    import sys
    from collections.abc import Sequence
    from pathlib import Path
    from typing import NoReturn

    from esper.config.command_line import as_command_line
    from esper.config.composing import compose
    from esper.config.help import help_text
    from esper.config.options import conf_dir
    from esper.config.plugins import load_plugins, named_plugins
    from esper.config.sources import check_sources
    from esper.config.store import register
    from esper.errors import ConfigError, ExitCode, RunError
    from esper.files.marks import holds_run
    from esper.lasting import lasting
    from esper.printing import guarded, say_text
    from esper.runner.finished import tell_if_finished
    from esper.runner.fused_launcher import FusedLauncher, FusedLauncherConfig
    from esper.runner.task import Ending, HydraTask, check_folder
    from esper.sweep import register_plugin

NOT_RESUMED = ("resume=null", "resume=None", "resume=")
DRY_RUN = "--dry-run"
PRELOAD = ("esper.runner.launch", "jinja2", "scipy.special")  # what nearly every job needs
TORCHRUN = "TORCHELASTIC_RUN_ID"  # in the environment of the processes that it starts
OF_SWEEPS = ("rerun", "zip")  # keys of hydra.sweeper that go without its name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see `esper.errors.ExitCode`)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with guarded():
        if TORCHRUN not in os.environ:
            return _answer(arguments)
        from esper.runner.distributed import run_ranks  # here, since it loads torch
        from esper.runner.worker import follow

        return run_ranks(lambda: _answer(arguments), follow)


def _answer(arguments: list[str]) -> int:
    """Say what is asked for, go on with a run, or let Hydra make the folder of a new one and run it, or sweep."""
    with Ending() as ending:
        load_plugins(named_plugins(arguments))
        if {"-h", "--help"} & set(arguments):
            say_text(help_text())
            return ExitCode.DONE
        resumed = [argument for argument in arguments if argument.startswith("resume=")]
        if resumed and resumed[-1] not in NOT_RESUMED:
            return _resume(resumed[-1].removeprefix("resume="), [a for a in arguments if a not in resumed])
        arguments = _checked(arguments)
        register(PRELOAD)
        register_plugin("hydra/launcher", "fused", FusedLauncher, FusedLauncherConfig())
        with as_command_line(arguments):
            import hydra

            hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(HydraTask())()
        return ExitCode.DONE
    return ending.code


def _checked(arguments: list[str]) -> list[str]:
    """The command line as Hydra is to have it. Raises EsperError for what can be refused before it composes."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = _refuse_flags  # type: ignore[method-assign]
    flags = parser.parse_args([argument for argument in arguments if argument != DRY_RUN])
    if flags.experimental_rerun or flags.config_path:
        raise ConfigError("--experimental-rerun and --config-path are not offered; use --config-dir, or resume=RUN_DIR")
    if flags.config_dir and not Path(flags.config_dir).is_dir():
        raise ConfigError(f"--config-dir {flags.config_dir}: there is no such folder")
    is_sweep = flags.multirun or "hydra.mode=MULTIRUN" in flags.overrides
    if is_sweep and TORCHRUN in os.environ:
        raise ConfigError("-m: torchrun shares one run among processes; start it once a job (see docs/distributed.md)")
    arguments = _of_sweep(arguments, flags.overrides, is_sweep)
    if not is_sweep:
        check_folder(flags.overrides)
        config = compose(flags.overrides, flags.config_name or "config", flags.config_dir)
        config.check_names()
        check_sources(config)
    return arguments


def _of_sweep(arguments: list[str], overrides: list[str], is_sweep: bool) -> list[str]:
    """The command line with what is for sweeps alone as Hydra knows it. Raises ConfigError where nothing is swept."""
    spelled_out = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if argument != DRY_RUN and key not in OF_SWEEPS:
            spelled_out.append(argument)
        elif not is_sweep:
            raise ConfigError(f"{argument}: this is for sweeps; add -m (see docs/sweeps.md)")
        elif key == "zip" and not value.startswith("["):
            raise ConfigError(f"{argument}: expected a list of keys, as in zip=[seed,policy] or zip=[[a,b],[c,d]]")
        elif argument != DRY_RUN:
            spelled_out.append(f"hydra.sweeper.{argument}")
    if DRY_RUN in arguments:  # a flag may stand anywhere, overrides only beside each other
        first = next((place for place, argument in enumerate(arguments) if argument in overrides), len(arguments))
        place = first - arguments[:first].count(DRY_RUN)
        spelled_out.insert(place, "hydra.sweeper.dry_run=true")
    return spelled_out


def _resume(name: str, others: list[str]) -> int:
    folder = Path(name.strip("'\""))
    if not holds_run(folder):
        found = "it has no run.json" if os.path.isdir(folder) else "there is no such folder"
        raise RunError(f"resume={name}: {found}\n  expected the folder of a run, such as outputs/NAME/ID")
    if tell_if_finished(folder, others):
        return ExitCode.DONE
    with held_interrupts(), lasting():
        from esper.runner.launch import resume  # after the check, since it loads torch

    return resume(folder, others)


def _refuse_flags(message: str) -> NoReturn:
    raise ConfigError(f"{message}; see python -m esper.run --help")


if __name__ == "__main__":
    sys.exit(main())

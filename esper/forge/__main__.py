"""`python -m esper.forge`: make a language model in phases (see --help)."""

from esper.interrupts import held_interrupts

with held_interrupts(is_program=__name__ == "__main__"):
    import sys
    from collections.abc import Callable, Sequence
    from functools import partial
    from pathlib import Path
    from typing import Any

    from omegaconf import DictConfig

    from esper.config.command_line import as_command_line
    from esper.config.options import conf_dir
    from esper.errors import ExitCode, ForgeError
    from esper.files.marks import holds_run
    from esper.forge.composing import PROGRAM, compose, finish, register_forge, search_path
    from esper.forge.help import help_text
    from esper.forge.records import is_forge_run
    from esper.lasting import lasting
    from esper.printing import guarded, say_text
    from esper.runner.task import Ending, HydraTask, check_folder

PRELOAD = ("esper.forge.launch",)


class ForgeTask(HydraTask):
    """The task function of `esper.forge`."""

    program = PROGRAM

    def launcher(self, composed: DictConfig, hydra: Any, folder: Path, is_taken: bool) -> Callable[[], int]:
        """See `HydraTask.launcher`."""
        config = finish(composed)
        with held_interrupts(), lasting():
            from esper.forge.launch import resume, start  # here, since it loads torch

        if is_taken:
            return partial(resume, folder)
        return partial(start, config, folder, list(hydra.overrides.task), hydra.sweeper.get("id"))

    @staticmethod
    def check(composed: DictConfig) -> None:
        """Refuse a configuration before anything is run. Raises ConfigError or OmegaConf's errors."""
        finish(composed).check_input()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see `esper.errors.ExitCode`)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with guarded():
        return _answer(arguments)


def _answer(arguments: list[str]) -> int:
    with Ending() as ending:
        if {"-h", "--help"} & set(arguments):
            say_text(help_text())
            return ExitCode.DONE
        resumed = [argument for argument in arguments if argument.startswith("resume=")]
        if resumed:
            return _resume(resumed[-1].removeprefix("resume="), [a for a in arguments if a not in resumed])
        overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
        check_folder(overrides, PROGRAM)
        if not {"-m", "--multirun"} & set(arguments):
            compose([override for override in overrides if not override.startswith("hydra")]).check_input()
        register_forge(PRELOAD)
        # A flag may stand anywhere, overrides only beside each other.
        first = next((place for place, argument in enumerate(arguments) if argument in overrides), len(arguments))
        with as_command_line([*arguments[:first], search_path(), *arguments[first:]], PROGRAM):
            import hydra

            hydra.main(config_path=str(conf_dir()), config_name=PROGRAM, version_base="1.3")(ForgeTask())()
        return ExitCode.DONE
    return ending.code


def _resume(name: str, overrides: list[str]) -> int:
    folder = Path(name.strip("'\""))
    if not name or not holds_run(folder):
        found = "it has no run.json" if folder.is_dir() else "there is no such folder"
        raise ForgeError(f"resume={name}: {found}\n  expected the folder of a forge run, outputs/forge_SIZE/ID")
    if not is_forge_run(folder):
        raise ForgeError(f"resume={name}: this run is none of the forge\n  to continue it: esper resume {name}")
    with held_interrupts(), lasting():
        from esper.forge.launch import resume  # after the check, since it loads torch

    return resume(folder, overrides)


if __name__ == "__main__":
    sys.exit(main())

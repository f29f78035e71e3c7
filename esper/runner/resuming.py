"""The configuration that a run goes on with: the one that its checkpoint was made under."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esper.checkpoint import Checkpoint
from esper.checks import spelled
from esper.config.checks import flat
from esper.config.composing import from_plain, is_confirmed, load_plugins_of, read_config, read_values, to_plain
from esper.config.root import RunConfig
from esper.config.store import VOLATILE
from esper.errors import ConfigError
from esper.files.records import CONFIG_FILE
from esper.printing import say
from esper.runner.directory import write_config

# What a checkpoint's state is made of: with another, it is another run.
FIXED = ("blueprint", "controls", "engine", "host", "optimizer.name", "policy.name", "slots", "task")
MOVED = ("task.keep",)  # but for what lies elsewhere, and is the same
CHOOSES_CODE = ("plugins", "host.factory", "task.factory")  # which a checkpoint never does
_MOST_NAMED = 3

Changes = dict[str, tuple[Any, Any]]


def configuration(run_dir: Path, overrides: Sequence[str], checkpoint: Checkpoint | None) -> RunConfig:
    """What config.yaml says, which has to be what the checkpoint was made under.

    A key that was changed in the file on purpose has to be among `overrides`, with its value there. Where the file is
    missing, it is written anew from the checkpoint. Raises ConfigError, which names the keys that differ.
    """
    path = run_dir / CONFIG_FILE
    if checkpoint is None:
        return read_config(path, overrides)
    if not path.exists():
        _restore(run_dir, checkpoint)
    with _mended_by_checkpoint():
        read_values(path)
    load_plugins_of(path)  # what is wrong with them the checkpoint does not mend
    with _mended_by_checkpoint():
        config = read_config(path)
    reached = checkpoint.state.get("growth", {}).get("epoch")
    if isinstance(reached, int) and config.epochs < reached:
        was = spelled(checkpoint.config.get("epochs"))
        raise ConfigError(
            f"{path}: epochs is {config.epochs}, and was {was}; its checkpoint is of epoch {reached} already\n"
            f"  put it back, or expect {reached} epochs or more"
        )
    changes = differences(config, checkpoint)
    confirmed = {override.partition("=")[0] for override in overrides if is_confirmed(override, to_plain(config))}
    still = {key: change for key, change in changes.items() if key not in confirmed or _is_fixed(key)}
    refuse(still, checkpoint, path, run_dir)
    return read_config(path, overrides)


@contextmanager
def _mended_by_checkpoint() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        mend = "put it back, or remove the file: it is then written anew from the checkpoint"
        raise ConfigError(f"{error}\n  {mend}") from error


def differences(config: RunConfig, checkpoint: Checkpoint) -> Changes:
    """By key, the value here and the one that the checkpoint was made under, where they differ and decide anything."""
    here = flat(to_plain(config))
    there = flat(to_plain(from_plain(checkpoint.config, str(checkpoint.path))))
    keys = [key for key in {**there, **here} if key.partition(".")[0] not in VOLATILE]
    return {key: (here.get(key), there.get(key)) for key in keys if here.get(key, ...) != there.get(key, ...)}


def refuse(changes: Changes, checkpoint: Checkpoint, where: Path, run_dir: Path | None = None) -> None:
    """Raises ConfigError where anything was changed. run_dir: of the run that is to be resumed."""
    if not changes:
        return
    named = [f"{key} is {spelled(here)}, and was {spelled(there)}" for key, (here, there) in changes.items()]
    more = [f"{len(named) - _MOST_NAMED} more"] if len(named) > _MOST_NAMED else []
    mend = f"put {'it' if len(named) == 1 else 'them'} back"
    if run_dir is not None and not any(map(_is_fixed, changes)):
        wanted = " ".join(f"{key}={spelled(here)}" for key, (here, _) in changes.items())
        mend += f"; or to go on so, on purpose: python -m esper.run resume={run_dir} {wanted}"
    elif run_dir is not None:
        mend += " (without the file, the checkpoint's are taken), or start another run with what is wanted"
    changed = "; ".join([*named[:_MOST_NAMED], *more])
    raise ConfigError(f"{where}: {changed} when the checkpoint of epoch {checkpoint.epoch} was saved\n  {mend}")


def _is_fixed(key: str) -> bool:
    return key not in MOVED and any(key == part or key.startswith(f"{part}.") for part in FIXED)


def _restore(run_dir: Path, checkpoint: Checkpoint) -> None:
    chosen = {key for key, value in flat(checkpoint.config).items() if value and key.startswith(CHOOSES_CODE)}
    if chosen:
        raise ConfigError(
            f"{run_dir / CONFIG_FILE} is missing, and a checkpoint cannot stand in for it: {min(chosen)} names code\n"
            "  put the file back"
        )
    from_plain(checkpoint.config, str(checkpoint.path))
    write_config(run_dir, checkpoint.config)
    say(f"{run_dir / CONFIG_FILE} is missing; written anew from {checkpoint.path}", is_error=True)

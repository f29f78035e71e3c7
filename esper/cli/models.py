"""Language models by their paths: what a command is given may be a run or bundle of the forge."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esper.errors import ConfigError, ForgeError, RunError
from esper.study.runs.folders import ROOT


def find_model(text: str, root: Path) -> Path:
    """The one bundle that `text` means, as `find_models`, without a suffix. Raises: EsperError where it is not one."""
    found = find_models(text, root)
    if len(found) > 1:
        raise ForgeError(f"{text}: {len(found)} runs of the forge lie there; name one of them, such as {found[0]}")
    if not found:
        from esper.study.runs.find import find_run

        folder = Path(text) if Path(text).is_dir() else find_run(text, root)
        raise ForgeError(
            f"{folder}: it holds no language model\n  expected a forge run, one of its phases, or a bundle"
        )
    return found[0]


def find_models(text: str, root: Path | None) -> list[Path]:
    """The bundles that `text` means, without their suffix; none where it means nothing of the forge's.

    Args:
        text: either file of a bundle, or both without suffix; the folder of a phase, or another with a `model`; the
            folder of a forge run, a part of its path below `root`, or a folder of such runs. Of a run, the last phase
            that was passed is meant.
        root: None: a part of a path means nothing here.

    Raises: ForgeError where no phase of a run was passed; RunError where runs of both kinds lie there.
    """
    from esper.forge.phase import MODEL
    from esper.forge.records import is_forge_run, passed_folder
    from esper.study.runs.find import find_folders

    given = Path(text)
    if not given.is_dir():
        stem = given.with_suffix("") if given.suffix in (".safetensors", ".json") else given
        if any(stem.with_name(f"{stem.name}{end}").is_file() for end in (".safetensors", ".json")):
            return [stem]
    elif folder := passed_folder(given):
        return [folder / MODEL]
    if root is None and not given.is_dir():
        return []
    try:
        runs = find_folders(text, root or ROOT)
    except RunError:  # what is no run of ours is for the caller to tell
        return []
    forged = [run for run in runs if is_forge_run(run)]
    if forged and len(forged) < len(runs):
        raise RunError(f"{text}: runs of esper.run and of esper.forge lie there; name those of one kind")
    folders = {run: passed_folder(run) for run in forged}
    if unready := [run for run, folder in folders.items() if folder is None]:
        raise ForgeError(f"{unready[0]}: none of its phases was passed yet\n  esper runs says how far it is")
    return [folder / MODEL for folder in folders.values() if folder is not None]


def models_alone(
    targets: Sequence[str], options: argparse.Namespace, of_runs: Mapping[str, Any], of_models: Mapping[str, Any]
) -> list[Path]:
    """The language models that a command is to work on; none where all its targets are something else.

    Args: of_runs, of_models: options of the command that mean something for one of the two alone, and their defaults.

    Raises: ConfigError where targets are of both kinds, or an option is of the other; and as `find_models`.
    """
    root = getattr(options, "root", None)
    found = {text: find_models(text, root) for text in targets}
    others = [text for text, bundles in found.items() if not bundles]
    if others and len(others) < len(found):
        raise ConfigError(f"{others[0]}: it is no language model, as others named here are; name those of one kind")
    strays, kind = (of_models, "language models") if others or not found else (of_runs, "runs of esper.run")
    is_none = "no language model" if others else "a language model"
    for name, default in strays.items():
        if getattr(options, name) != default:
            given = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{given}: for {kind} alone, and {' '.join(found) or 'nothing'} is {is_none}")
    return [bundle for bundles in found.values() for bundle in bundles]

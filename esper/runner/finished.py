"""A run that has finished: what resuming it comes to, told before anything heavy is loaded."""

from collections.abc import Sequence
from pathlib import Path

from esper.config.composing import read_config
from esper.errors import FormatError
from esper.files import fitting, read_object
from esper.files.records import CONFIG_FILE, RUN, RUN_FILE
from esper.printing import say


def tell_if_finished(path: Path, overrides: Sequence[str]) -> bool:
    """Say so where the run in this folder has finished. Raises ConfigError on overrides that no resumed run takes."""
    try:
        record = fitting(read_object(path / RUN_FILE), RUN)[0]
    except (OSError, FormatError):
        return False
    if record.get("status") != "finished":
        return False
    read_config(path / CONFIG_FILE, overrides)
    say(f"{path}: this run has finished, after epoch {record.get('epoch', 0)}")
    return True

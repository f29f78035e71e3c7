"""What tells that a folder is a run's."""

import re
from pathlib import Path

from esper.files.opening import open_to_read
from esper.files.records import (
    CHECKPOINT_PREFIX,
    CHECKPOINTS,
    CONFIG_FILE,
    EVENTS_FILE,
    LEARNING_FILE,
    METRICS_FILE,
    REPORT_FILE,
    RUN_FILE,
)

CONFIG_HEAD = "# The whole configuration of this run, resolved.\n"
# What a run writes into its folder, beside its checkpoints.
WRITTEN = (CONFIG_FILE, METRICS_FILE, EVENTS_FILE, LEARNING_FILE, REPORT_FILE, RUN_FILE)


def holds_run(folder: Path) -> bool:
    """Whether a run has begun in this folder: run.json says so, or a checkpoint where that was lost."""
    return (folder / RUN_FILE).exists() or newest_checkpoint(folder) is not None


def newest_checkpoint(folder: Path) -> int | None:
    """The number of a run's newest checkpoint, sound or not; None where it has none."""
    names = (file.name for file in (folder / CHECKPOINTS).glob(f"{CHECKPOINT_PREFIX}*.json"))
    return max((int(re.sub(r"\D", "", name) or 0) for name in names), default=None)


def is_of_a_start(config: Path) -> bool:
    """Whether a run that was killed before it began has left this config.yaml."""
    head = CONFIG_HEAD.encode()
    try:
        with open_to_read(config) as file:
            return file.read(len(head)) == head
    except OSError:
        return False

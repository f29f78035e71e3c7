"""A corpus of the user's own, as bytes."""

from pathlib import Path

import torch

from esper.errors import ConfigError
from esper.tasks.settings import TASKS, TextConfig
from esper.tasks.task import Task
from esper.tasks.windows import build_bytes_task


def read_splits(settings: TextConfig) -> tuple[bytes, bytes, bytes]:
    """Training, validation and test text: three spans of the file, one after the other.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = Path(settings.path or "").expanduser()
    sizes = (settings.train_bytes, settings.val_bytes, settings.test_bytes)
    try:
        with path.open("rb") as file:
            text = file.read(sum(sizes))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"task.path={settings.path}: cannot be read ({reason}); name a file of text, "
            "as in: experiment=language task=text task.path=FILE"
        ) from None
    val_size, test_size = (len(text) * size // sum(sizes) for size in sizes[1:])
    train_size = len(text) - val_size - test_size
    return text[:train_size], text[train_size : train_size + val_size], text[train_size + val_size :]


@TASKS.register("text", TextConfig)
def build_text(settings: TextConfig, device: torch.device, dtype: torch.dtype, split_seed: int) -> Task:
    """A file as a task: predict the next byte."""
    return build_bytes_task(settings, read_splits(settings), device)

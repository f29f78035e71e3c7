"""Text of the user's own as a task: a file, or files and folders."""

import torch

from esper.tasks.settings import TASKS, TextConfig
from esper.tasks.task import Task
from esper.tasks.text.sources import own_files
from esper.tasks.text.splits import Texts, split_files
from esper.tasks.text.tokenizer import get_tokenizer
from esper.tasks.text.windows import build_windows_task

_KEY = "task.path"


def read_splits(settings: TextConfig, split_seed: int) -> Texts:
    """Training, validation and test text: three spans of a file, or each of other files where there are several.

    Raises:
        ConfigError: a file cannot be read, or there is none. TaskError: there are two.
    """
    sizes = (settings.train_bytes, settings.val_bytes, settings.test_bytes)
    files = own_files(_KEY, settings.paths, settings.name, split_seed, sum(sizes))
    return split_files(files, sizes)[settings.name]


@TASKS.register("text", TextConfig)
def build_text(settings: TextConfig, device: torch.device, dtype: torch.dtype, split_seed: int) -> Task:
    """Text as a task: predict the next byte, or token."""
    tokenizer = None if settings.tokenizer is None else get_tokenizer(settings.tokenizer)
    return build_windows_task(settings, read_splits(settings, split_seed), device, tokenizer)

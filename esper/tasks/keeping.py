"""Where a task's inputs are kept: on the device, in the host's memory, or in a file that is mapped into it."""

import tempfile
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esper.errors import TaskError
from esper.tasks.task import Task

DEVICE_SHARE = 0.5  # of its memory, that inputs may take beside the population


def inputs_of(task: Task) -> dict[str, Tensor]:
    """The inputs of its splits, by the names of its fields."""
    return {name: getattr(task, name) for name in ("train_x", "val_x", "test_x")}


def fits_device(task: Task) -> bool:
    """Whether inputs that are on a device leave enough of it to the population."""
    device = task.val_x.device
    if device.type != "cuda":
        return True
    taken = sum(x.nbytes for x in inputs_of(task).values())
    return taken <= DEVICE_SHARE * torch.cuda.get_device_properties(device).total_memory


def beside(task: Task, device: torch.device, is_on_disk: bool) -> Task:
    """The task with its targets on the device, and its inputs where a population copies each minibatch from.

    Args: task: in the host's memory. is_on_disk: whether inputs go into files that are mapped, and go with the process;
    they lie where TMPDIR says. Raises TaskError where they cannot be written.
    """
    targets = ("train_y", "val_y", "test_y", "target_mean", "target_std")
    changed: dict[str, Any] = {name: getattr(task, name).to(device) for name in targets}
    if is_on_disk:
        changed |= {name: _mapped(x, task.name) for name, x in inputs_of(task).items()}
    return replace(task, **changed)


def _mapped(x: Tensor, name: str) -> Tensor:
    """The same numbers in a file without a name, of which only what is used is in memory."""
    values = x.numpy(force=True)
    try:
        with tempfile.TemporaryFile() as file:
            # Written, not copied through the map: a disk that is full answers here, and a map would end the process.
            file.write(np.ascontiguousarray(values).data)
            file.flush()
            return torch.from_numpy(np.memmap(file, values.dtype, "c", shape=values.shape))
    except OSError as error:
        raise TaskError(
            f"task={name}: {x.nbytes:,} bytes of inputs cannot be written to {tempfile.gettempdir()} "
            f"({error.strerror or error})\n  set TMPDIR to a folder with room, or task.keep=host"
        ) from error

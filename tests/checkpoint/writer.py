"""Forks writers that are to be killed; torch is imported once for all of them.

Each line on standard input, `mode<TAB>path<TAB>first`, starts one writer; its process id is printed, and "dead" once it
is gone. A writer writes for ever, and notes in `path.done` the last number that was wholly saved.
"""

import os
import sys
import time
from pathlib import Path

import torch
from torch import nn

from esper.checkpoint import CheckpointManager, save_checkpoint


class Agent:
    """Its tensors and its plain values all hold one number, so that a mixture of two checkpoints shows."""

    def __init__(self, number: int) -> None:
        self.number = number

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
        tensors = {f"layer.{i}": torch.full((64, 64), float(self.number)) for i in range(4)}
        return tensors, {"number": self.number}


def save_numbered(path: Path, number: int) -> None:
    """A new checkpoint for each number; older ones are removed along the way."""
    manager = CheckpointManager(path)
    manager.save_checkpoint(Agent(number), number)
    manager.prune(keep_last=3)


def save_over(path: Path, number: int) -> None:
    """The same checkpoint again and again."""
    model = nn.Linear(64, 64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float(number))
    save_checkpoint(model, path, metadata={"number": number})


def write_for_ever(mode: str, path: Path, number: int) -> None:
    """Save one number after the other until killed (or given up by whoever should have killed it)."""
    save = {"numbered": save_numbered, "over": save_over}[mode]
    done = os.open(f"{path}.done", os.O_WRONLY | os.O_CREAT)
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        save(path, number)
        os.pwrite(done, b"%8d" % number, 0)
        number += 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        mode, path, first = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            write_for_ever(mode, Path(path), int(first))
            os._exit(1)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("dead", flush=True)

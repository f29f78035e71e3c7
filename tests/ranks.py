"""Functions in several processes at once, as the ranks of one run."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from esper.runner.distributed import TorchRanks

TIMEOUT_S = 60
# Loaded once, for all ranks of all tests: each is forked from a process that has them.
PRELOADED = [__name__, "pytest", "esper.builders.policy", "sklearn.datasets", "torch._dynamo"]


def as_ranks(world: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What function(ranks, *arguments) gives on each rank, in their order; an exception is what it gives, too."""
    context = forking()
    pipes = [context.Pipe() for _ in range(world)]
    store = str(folder / f"store-{world}")
    processes = [
        context.Process(target=_as_rank, args=(pipe, store, rank, world, function, arguments))
        for rank, (_, pipe) in enumerate(pipes)
    ]
    for process, (_, theirs) in zip(processes, pipes, strict=True):
        process.start()
        theirs.close()
    try:
        for ours, _ in pipes:
            assert ours.poll(TIMEOUT_S), "a rank hangs"
        return [ours.recv() for ours, _ in pipes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def forking() -> multiprocessing.context.ForkServerContext:
    """What starts processes fast."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _as_rank(
    pipe: Connection, store: str, rank: int, world: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    # The process that this was forked from may also serve hydra/launcher=local, and then it blocks them.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        with TorchRanks(dist.FileStore(store, world), rank, world) as ranks:
            pipe.send(function(ranks, *arguments))
    except Exception as error:
        pipe.send(error)

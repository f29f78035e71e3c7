"""Processes as ranks: what they tell each other, how they part."""

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch

from esper.leyline.ranks import ALONE, Ranks, share
from esper.runner.distributed import RankLost, ranks, run_ranks
from esper.runner.stop import StopRequest
from tests.ranks import TIMEOUT_S, as_ranks, forking


def test_shares_cover_everything_evenly() -> None:
    class Some:
        def __init__(self, rank: int, world: int) -> None:
            self.rank, self.world = rank, world

    for count, world in ((7, 3), (6, 2), (2, 3), (0, 2)):
        shares = [share(count, Some(rank, world)) for rank in range(world)]  # type: ignore[arg-type]
        assert [number for one in shares for number in one] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert share(5, ALONE) == range(5)


def talk(group: Ranks) -> list[Any]:
    sums = [torch.full((2, 2), 1.0 + group.rank), torch.tensor(10.0 * group.rank)]
    group.all_reduce(sums)
    mine = {"rank": group.rank, "values": torch.arange(group.rank + 1)}
    seen = [one["values"].tolist() for one in group.all_gather(mine)]
    return [[t.tolist() for t in sums], seen, group.gather(group.rank), group.broadcast(f"from {group.rank}")]


def test_what_ranks_tell_each_other(tmp_path) -> None:
    first, *others = as_ranks(3, tmp_path, talk)
    assert first == [[[[6.0, 6.0], [6.0, 6.0]], 30.0], [[0], [0, 1], [0, 1, 2]], [0, 1, 2], "from 0"]
    assert all(other == [*first[:2], [], "from 0"] for other in others)
    assert talk(ALONE) == [[[[1.0, 1.0], [1.0, 1.0]], 0.0], [[0]], [0], "from 0"]


def stumble(group: Ranks) -> None:
    if group.rank == 1:
        raise ValueError("cannot")
    group.all_gather(None)


def test_a_rank_that_leaves_says_why(tmp_path) -> None:
    lost, own, also = as_ranks(3, tmp_path, stumble)
    assert isinstance(own, ValueError)
    for error in (lost, also):
        assert isinstance(error, RankLost) and str(error) == "rank 1: ValueError: cannot"


def stopped(group: Ranks) -> list[Any]:
    with StopRequest(group) as stop:
        before = bool(stop)
        if group.rank == 1:
            signal.raise_signal(signal.SIGTERM)
        return [before, bool(stop), stop.code]


def test_all_ranks_stop_where_one_is_asked_to(tmp_path) -> None:
    assert as_ranks(2, tmp_path, stopped) == [[False, True, 128 + signal.SIGTERM]] * 2


# ---- as torchrun starts them


def follow() -> int:
    order = ranks().broadcast(None)
    if order == "fail":
        raise ValueError("cannot follow")
    if order == "die":
        os._exit(9)
    return 0 if order is None else order + ranks().rank


def no_run() -> int:
    return 2


def a_run() -> int:
    ranks().broadcast(40)
    return 3


def one_that_fails() -> int:
    ranks().broadcast("fail")
    os.kill(os.getpid(), signal.SIGTERM)  # as torchrun does when a process has failed
    with pytest.raises(RankLost, match="rank 1: ValueError: cannot follow"):
        ranks().all_gather(None)
    return 1


def one_that_dies() -> int:
    ranks().broadcast("die")
    with pytest.raises(RankLost, match=r"^a process of this run has gone$"):
        ranks().all_gather(None)
    return 1


@pytest.mark.parametrize(
    ("lead", "codes"), [(no_run, [2, 0]), (a_run, [3, 41]), (one_that_fails, [1, 1]), (one_that_dies, [1, 9])]
)
def test_rank_0_leads_and_the_others_follow(lead: Callable[[], int], codes: list[int]) -> None:
    context, port = forking(), free_port()
    processes = [context.Process(target=launched, args=(rank, port, lead)) for rank in range(2)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + TIMEOUT_S
    for process in processes:
        process.join(max(0.1, deadline - time.monotonic()))
    found = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert found == codes
    assert ranks() is ALONE


def test_a_rank_dies_with_whoever_started_it() -> None:
    context = forking()
    ours, theirs = context.Pipe()
    starter = context.Process(target=starts_and_waits, args=(free_port(), theirs))
    starter.start()
    theirs.close()
    assert ours.poll(TIMEOUT_S)
    rank = ours.recv()
    starter.kill()
    starter.join()
    try:
        assert ours.poll(10), "it lives on"
        with pytest.raises(EOFError):
            ours.recv()
    finally:
        with suppress(ProcessLookupError):
            os.kill(rank, signal.SIGKILL)


def starts_and_waits(port: int, pipe: Connection) -> None:
    def lead() -> int:
        pipe.send(os.getpid())
        time.sleep(TIMEOUT_S)
        return 0

    if not os.fork():
        launched(0, port, lead, world=1)
    time.sleep(TIMEOUT_S)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def launched(rank: int, port: int, lead: Callable[[], int], world: int = 2) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    code = run_ranks(lead, follow)
    os._exit(code)

"""Processes that torchrun started, as the ranks of one run."""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from esper.errors import EsperError, ExitCode, RunError
from esper.leyline.ranks import ALONE, Ranks
from esper.printing import say, say_traceback

PR_SET_PDEATHSIG = 1  # of Linux's prctl

_joined: "TorchRanks | None" = None


class RankLost(RunError):
    """Another process of the run has ended before its time."""


class TorchRanks:
    """The ranks of a run as processes of torch.distributed; a context that each of them leaves at the end.

    Values travel between CPUs by gloo, tensors on CUDA devices by NCCL. A rank that leaves by an exception says which,
    and once its process has ended every other one's call raises RankLost with that.

    Args: store: that all of them reach. `is_used`: whether any call was made.
    """

    def __init__(self, store: dist.Store, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self._store = store
        has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
        kind = "cpu:gloo,cuda:nccl" if has_nccl else "gloo"
        with self._all_there():  # one that is done connecting may already have left
            dist.init_process_group(kind, store=store, rank=rank, world_size=world)
        self.is_used = False

    @classmethod
    def join(cls) -> "TorchRanks":
        """Those that torchrun's environment names; the processes of a machine take its CUDA devices in turn."""
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        return cls(*next(dist.rendezvous("env://")))

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Put in place of each tensor its sum over all ranks, the same bits on each."""
        joined = _flatten_dense_tensors(tensors)
        with self._all_there():
            dist.all_reduce(joined)
        for tensor, total in zip(tensors, _unflatten_dense_tensors(joined, tensors), strict=True):
            tensor.copy_(total)

    def all_gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of ranks."""
        values = [None] * self.world
        with self._all_there():
            dist.all_gather_object(values, value)
        return values

    def gather(self, value: Any) -> list[Any]:
        """As `all_gather`, for rank 0 alone; the others get nothing."""
        values = None if self.rank else [None] * self.world
        with self._all_there():
            dist.gather_object(value, values)
        return values or []

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0."""
        values = [value]
        with self._all_there():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def __enter__(self) -> "TorchRanks":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, RankLost):
            with suppress(RuntimeError):  # the store may have gone with the process that kept it
                self._store.set(f"esper/left/{self.rank}", _spelled(error))
        dist.destroy_process_group()

    @contextmanager
    def _all_there(self) -> Iterator[None]:
        self.is_used = True
        try:
            yield
        except RuntimeError as error:
            reasons = self._what_happened()
            if not reasons:  # what gloo or NCCL says is for experts
                say(f"rank {self.rank}: {str(error).splitlines()[0]}", is_error=True)
            raise RankLost(reasons or "a process of this run has gone") from error

    def _what_happened(self) -> str:
        """What ranks said that have left."""
        with suppress(RuntimeError):
            keys = {rank: f"esper/left/{rank}" for rank in range(self.world) if rank != self.rank}
            return "; ".join(
                f"rank {rank}: {self._store.get(key).decode()}"
                for rank, key in keys.items()
                if self._store.check([key])
            )
        return ""


def ranks() -> Ranks:
    """Those that share what this process runs: torchrun's where it is one of them (see `run_ranks`), or it alone."""
    return _joined or ALONE


def run_ranks(lead: Callable[[], int], follow: Callable[[], int]) -> int:
    """As one of the processes that torchrun started: rank 0 leads, the others follow. The exit code.

    lead: what the command line says; should no run come of it, the others are let go. follow: take part in the run that
    rank 0 begins, whose first word reaches them as `ranks().broadcast(None)`: None where there is none.
    """
    global _joined
    _die_with_parent()
    try:
        with TorchRanks.join() as _joined:
            if _joined.rank:
                return follow()
            # torchrun asks all to go as soon as one has failed; rank 0 is to say why, and goes when that is done.
            signal.signal(signal.SIGTERM, lambda *_: None)
            code = lead()
            if not _joined.is_used:
                _joined.broadcast(None)
            return code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except EsperError:  # rank 0 says it: it has met with the same, or hears of it
        return ExitCode.FAILED
    except Exception as error:
        say_traceback(error)
        return ExitCode.FAILED
    finally:
        _joined = None


def _die_with_parent() -> None:
    """Be killed when torchrun has gone, which then can stop nobody; where the system offers that (Linux)."""
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _spelled(error: BaseException) -> str:
    return str(error) if isinstance(error, EsperError) else f"{type(error).__name__}: {error}".removesuffix(": ")

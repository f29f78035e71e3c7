"""The checkpoints of one run."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

import torch
from torch import Tensor, nn

from esper.checkpoint.bundle import (
    Checkpoint,
    Unsound,
    bundle_paths,
    read_bundle,
    write_bundle,
)
from esper.checkpoint.folder import CheckpointFolder, Stamp
from esper.checkpoint.model import module_state
from esper.errors import CheckpointError
from esper.files import sweep_temporaries, write_error
from esper.files.records import CHECKPOINT_PREFIX

T = TypeVar("T")


class Agent(Protocol):
    """Whatever a run trains and can continue from."""

    def state(self) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        """Everything that decides what comes next: tensors by name, and plain JSON values."""
        ...


class CheckpointManager(CheckpointFolder):
    """Keeps `run_dir/checkpoints/agent_epoch_{n}.safetensors` and `.json`; one process at a time may write.

    Loading gives a `Checkpoint`, or what `builder(checkpoint)` returns where a builder is handed in.
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        super().__init__(run_dir)
        self._sound: dict[int, Stamp] = {}  # what was written or read here, and has not been touched since

    def save_checkpoint(
        self,
        agent: Agent | nn.Module,
        epoch: int,
        *,
        kind: str = "agent",
        metrics: dict[str, float | None] | None = None,
        config: dict[str, Any] | None = None,
        growth_log: list[Any] | None = None,
        seed_states: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Path:
        """Write the checkpoint of this epoch durably and return the path of its tensors.

        A metric that is not known is left out or None. Raises CheckpointError (disk full, a value that JSON cannot
        hold, ...); earlier checkpoints are then intact.
        """
        tensors, state = _agent_state(agent)
        self.make()
        sweep_temporaries(self.folder, CHECKPOINT_PREFIX)
        path = write_bundle(
            self.path(epoch),
            Checkpoint(
                tensors=tensors,
                kind=kind,
                epoch=epoch,
                state=state,
                metrics=metrics or {},
                config=config or {},
                growth_log=growth_log or [],
                seed_states=seed_states or {},
                metadata=metadata or {},
            ),
        )
        self._sound[epoch] = self.stamp(epoch)
        return path

    @overload
    def load_agent(self, epoch: int, builder: None = None, *, device: str | torch.device = "cpu") -> Checkpoint: ...

    @overload
    def load_agent(
        self, epoch: int, builder: Callable[[Checkpoint], T], *, device: str | torch.device = "cpu"
    ) -> T: ...

    def load_agent(
        self, epoch: int, builder: Callable[[Checkpoint], T] | None = None, *, device: str | torch.device = "cpu"
    ) -> Checkpoint | T:
        """Load one epoch's checkpoint. Raises CheckpointError where it is missing or unsound."""
        if epoch not in self.list_epochs():
            known = ", ".join(map(str, self.list_epochs())) or "none"
            raise CheckpointError(f"{self.folder} has no checkpoint of epoch {epoch}; it has: {known}.")
        checkpoint = read_bundle(self.path(epoch), device=device)
        _check_epoch(self.path(epoch), epoch, checkpoint.sidecar)
        return builder(checkpoint) if builder else checkpoint

    @overload
    def load_latest_agent(self, builder: None = None, *, device: str | torch.device = "cpu") -> Checkpoint: ...

    @overload
    def load_latest_agent(self, builder: Callable[[Checkpoint], T], *, device: str | torch.device = "cpu") -> T: ...

    def load_latest_agent(
        self, builder: Callable[[Checkpoint], T] | None = None, *, device: str | torch.device = "cpu"
    ) -> Checkpoint | T:
        """Load the newest sound checkpoint; newer ones that are not sound are in its `skipped`, with the reason.

        Raises CheckpointError where there is none.
        """
        skipped: list[Unsound] = []
        for epoch in reversed(self.list_written()):
            try:
                checkpoint = self._load_listed(epoch, device)
            except CheckpointError as error:
                skipped.append(Unsound(epoch, str(error)))
                continue
            checkpoint = replace(checkpoint, skipped=tuple(skipped))
            return builder(checkpoint) if builder else checkpoint
        if skipped:
            raise CheckpointError(
                f"{self.folder} has no sound checkpoint. The newest ({skipped[0].epoch}): {skipped[0].reason}"
            )
        raise CheckpointError(f"{self.folder} has no checkpoint. Give a run directory that has saved one.")

    def load_newest_agent(self, how_to_name: str) -> Checkpoint:
        """Load the newest checkpoint, and no older one in its place.

        how_to_name: how the caller asks for another one, with {epoch} in it. Raises CheckpointError where there is
        none, or it is not sound; one whose writer was stopped before its sidecar was there is none yet.
        """
        checkpoint = self.load_latest_agent()
        if damaged := [unsound for unsound in checkpoint.skipped if unsound.epoch in self.list_epochs()]:
            raise CheckpointError(
                f"{damaged[0].reason}\n  the newest sound checkpoint is an older one: "
                + how_to_name.format(epoch=checkpoint.epoch)
            )
        return checkpoint

    def best(self, metric: str, mode: str = "max") -> int | None:
        """The epoch of the sound checkpoint with the highest ("max") or lowest ("min") metric, the earliest of equals.

        None where no sound checkpoint has the metric.
        """
        return next((epoch for epoch in self.ranking(metric, mode) if self._problem(epoch) is None), None)

    def verify(self) -> list[Unsound]:
        """Read everything and list what is not sound; an empty list is good news."""
        problems = ((epoch, self._problem(epoch)) for epoch in self.list_written())
        return [Unsound(epoch, problem) for epoch, problem in problems if problem is not None]

    def prune(
        self,
        *,
        keep_last: int = 1,
        keep_best: int = 0,
        keep_every: int = 0,
        metric: str = "val_accuracy",
        mode: str = "max",
    ) -> list[int]:
        """Remove sound checkpoints but for the last few, the best few by `metric`, and every n-th epoch's.

        The newest sound one always stays. Unsound ones stay too (another version of esper may read them), but do not
        count. Leftovers of killed writers are swept. Returns the epochs removed.
        """
        for name, count in {"keep_last": keep_last, "keep_best": keep_best, "keep_every": keep_every}.items():
            if count < 0:
                raise CheckpointError(f"prune({name}={count}): expected an integer from 0 on.")
        sound = [epoch for epoch in self.list_epochs() if self._is_sound(epoch)]
        kept = set(sound[-max(keep_last, 1) :])
        kept.update([epoch for epoch in self.ranking(metric, mode) if epoch in sound][:keep_best])
        kept.update(epoch for epoch in sound if keep_every and epoch % keep_every == 0)
        removed = [epoch for epoch in sound if epoch not in kept]
        try:
            for epoch in removed:
                # The sidecar first: half-removed is then no checkpoint, rather than a damaged one.
                bundle_paths(self.path(epoch))[1].unlink()
            self.sweep()
        except OSError as error:
            raise write_error(self.folder, error) from error
        return removed

    def _load_listed(self, epoch: int, device: str | torch.device) -> Checkpoint:
        if not bundle_paths(self.path(epoch))[1].exists():
            raise CheckpointError(
                f"{self.path(epoch)} has no sidecar: its writer was stopped, or the file was removed."
            )
        return self.load_agent(epoch, device=device)

    def _problem(self, epoch: int) -> str | None:
        try:
            self._load_listed(epoch, "cpu")
        except CheckpointError as error:
            return str(error)
        return None

    def _is_sound(self, epoch: int) -> bool:
        stamp = self.stamp(epoch)
        if self._sound.get(epoch) != stamp:
            if self._problem(epoch) is not None:
                return False
            self._sound[epoch] = stamp
        return True


def _agent_state(agent: Agent | nn.Module) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    # Asked of the type: a network may well have a submodule called "state".
    if isinstance(agent, nn.Module) and not callable(getattr(type(agent), "state", None)):
        return module_state(agent)
    state = getattr(agent, "state", None)
    if not callable(state):
        kind = type(agent).__name__
        raise CheckpointError(f"A {kind} cannot be saved: expected an nn.Module or an object with state().")
    tensors, plain = state()
    return tensors, plain


def _check_epoch(path: Path, epoch: int, sidecar: dict[str, Any]) -> None:
    if sidecar["epoch"] != epoch:
        raise CheckpointError(f"{path} holds epoch {sidecar['epoch']}: its files were renamed or exchanged.")

"""The folder of a run's checkpoints: which epochs have one, and what was left in it by a writer that was stopped."""

import os
import re
from pathlib import Path
from typing import Any

from esper.checkpoint.bundle import bundle_paths
from esper.checkpoint.sidecar import pending_path, read_sidecar
from esper.errors import CheckpointError
from esper.files import make_folder, sweep_temporaries, sync_folder, write_error
from esper.files.records import CHECKPOINT_PREFIX, CHECKPOINTS

_SIDECAR = re.compile(rf"{CHECKPOINT_PREFIX}(0|[1-9][0-9]*)\.json")
_TENSORS = re.compile(rf"{CHECKPOINT_PREFIX}(0|[1-9][0-9]*)\.safetensors")

Stamp = tuple[tuple[int, int, int] | None, ...]


class CheckpointFolder:
    """`run_dir/checkpoints` with its `agent_epoch_{n}.safetensors` and `.json`; it need not be there."""

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self.folder = Path(run_dir) / CHECKPOINTS

    def exists(self) -> bool:
        """Whether the run has a checkpoint, sound or not."""
        return bool(self.list_epochs())

    def list_epochs(self) -> list[int]:
        """The epochs that have a checkpoint, in numeric order."""
        return self._epochs(_SIDECAR)

    def path(self, epoch: int) -> Path:
        """Where the tensors of this epoch are, or would be."""
        return self.folder / f"{CHECKPOINT_PREFIX}{epoch}.safetensors"

    def list_written(self) -> list[int]:
        """The epochs of which there is a sidecar, tensors, or both, in numeric order."""
        return self._epochs(_SIDECAR, _TENSORS)

    def sidecar(self, epoch: int) -> dict[str, Any]:
        """What a checkpoint's sidecar says; its tensors are not looked at. Raises CheckpointError."""
        return read_sidecar(bundle_paths(self.path(epoch))[1])

    def ranking(self, metric: str, mode: str) -> list[int]:
        """The epochs that have the metric, the best first: the highest ("max") or the lowest ("min")."""
        if mode not in ("max", "min"):
            raise CheckpointError(f"The mode {mode!r} is not known: expected 'max' or 'min'.")
        values: dict[int, float] = {}
        for epoch in self.list_epochs():
            try:
                value = self.sidecar(epoch)["metrics"].get(metric)
            except CheckpointError:
                continue
            if isinstance(value, int | float):
                values[epoch] = float(value)
        sign = -1.0 if mode == "max" else 1.0
        return sorted(values, key=lambda epoch: (sign * values[epoch], epoch))

    def make(self) -> None:
        """Make it, durably."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            make_folder(self.folder)
        except OSError as error:
            raise write_error(self.folder, error) from error

    def sweep(self) -> None:
        """Remove what writers that were killed have left."""
        if not self.folder.is_dir():
            return
        sweep_temporaries(self.folder, CHECKPOINT_PREFIX)
        sync_folder(self.folder)
        for epoch in set(self._epochs(_TENSORS)) - set(self.list_epochs()):
            tensors_path, sidecar_path = bundle_paths(self.path(epoch))
            pending_path(sidecar_path).unlink(missing_ok=True)
            tensors_path.unlink(missing_ok=True)

    def stamp(self, epoch: int) -> Stamp:
        """Changes with its files."""
        known = []
        for path in bundle_paths(self.path(epoch)):
            status = os.stat(path) if path.exists() else None
            known.append(status and (status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(known)

    def _epochs(self, *patterns: re.Pattern[str]) -> list[int]:
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(f"{self.folder} cannot be read: {error.strerror}.") from error
        return sorted({int(match[1]) for name in names for pattern in patterns if (match := pattern.fullmatch(name))})

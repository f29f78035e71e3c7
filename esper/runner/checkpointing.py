"""A run's checkpoints: what is saved of it, how it goes on from one, and its members out of one."""

import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.builders.population import build_growth
from esper.checkpoint import Checkpoint, CheckpointManager, restoring
from esper.checks import whole
from esper.config.checkpoint import CheckpointConfig
from esper.config.composing import read_config
from esper.engine.growth import Growth
from esper.errors import CheckpointError, RunError
from esper.files.records import CONFIG_FILE
from esper.kasmina import MorphogeneticModel
from esper.kasmina.copying import copy_network
from esper.nissa.sinks.cutting import Carried
from esper.printing import say
from esper.runner.records import CHECKPOINT
from esper.runner.resuming import differences, refuse

if TYPE_CHECKING:
    from esper.runner.run import Run


class RunCheckpoints:
    """Saves a run, and lets it go on; numbered by its progress (see `Run.progress`).

    Args: keep: which of them stay. config: of the run, as plain values. `saved_at` is the newest one's number, or -1.
    """

    def __init__(self, run_dir: Path, keep: CheckpointConfig, config: dict[str, Any]) -> None:
        self.manager = CheckpointManager(run_dir)
        self.saved_at = -1
        self._saved_epoch = -1  # of `Run.epoch`
        self._keep, self._config = keep, config

    @property
    def newest(self) -> Path | None:
        """Where the tensors of the newest one are."""
        return self.manager.path(self.saved_at) if self.saved_at >= 0 else None

    def restore(self, run: "Run", checkpoint: Checkpoint) -> None:
        """Let the run go on from here. Raises CheckpointError where the checkpoint does not fit it."""
        for unsound in checkpoint.skipped:
            say(f"skipped the checkpoint of epoch {unsound.epoch}: {unsound.reason}", is_error=True)
        with restoring(checkpoint, CHECKPOINT):
            run.load_state(checkpoint.tensors, checkpoint.state)
        self.mark(run)

    def save(self, run: "Run") -> None:
        """Write all that the run needs to go on from this checkpoint alone."""
        carried = None
        if run.lines:
            carried = Carried(self._saved_epoch, run.epoch, run.lines.recent).to_plain()
        self.manager.save_checkpoint(
            run,
            run.progress,
            kind="population",
            metrics=dict(run.metrics),
            config=self._config,
            growth_log=run.growth.growth_log,
            metadata={"engine": run.folder.record["engine"], "run": dict(run.folder.record), "carried": carried},
        )
        self.mark(run)
        self.prune()

    def mark(self, run: "Run") -> None:
        """The run is saved as it is now."""
        self.saved_at, self._saved_epoch = run.progress, run.epoch

    def carried(self) -> list[Carried]:
        """What the checkpoints carry of the run's JSON lines, up to the newest."""
        found = []
        for number in self.manager.list_epochs():
            if number <= self.saved_at:
                with suppress(CheckpointError):
                    found.append(Carried.from_plain(self.manager.sidecar(number)["metadata"].get("carried")))
        return [one for one in found if one is not None]

    def prune(self) -> None:
        """Remove those that are not to stay."""
        self.manager.prune(keep_last=self._keep.keep_last, keep_best=self._keep.keep_best)


def load_member(run_dir: str | Path, member: int = 0, epoch: int | None = None) -> MorphogeneticModel:
    """One member of a run, ready to predict.

    Args: run_dir: the run's folder; member: grown members first, then their twins; epoch: of a checkpoint (None: the
    newest). Raises: RunError or CheckpointError where there is no such run, member or checkpoint, or the newest one is
    damaged: an older one's weights are given only when its epoch is asked for. ConfigError where config.yaml is not
    what the checkpoint was made under, or an argument is none.
    """
    if not isinstance(run_dir, str | Path):
        raise RunError(f"load_member: expected the folder of a run, such as outputs/NAME/ID, and got {run_dir!r}")
    whole("member", member, 0)
    if epoch is not None:
        whole("epoch", epoch, 0)
    return member_of(load_growth(Path(run_dir), epoch), member, Path(run_dir))


def load_growth(path: Path, epoch: int | None = None) -> Growth:
    """The members of a run, as a checkpoint of it has them; for `epoch` and what is raised see `load_member`."""
    if not (path / CONFIG_FILE).is_file():
        raise RunError(f"{path}: it has no {CONFIG_FILE}; expected the folder of a run, such as outputs/NAME/ID")
    manager = CheckpointManager(path)
    if epoch is None:
        checkpoint = manager.load_newest_agent(f"esper.load_member({str(path)!r}, epoch={{epoch}})")
        for unsaved in checkpoint.skipped:
            warnings.warn(f"epoch {checkpoint.epoch} is loaded: {unsaved.reason}", stacklevel=3)
    else:
        checkpoint = manager.load_agent(epoch)
    config = read_config(path / CONFIG_FILE)
    refuse(differences(config, checkpoint), checkpoint, path / CONFIG_FILE)
    with restoring(checkpoint, CHECKPOINT):
        growth = build_growth(config, checkpoint.metadata["engine"]).local_growth
        growth.load_state(dict(checkpoint.tensors), checkpoint.state["growth"])
    return growth


def member_of(growth: Growth, member: int, path: Path) -> MorphogeneticModel:
    """A copy of one member, ready to predict. Raises RunError, naming the run, where there is no such member."""
    if not 0 <= member < len(growth.population):
        raise RunError(f"{path}: there is no member {member}; it has 0 to {len(growth.population) - 1}")
    return copy_network(growth.population.models[member]).eval()

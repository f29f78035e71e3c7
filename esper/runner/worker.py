"""What every rank but the first does: it takes part in a run, and writes nothing down."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from esper.builders.population import Grown, grow, prepare
from esper.checkpoint import Checkpoint
from esper.config.root import RunConfig
from esper.runner.directory import RunDirectory
from esper.runner.distributed import ranks
from esper.runner.loop import fit
from esper.runner.run import Run
from esper.runner.stop import StopRequest


def follow() -> int:
    """Take part in the run that rank 0 begins, if it begins one. Returns the exit code; raises what goes wrong here."""
    group = ranks()
    order = group.broadcast(None)
    if order is None:
        return 0
    config, engine = order
    with StopRequest(group) as stop:
        (grown,) = grow([prepare(config, engine, {}, group)], engine)
        run = WorkerRun(config, grown, group.broadcast(None))
        fit([run], stop)
    if run.error is not None:
        raise run.error
    return stop.code if run.summary is None else 0


class WorkerRun(Run):
    """The run as rank 0 has it, but for what is on disk and on the terminal."""

    def __init__(self, config: RunConfig, grown: Grown, checkpoint: Checkpoint | None) -> None:
        super().__init__(NullRunDirectory(grown.engine), config, grown, checkpoint and replace(checkpoint, skipped=()))

    def save(self) -> None:
        """Give rank 0 what it keeps of this rank's members."""
        if self.checkpoints.saved_at != self.progress and not self.error:
            self.state()
            self.checkpoints.mark(self)

    def _draw(self) -> None:
        pass


class NullRunDirectory(RunDirectory):
    """In place of a run's folder, which rank 0 has."""

    def __init__(self, engine: dict[str, Any]) -> None:
        self.path = Path(os.devnull)
        self.record = {"engine": engine, "wall_s": 0.0}
        self._last_beat = 0.0

    def update(self, **changes: Any) -> None:
        """Nothing is written."""
        self.record |= changes

"""From requested runs to runs: all that can be built, in one population."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import mode

from esper.builders.population import grow, prepare
from esper.checkpoint import Checkpoint
from esper.config.root import RunConfig
from esper.errors import EsperError, RunError
from esper.factories import as_own_failure
from esper.runner.directory import RunDirectory
from esper.runner.distributed import ranks
from esper.runner.run import Run
from esper.tasks import Task


@dataclass(slots=True)
class RunRequest:
    """A run to be brought to its end, and what went wrong with it. checkpoint: that it goes on from."""

    folder: RunDirectory
    config: RunConfig
    is_new: bool
    checkpoint: Checkpoint | None = None
    run: Run | None = None
    error: Exception | None = None

    @property
    def is_bad_input(self) -> bool:
        """Whether it could not even be built, for a reason that its user can mend."""
        is_of_disk = isinstance(self.error, OSError) or isinstance(getattr(self.error, "__cause__", None), OSError)
        return self.run is None and isinstance(self.error, EsperError) and not is_of_disk


def build_runs(requests: Sequence[RunRequest]) -> list[Run]:
    """The runs of those requests that can be built; the others have their error."""
    ready = list(requests)
    loaded: dict[str, Task] = {}
    while ready:
        prepared = []
        for request in ready:
            with _blamed([request]):
                prepared.append(prepare(request.config, request.folder.record["engine"], loaded, ranks()))
        if len(prepared) == len(ready):
            with _blamed(ready):
                grown = grow(prepared, ready[0].folder.record["engine"])
            if all(request.error is None for request in ready):
                for request, part in zip(ready, grown, strict=True):
                    with _blamed([request]):
                        ranks().broadcast(request.checkpoint)
                        request.run = Run(request.folder, request.config, part, request.checkpoint)
                _leave_out_others(ready)
        if all(request.error is None for request in ready):
            for request in ready:
                request.checkpoint = None  # its tensors are the run's own by now
            return [request.run for request in ready if request.run is not None]
        ready = [request for request in ready if request.error is None]  # they are built anew without the others
    return []


def _leave_out_others(requests: Sequence[RunRequest]) -> None:
    """Of those that stand at another epoch than most, as after the loss of a checkpoint."""
    built = [(request, request.run.epoch) for request in requests if request.run is not None]
    most = mode(epoch for _, epoch in built) if built else 0
    for request, epoch in built:
        if epoch != most:
            request.run = None
            request.error = RunError(
                f"{request.folder.path}: its checkpoint is of epoch {epoch}, and those beside it are of {most}\n"
                f"  to continue it alone: python -m esper.run resume={request.folder.path}"
            )


@contextmanager
def _blamed(requests: Sequence[RunRequest]) -> Iterator[None]:
    """Inside, what goes wrong is these requests' error."""
    try:
        yield
    except (Exception, SystemExit) as error:
        for request in requests:
            request.error, request.run = as_own_failure(error), None

"""Taking over what a checkpoint holds, whatever that is."""

from collections.abc import Iterator
from contextlib import contextmanager

from esper.checkpoint.bundle import Checkpoint
from esper.errors import CheckpointError, EsperError, FormatError
from esper.files import misfit
from esper.files.shapes import AllBut, Shape

# Not every run has these; the last two are of reports, and came later than the rest.
_NEEDS = AllBut("learning", "env", "finals", "val_rmse", "training_flops")
_ELSE = "to go on from an earlier checkpoint, move this one away"


@contextmanager
def restoring(checkpoint: Checkpoint, shape: Shape = dict) -> Iterator[None]:
    """Inside, an object takes a checkpoint's state. Raises CheckpointError where that is none of such an object.

    A checksum tells that a sidecar is as it was written, not that a run wrote it: its values can be of any kind, and
    trip whoever takes them in any way. shape: of what the sidecar holds, as far as a wrong type would trip nobody until
    later.
    """
    try:
        if problem := misfit(checkpoint.sidecar, shape, _NEEDS):
            raise FormatError(problem)
        yield
    except FormatError as error:
        raise CheckpointError(f"{checkpoint.path} holds what is no state of this run: {error}.\n  {_ELSE}") from error
    except (EsperError, OSError, MemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:100]
        raise CheckpointError(
            f"{checkpoint.path} holds what is no state of this run ({type(error).__name__}: {said}).\n  {_ELSE}"
        ) from error

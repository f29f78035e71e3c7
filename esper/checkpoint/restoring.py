"""Taking over what a checkpoint holds, whatever that is."""

from collections.abc import Iterator
from contextlib import contextmanager

from esper.checkpoint.bundle import Checkpoint
from esper.errors import CheckpointError, EsperError


@contextmanager
def restoring(checkpoint: Checkpoint) -> Iterator[None]:
    """Inside, an object takes a checkpoint's state. Raises CheckpointError where that is none of such an object.

    A checksum tells that a sidecar is as it was written, not that a run wrote it: its values can be of any kind, and
    trip whoever takes them in any way.
    """
    try:
        yield
    except (EsperError, OSError, MemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:100]
        raise CheckpointError(
            f"{checkpoint.path} holds what is no state of this run ({type(error).__name__}: {said}).\n"
            "  to go on from an earlier checkpoint, move this one away"
        ) from error

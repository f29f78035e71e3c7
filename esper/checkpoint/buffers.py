"""The bytes of a checkpoint's files, in memory of their own."""

import os
from pathlib import Path

import numpy as np

from esper.errors import CheckpointError
from esper.files import open_to_read

_MEMORY_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # of this machine


def read_buffer(path: Path, most_bytes: int = _MEMORY_BYTES) -> memoryview:
    """The bytes of a file, in writable memory of their own."""
    try:
        with open_to_read(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most_bytes:
                raise CheckpointError(f"{path} is altered: it has {size:,} bytes, and at most {most_bytes:,} are read.")
            # NumPy asks for huge pages, without which the system spends longer on pages than on the copy.
            buffer = np.empty(size, np.uint8).data
            filled = 0
            while filled < len(buffer) and (count := file.readinto(buffer[filled:])):
                filled += count
        return buffer[:filled]
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing. A checkpoint is a .safetensors and a .json of the same name, in the same folder."
        ) from error
    except (OSError, MemoryError, ValueError) as error:  # a name can hold what no file's may
        reason = getattr(error, "strerror", None) or str(error) or "there is not enough memory"
        raise CheckpointError(f"{path} cannot be read: {reason}.") from error

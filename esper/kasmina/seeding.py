"""Random numbers of layers: initial weights from a named generator, and the streams that everybody shares."""

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_SEED_RANGE = 2**62
_NUMPY_SEED_RANGE = 2**32


def default_generator(*names: str) -> torch.Generator:
    """A generator fixed by torch's initial seed and these names: same seed and names, same weights."""
    generator = torch.Generator()
    generator.manual_seed((torch.initial_seed() + zlib.crc32("/".join(names).encode())) % _SEED_RANGE)
    return generator


@contextmanager
def weights_from(generator: torch.Generator) -> Iterator[None]:
    """Modules built inside draw their weights, on the CPU, from `generator`; no global stream moves."""
    seed = int(torch.randint(_SEED_RANGE, (), generator=generator, device=generator.device))
    # Layers initialise themselves from the global streams; lending them to them serves blueprints of any make.
    with undisturbed_streams(), torch.device("cpu"):
        seed_streams(seed)
        yield


@contextmanager
def undisturbed_streams(device: torch.device | None = None) -> Iterator[None]:
    """Whatever is drawn inside from the global streams of torch, numpy and Python, they go on as if it had not been.

    device: whose stream is kept beside the CPU's.
    """
    of_numpy, of_python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng([device] if device is not None and device.type == "cuda" else []):
            yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)


def seed_streams(seed: int, device: torch.device | None = None) -> None:
    """Seed the global streams of torch, numpy and Python, as layers that draw know no others."""
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        torch.cuda.manual_seed(seed)
    np.random.seed(seed % _NUMPY_SEED_RANGE)
    random.seed(seed)

"""Initial weights from a named generator, whatever layers a module is made of."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SEED_RANGE = 2**62


def default_generator(*names: str) -> torch.Generator:
    """A generator fixed by torch's initial seed and these names: same seed and names, same weights."""
    generator = torch.Generator()
    generator.manual_seed((torch.initial_seed() + zlib.crc32("/".join(names).encode())) % _SEED_RANGE)
    return generator


@contextmanager
def weights_from(generator: torch.Generator) -> Iterator[None]:
    """Modules built inside draw their weights, on the CPU, from `generator`; torch's global stream does not move."""
    seed = int(torch.randint(_SEED_RANGE, (), generator=generator, device=generator.device))
    # Layers initialise themselves from the global stream; lending it to them serves blueprints of any make.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        yield

"""Trying a seed on features of its slot's shape before it is planted."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from esper.errors import BlueprintError
from esper.kasmina.copying import copy_network
from esper.kasmina.seeding import undisturbed_streams
from esper.leyline.topologies import TOPOLOGIES

_PROBE_SEED = 0
_PROBE_SIZE = 8


def shape_probe(topology: str, channels: int) -> Tensor:
    """Two samples of features as a host of this topology has them, 8 along each dimension but the channels.

    Raises: BlueprintError on an unknown topology.
    """
    if topology not in TOPOLOGIES:
        raise BlueprintError(f"no topology {topology!r}: known are {', '.join(TOPOLOGIES)}")
    sizes = {"B": 2, "C": channels}
    shape = [sizes.get(letter, _PROBE_SIZE) for letter in TOPOLOGIES[topology]]
    return torch.randn(shape, generator=torch.Generator().manual_seed(_PROBE_SEED))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside, the module is in evaluation mode (its statistics learn nothing); then every flag is as it was."""
    flags = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, flag in flags.items():
            part.training = flag


@torch.no_grad()
def check_fit(seed: nn.Module, probe: Tensor, what: str) -> None:
    """Raises: BlueprintError, beginning with `what`, when the seed fails on the probe or changes its shape."""
    try:
        attempt = copy_network(seed)  # one of a user's own may count its passes
        with evaluating(attempt), undisturbed_streams(probe.device):
            output = attempt(probe)
    except (RuntimeError, ValueError, TypeError) as error:
        raise BlueprintError(f"{what} does not take features {tuple(probe.shape)}: {error}") from error
    if output.shape != probe.shape:
        raise BlueprintError(f"{what} turns {tuple(probe.shape)} into {tuple(output.shape)}: a seed keeps the shape")

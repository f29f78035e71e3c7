"""Trying a seed on features of its slot's shape before it is planted."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from esper.errors import BlueprintError
from esper.kasmina.copying import copy_network
from esper.kasmina.seeding import undisturbed_streams

_PROBE_SEED = 0


def shape_probe(topology: str, channels: int) -> Tensor:
    """Features as a host of this topology has them: "cnn" [2, C, 8, 8], "transformer" [2, 8, C].

    Raises: BlueprintError on an unknown topology.
    """
    shapes = {"cnn": (2, channels, 8, 8), "transformer": (2, 8, channels)}
    if topology not in shapes:
        raise BlueprintError(f"no topology {topology!r}: known are {', '.join(shapes)}")
    return torch.randn(shapes[topology], generator=torch.Generator().manual_seed(_PROBE_SEED))


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

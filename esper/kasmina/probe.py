"""Trying a seed on features of its slot's shape before it is planted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from esper.errors import BlueprintError, first_line
from esper.kasmina.copying import copy_network
from esper.kasmina.seeding import undisturbed_streams
from esper.leyline.topologies import TOPOLOGIES

AT_BIRTH = 1e-6  # the most by which a new seed may change a feature
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
    attempt = copy_network(seed)  # one of a user's own may count its passes
    with evaluating(attempt):
        output = _run(attempt, probe.clone(), what)
    if not isinstance(output, Tensor):
        raise BlueprintError(f"{what} gives a {type(output).__name__}, and a seed gives features")
    if output.shape != probe.shape:
        raise BlueprintError(f"{what} turns {tuple(probe.shape)} into {tuple(output.shape)}: a seed keeps the shape")


@torch.no_grad()
def check_identity(seed: nn.Module, probe: Tensor, what: str) -> None:
    """Raises: BlueprintError, beginning with `what`, when the seed changes the features while it is new."""
    if not any(parameter.requires_grad for parameter in seed.parameters()):
        raise BlueprintError(f"{what} has no parameter that could learn")
    attempt = copy_network(seed)
    for is_training in (True, False):
        given = probe.clone()
        before = given._version
        output = _run(attempt.train(is_training), given, what)
        if given._version != before:
            raise BlueprintError(f"{what} writes into the features that it is given: they are the host's own")
        difference = (output - probe).abs().max().item()
        if not difference <= AT_BIRTH:
            raise BlueprintError(
                f"{what} is not the identity at birth: it changes features by up to {difference:.2g}\n"
                "  begin with a zeroed last layer in a branch beside its input, as in x + self.branch(x)"
            )


@torch.enable_grad()
def check_gradient(seed: nn.Module, probe: Tensor, what: str) -> None:
    """Raises: BlueprintError, beginning with `what`, when the seed fails backwards, or none of it could learn so."""
    attempt = copy_network(seed).train()
    output = _run(attempt, probe.clone().requires_grad_().clone(), what)
    try:
        with undisturbed_streams(probe.device):
            output.sum().backward()
    except Exception as error:
        raise BlueprintError(f"{what} fails in its backward pass: {first_line(error)}") from error
    if all(parameter.grad is None for parameter in attempt.parameters()):
        raise BlueprintError(f"{what}: no gradient reaches its parameters, so that none could learn")


def _run(seed: nn.Module, probe: Tensor, what: str) -> Any:
    try:
        with undisturbed_streams(probe.device):
            return seed(probe)
    except Exception as error:  # whatever a seed of any make may raise
        raise BlueprintError(f"{what} does not take features {tuple(probe.shape)}: {first_line(error)}") from error

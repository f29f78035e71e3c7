"""The states of named random generators as tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor

from esper.errors import CheckpointError

PREFIX = "rng."


def pack_generators(generators: Mapping[str, torch.Generator]) -> dict[str, Tensor]:
    """The state of each generator, a uint8 tensor under "rng.<name>"."""
    return {PREFIX + name: generator.get_state() for name, generator in generators.items()}


def unpack_generators(generators: Mapping[str, torch.Generator], tensors: Mapping[str, Tensor]) -> None:
    """Set each generator to its state among `tensors`; other tensors are not looked at.

    Raises CheckpointError where a state is missing, is of no generator here, or was taken on another kind of device;
    no generator is then changed.
    """
    states = {name.removeprefix(PREFIX): state for name, state in tensors.items() if name.startswith(PREFIX)}
    if states.keys() != generators.keys():
        differing = ", ".join(sorted(states.keys() ^ generators.keys()))
        raise CheckpointError(f"The random generators of the checkpoint and of this run differ: {differing}.")
    before = {name: generator.get_state() for name, generator in generators.items()}
    try:
        for name, generator in generators.items():
            generator.set_state(states[name].cpu())
    except (RuntimeError, TypeError) as error:
        for name, generator in generators.items():
            generator.set_state(before[name])
        raise CheckpointError(
            f"The state of a random generator does not fit: {str(error).splitlines()[0]}. "
            "Resume on the kind of device that the run was started on."
        ) from error

"""What every host promises to the model that lets seeds grow in it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Host(nn.Module):
    """What a model needs of a host: its topology, the width of each slot position, and a module at each.

    `forward` calls `slots[key]` at each position unconditionally: the identity, or the slot that a model puts there.
    """

    topology: str
    injection_points: dict[str, int]
    slots: nn.ModuleDict
    is_users_own = False  # True: a network that somebody brought, whatever it is made of

    def example_input(self, shape: Sequence[int]) -> Tensor:
        """One sample of zeros that `forward` takes, on the host's device. Args: shape: without the batch.

        Returns: [1, *shape].
        """
        return torch.zeros(1, *shape, dtype=like(self).dtype, device=like(self).device)

    def upstream(self, position: str) -> tuple[nn.Module, ...]:
        """The module whose output goes through the slot at a position; none: this host does not say."""
        return ()

    def in_own_words(self, text: str) -> str:
        """A message about the host's layers, with the names that whoever wrote it gave them."""
        return text


def like(module: nn.Module) -> Tensor:
    """A parameter of the device and the floating dtype that the network works in; any where none is of such a dtype."""
    parameters = list(module.parameters())
    return next((parameter for parameter in parameters if parameter.is_floating_point()), parameters[0])

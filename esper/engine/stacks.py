"""The weights of many networks side by side: each parameter of all of them is one tensor, a network is a row of it.

The modules themselves stay whole: their parameters and buffers are views of their rows, so that lifecycle,
checkpointing or export of one member work on its plain module, and training works on the stacks.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

HOST = "host"  # the name of the hosts' stack


class ModuleStack:
    """Same-shaped modules of some members.

    Attributes: members: ascending member indices, one a row; parameters (leaves) and buffers by their name in the
    module, [R, ...].
    """

    def __init__(
        self, modules: Mapping[int, nn.Module], skip: Sequence[str] = (), is_channels_last: bool = False
    ) -> None:
        """skip: prefixes of names that belong to other stacks. is_channels_last: how each row's convolutions lie."""
        self.members = sorted(modules)
        self.modules = [modules[member] for member in self.members]
        prefixes = tuple(f"{prefix}." for prefix in skip)

        def named(kind: str) -> list[dict[str, Tensor]]:
            listed = [getattr(module, f"named_{kind}")() for module in self.modules]
            return [{name: t for name, t in pairs if not name.startswith(prefixes)} for pairs in listed]

        with torch.no_grad():
            self.parameters = _stack(named("parameters"), is_channels_last)
            self.buffers = _stack(named("buffers"), is_channels_last)
        for parameter in self.parameters.values():
            parameter.requires_grad_()
        self._gradients: dict[str, Tensor] = {}
        self._bind()

    def _bind(self) -> None:
        for row, module in enumerate(self.modules):
            for name, stack in self.parameters.items():
                parameter = module.get_parameter(name)
                parameter.data, parameter.grad = stack.detach()[row], None
            for name, stack in self.buffers.items():
                owner, _, leaf = name.rpartition(".")
                module.get_submodule(owner)._buffers[leaf] = stack[row]

    def gradients(self) -> dict[str, Tensor]:
        """Stacks that the modules' own backward passes add to: `parameter.grad` is a view of its row."""
        if not self._gradients:
            self._gradients = {name: torch.zeros_like(stack) for name, stack in self.parameters.items()}
            for row, module in enumerate(self.modules):
                for name, stack in self._gradients.items():
                    module.get_parameter(name).grad = stack[row]
        return self._gradients

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers together."""
        return self.parameters | self.buffers

    def row_of(self, member: int) -> int:
        """Where a member stands. Raises ValueError if it has no row here."""
        return self.members.index(member)


def _stack(rows: list[dict[str, Tensor]], is_channels_last: bool) -> dict[str, Tensor]:
    stacks = {name: torch.stack([row[name].contiguous() for row in rows]) for name in rows[0]}
    if not is_channels_last:
        return stacks
    return {
        name: stack.flatten(0, 1).contiguous(memory_format=torch.channels_last).view(stack.shape)
        if stack.dim() == 5
        else stack
        for name, stack in stacks.items()
    }

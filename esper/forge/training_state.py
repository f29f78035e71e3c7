"""What every training here keeps to go on bit for bit: weights, the optimizers' moments, and where its batches are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper.checkpoint import pack_generators, unpack_generators


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Views of a training under way. parameters: by name, tied ones once; each belongs to one of the optimizers."""

    parameters: Mapping[str, nn.Parameter]
    optimizers: Sequence[torch.optim.Optimizer]
    batches: torch.Generator

    def tensors(self) -> dict[str, Tensor]:
        """Of a checkpoint: `model.NAME`, `optimizer.MOMENT.NAME`, and the generator's state."""
        found = {f"model.{name}": parameter.detach() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for optimizer in self.optimizers:
                moments = optimizer.state.get(parameter, {})
                found |= {f"optimizer.{moment}.{name}": value for moment, value in moments.items()}
        return found | pack_generators({"batches": self.batches})

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` gave, for use inside `esper.checkpoint.restoring`."""
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"model.{name}"])
        owners = {
            parameter: optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for full, value in by_prefix(tensors, "optimizer.").items():
            moment, _, name = full.partition(".")
            owners[self.parameters[name]].state[self.parameters[name]][moment] = value
        unpack_generators({"batches": self.batches}, tensors)


def by_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

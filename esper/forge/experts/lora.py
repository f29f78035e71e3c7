"""The control of singular values: low-rank updates with as many parameters."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from esper.forge.experts.singular_values import layer_matrices
from esper.tasks.task import named_generator


class RankOneUpdates(nn.Module):
    """A network that trains by rank-one updates of its first matrices, as many as a number of parameters allows.

    LoRA (Hu et al. 2021, arXiv 2106.09685) of the least rank, so that as few parameters as singular values are spread
    over as many matrices as can be.
    """

    def __init__(self, network: nn.Module, most_parameters: int, seed: int) -> None:
        super().__init__()
        self._network = (network,)
        self.block_size = network.block_size
        self._matrices: dict[str, Tensor] = {}
        generator, left = named_generator(seed, "experts/lora"), most_parameters
        self.rows, self.columns = nn.ParameterList(), nn.ParameterList()
        for name, matrix in layer_matrices(network).items():
            outputs, inputs = matrix.shape
            if outputs + inputs > left:
                continue
            left -= outputs + inputs
            self._matrices[name] = matrix.detach()
            self.columns.append(torch.zeros(outputs, 1))
            self.rows.append(torch.randn(1, inputs, generator=generator) / inputs**0.5)

    def weights(self) -> dict[str, Tensor]:
        """The matrices that are updated, by name."""
        parts: Any = zip(self._matrices.items(), self.columns, self.rows, strict=True)
        return {name: matrix + column @ row for (name, matrix), column, row in parts}

    def forward(self, tokens: Tensor) -> Tensor:
        """Args: tokens [B, T]. Returns: logits [B, T, V]."""
        return functional_call(self._network[0], self.weights(), (tokens,))

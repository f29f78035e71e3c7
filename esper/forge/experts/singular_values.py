"""Singular value fine-tuning: of every matrix in the layers only the singular values are scaled.

W becomes U diag(z s) V^T, and z alone is trained (Transformer-squared: Sun et al. 2025, arXiv 2501.06252).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from esper.forge.bitnet.quantizer import layer_matrices


class SingularValues(nn.Module):
    """A network that trains by the scales of its singular values alone; its own parameters stay as they are.

    values: z - 1 of all matrices, one after the other, [R] float32: zero is the network itself, bit for bit.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = (network,)  # no part of this module: not among its parameters
        self.block_size = network.block_size
        self._parts: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        for name, matrix in layer_matrices(network).items():
            # in float64, so that other machines come to the same ones from the same file
            u, s, vh = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
            self._parts[name] = (matrix.detach(), u.float(), s.float(), vh.float())
        self.sizes = [len(s) for _, _, s, _ in self._parts.values()]
        self.values = nn.Parameter(torch.zeros(sum(self.sizes)))

    @property
    def network(self) -> Any:
        """That which is scaled."""
        return self._network[0]

    def weights(self, values: Tensor) -> dict[str, Tensor]:
        """The matrices with these scales. Args: values: z - 1, [R]. Returns: by name, [O, I] each."""
        parts = zip(self._parts.items(), values.split(self.sizes), strict=True)
        return {name: matrix + (u * (shift * s)) @ vh for (name, (matrix, u, s, vh)), shift in parts}

    def forward(self, tokens: Tensor) -> Tensor:
        """Args: tokens [B, T]. Returns: logits [B, T, V]."""
        return self.by(self.values, tokens)

    def by(self, values: Tensor, tokens: Tensor) -> Tensor:
        """What the network with other scales says. Args: z - 1, [R]; tokens [B, T]. Returns: logits [B, T, V]."""
        logits: Tensor = functional_call(self.network, self.weights(values), (tokens,))
        return logits


def mixed(shifts: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Several experts' z - 1 [R] as one, each as far as its weight says [K]. Returns: [R] float32."""
    return torch.einsum("k,kr->r", weights.float(), torch.stack(list(shifts)))


@torch.no_grad()
def put_in(network: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Give a network these matrices, in place."""
    for name, matrix in layer_matrices(network).items():
        matrix.copy_(weights[name])
    return network

"""Low-rank changes of a network's linear layers (LoRA: Hu et al. 2021, arXiv 2106.09685), with a scale of their own.

Where the network is ternary, the change is added to the masters, and their sum goes through the quantiser at every
step: what is trained is what will be left once it is folded and quantised anew.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from esper.forge.bitnet.quantizer import layer_matrices


class LoRA(nn.Module):
    """A frozen network with a trained change of rank `rank` in every linear layer inside `layers` and `slots`.

    With `most_parameters`: in the first of them only, as many as these allow.

    A layer's weight is W + scale * (alpha / rank) * up @ down; `up` begins at zero, so that nothing changes at first.
    Its parameters are those of the change alone.

    Args: network: is left as it is until `fold`. scale: how much of the change is applied; 0 gives the network bit for
    bit. Raises: ForgeError where there is no such layer.
    """

    def __init__(
        self,
        network: nn.Module,
        rank: int,
        alpha: float,
        generator: torch.Generator,
        most_parameters: float = math.inf,
    ) -> None:
        super().__init__()
        self._network = (network,)  # no part of this module: its weights are not trained
        self._weights: dict[str, Tensor] = {}
        self.scale, self._factor = 1.0, alpha / rank
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, weight in layer_matrices(network).items():
            outputs, inputs = weight.shape
            if (needed := rank * (outputs + inputs)) > most_parameters:
                continue
            most_parameters -= needed
            self._weights[name] = weight
            drawn = torch.randn(rank, inputs, generator=generator) / math.sqrt(inputs)
            self.down[_key(name)] = nn.Parameter(drawn.to(weight))
            self.up[_key(name)] = nn.Parameter(weight.new_zeros(outputs, rank))

    @property
    def network(self) -> nn.Module:
        """The one that is changed."""
        return self._network[0]

    def weights(self) -> Mapping[str, Tensor]:
        """The changed weights, by their names in the network."""
        factor = self.scale * self._factor
        return {
            name: weight.detach() + factor * (self.up[_key(name)] @ self.down[_key(name)])
            for name, weight in self._weights.items()
        }

    def forward(self, tokens: Tensor) -> Tensor:
        """Args: tokens [B, T]. Returns: logits [B, T, V] of the changed network."""
        frozen = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        return functional_call(self.network, {**frozen, **self.weights()}, (tokens,))

    @torch.no_grad()
    def fold(self) -> nn.Module:
        """Put the change into the network's weights, in place, and answer the network; this object is done with."""
        for name, weight in self.weights().items():
            self._weights[name].copy_(weight)
        return self.network


def _key(name: str) -> str:
    """As a ParameterDict allows it."""
    return name.replace(".", "/")

"""Ternary layers whose matrices need not be ternary any more: what an expert's are, once singular values are scaled."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from esper.engine.kernels.ternary import quantize_activations, ternary_product
from esper.forge.architectures import build_network
from esper.forge.bitnet.packed_linear import PackedLinear
from esper.forge.bitnet.quantizer import QuantizedLinear, replace_layers, straight_through, ternarize
from esper.forge.bitnet.trits import unpack_trits


class DenseTernaryLinear(nn.Linear):
    """A layer with activations of 8 bits as ternary layers have them; `weight` [O, I] counts in units of `scale` [].

    Where the weight is ternary it computes, bit for bit, what the packed layer does.
    """

    scale: Tensor

    def __init__(self, trits: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__(trits.shape[1], trits.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(trits, requires_grad=False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Args: input [..., I]. Returns: [..., O]."""
        with torch.no_grad():
            q, input_scale = quantize_activations(input)
        product = ternary_product(straight_through(input, q, input_scale), input_scale, self.weight, self.scale)
        return product if self.bias is None else product + self.bias


@torch.no_grad()
def dense_copy(network: Any) -> nn.Module:
    """A copy of a network, ternary (packed, or by its masters) or plain, whose matrices may take any values."""
    dense: Any = build_network(network.architecture())

    def dense_layer(name: str, linear: nn.Linear) -> nn.Module:
        layer = network.get_submodule(name)
        if isinstance(layer, PackedLinear):
            trits = unpack_trits(layer.trits, layer.out_features * layer.in_features).view(linear.weight.shape)
            return DenseTernaryLinear(trits.float(), layer.scale, layer.bias)
        if isinstance(layer, QuantizedLinear):
            return DenseTernaryLinear(*ternarize(layer.weight), layer.bias)
        return copy.deepcopy(layer)

    replace_layers(dense, dense_layer)
    matrices = {f"{name}.weight" for name, module in dense.named_modules() if isinstance(module, nn.Linear)}
    values = dict(network.named_parameters()) | dict(network.named_buffers())
    for name, parameter in dense.named_parameters():
        if name not in matrices:
            parameter.copy_(values[name])
    return dense.requires_grad_(False).eval()

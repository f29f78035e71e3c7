"""Ternary weights and activations of 8 bits in a network that trains (BitNet b1.58: Ma et al. 2024, arXiv 2402.17764).

Master weights stay what the optimizer moves; what a forward pass uses is quantised anew each time, and gradients pass
as if it had not been (straight-through: Bengio et al. 2013, arXiv 1308.3432).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.engine.kernels.ternary import EPS, quantize_activations, ternary_product
from esper.errors import ForgeError

LAYERS = ("layers.", "slots.")  # what is quantised lies below these modules; embedding, head, norms and biases stay


def ternarize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """RoundClip(W / mean|W|, -1, 1) and the mean.

    Args: weight of any shape. Returns: trits of its shape and dtype, and scale []; weight is about trits * scale.
    """
    scale = weight.abs().mean().clamp(min=EPS)
    return (weight / scale).round().clamp(-1, 1), scale


class _StraightThrough(torch.autograd.Function):
    """The quantised values, counted in units of `scale`; gradients go to the master as if it were quantised * scale."""

    @staticmethod
    def forward(ctx: Any, master: Tensor, quantized: Tensor, scale: Tensor | None) -> Tensor:
        ctx.scale = scale
        return quantized

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad if ctx.scale is None else grad / ctx.scale, None, None


def straight_through(master: Tensor, quantized: Tensor, scale: Tensor | None) -> Tensor:
    """`quantized`, counted in units of `scale`, whose gradient goes to the master as if the two were the same."""
    found: Tensor = _StraightThrough.apply(master, quantized, scale)
    return found


class QuantizedLinear(nn.Linear):
    """A linear layer that is ternary in use; `weight` is the master.

    strength: how far between the master's values (0) and the quantised ones (1) a forward pass is. At 1 it multiplies
    whole numbers and is, bit for bit, what the packed layer computes.
    """

    strength = 1.0

    @classmethod
    def around(cls, linear: nn.Linear) -> "QuantizedLinear":
        """One whose master is this layer's weight, the same parameter; a bias stays as it is."""
        layer = cls(linear.in_features, linear.out_features, bias=False, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """Args: input [..., I]. Returns: [..., O]."""
        with torch.no_grad():
            q, input_scale = quantize_activations(input)
            trits, scale = ternarize(self.weight)
        if self.strength == 1.0:
            q = straight_through(input, q, input_scale)
            product = ternary_product(q, input_scale, straight_through(self.weight, trits, scale), scale)
            return product if self.bias is None else product + self.bias
        with torch.no_grad():
            mixed_input = torch.lerp(input, q * input_scale, self.strength)
            mixed_weight = torch.lerp(self.weight, trits * scale, self.strength)
        input = straight_through(input, mixed_input, None)
        return F.linear(input, straight_through(self.weight, mixed_weight, None), self.bias)

    def extra_repr(self) -> str:
        """See `nn.Module.extra_repr`."""
        return f"{super().extra_repr()}, strength={self.strength:g}"


def quantize_layers(network: nn.Module) -> nn.Module:
    """Put a QuantizedLinear in place of every linear layer inside `layers` and `slots`; parameters stay the same ones.

    Raises: ForgeError where there is none.
    """
    names = [name for name, module in network.named_modules() if type(module) is nn.Linear and name.startswith(LAYERS)]
    if not names:
        raise ForgeError(f"bitnet: a {type(network).__name__} has no linear layers inside `layers` to quantise")
    return replace_layers(network, lambda _, layer: QuantizedLinear.around(layer))


def layer_matrices(network: nn.Module) -> dict[str, Tensor]:
    """The matrices [O, I] of all linear layers inside `layers` and `slots`, by their names as parameters.

    Raises: ForgeError where there is none.
    """
    found = {
        f"{name}.weight": module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(LAYERS)
    }
    if not found:
        raise ForgeError(f"forge: a {type(network).__name__} has no linear layers inside `layers`")
    return found


def replace_layers(network: nn.Module, make: Callable[[str, nn.Linear], nn.Module]) -> nn.Module:
    """Put make(name, layer) in place of every plain linear layer inside `layers` and `slots`, in place."""
    for name, module in list(network.named_modules()):
        if type(module) is nn.Linear and name.startswith(LAYERS):
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, make(name, module))
    return network


def quantized_layers(network: nn.Module) -> Iterator[tuple[str, QuantizedLinear]]:
    """The quantised layers of a network, with their names."""
    for name, module in network.named_modules():
        if isinstance(module, QuantizedLinear):
            yield name, module


def set_strength(network: nn.Module, strength: float) -> None:
    """How far all quantised layers are between their masters (0) and their quantised values (1)."""
    for _, layer in quantized_layers(network):
        layer.strength = strength

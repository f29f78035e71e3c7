"""A ternary layer in use: five trits a byte in the file, two bits a weight in the kernel."""

from typing import Any

import torch
from torch import Tensor, nn

from esper.engine.kernels.ternary import TernaryWeight
from esper.forge.bitnet.trits import pack_trits, packed_bytes, unpack_trits


class PackedLinear(nn.Module):
    """A linear layer of ternary weights, for use alone: no gradient passes.

    What it computes is, bit for bit, what the QuantizedLinear does that it was packed from. trits: five a byte
    [ceil(O * I / 5)] uint8; scale: of them all [] float32; bias: [O] float32, where there is one.
    """

    trits: Tensor
    scale: Tensor

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, has_bias: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("trits", torch.zeros(packed_bytes(out_features * in_features), dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("bias", torch.zeros(out_features) if has_bias else None)
        self._weight: TernaryWeight | None = None

    @classmethod
    def of(cls, trits: Tensor, scale: Tensor) -> "PackedLinear":
        """Args: trits [O, I] of -1, 0 and 1; scale []."""
        outputs, inputs = trits.shape
        return cls(inputs, outputs).take(pack_trits(trits), scale)

    def take(self, trits: Tensor, scale: Tensor) -> "PackedLinear":
        """Take over packed trits and their scale. Raises: FormatError where they are none of this layer's."""
        self.trits, self.scale, self._weight = trits, scale, None
        self._laid_out()
        return self

    @property
    def weight(self) -> TernaryWeight:
        """The weight as the kernel takes it."""
        return self._weight or self._laid_out()

    def forward(self, input: Tensor) -> Tensor:
        """Args: input [..., I] float32. Returns: [..., O]."""
        product = self.weight.linear(input)
        return product if self.bias is None else product + self.bias

    def _laid_out(self) -> TernaryWeight:
        trits = unpack_trits(self.trits, self.out_features * self.in_features)
        self._weight = TernaryWeight(trits.view(self.out_features, self.in_features), self.scale.item())
        return self._weight

    def _apply(self, fn: Any, recurse: bool = True) -> "PackedLinear":
        self._weight = None  # it lies where the buffers lay
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._weight = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedLinear":
        copied = PackedLinear(self.in_features, self.out_features).take(self.trits.clone(), self.scale.clone())
        copied.bias = None if self.bias is None else self.bias.clone()
        return copied

    def extra_repr(self) -> str:
        """See `nn.Module.extra_repr`."""
        return f"in_features={self.in_features}, out_features={self.out_features}"

"""Ternary weights times activations of 8 bits (BitNet b1.58: Ma et al. 2024, arXiv 2402.17764).

Activations are quantised token by token, so that what a token becomes depends on no other. `ternary.cpp` does it where
it can be compiled and torch elsewhere. Both sum integers, which float32 holds exactly up to 2^24: results are equal bit
for bit.
"""

import ctypes
import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from esper.engine.kernels import compiler, native
from esper.errors import EngineError

EPS = 1e-5
_LEVELS = 127
_SIDE, _STEPS = 16, 4  # of a block of ternary.cpp: outputs and inputs; inputs are taken four at a time


class Ternary(ctypes.Structure):
    """`struct Ternary` of ternary.cpp."""

    _fields_ = native.struct_fields(
        integers="tokens in_features out_features threads", reals="scale", pointers="x codes out"
    )


class Decode(ctypes.Structure):
    """`struct Decode` of ternary.cpp."""

    _fields_ = native.struct_fields(
        integers="sequences position layers width hidden heads vocabulary capacity window threads",
        reals="eps",
        pointers="tokens embedding head norms codes scales cosines sines keys values logits",
    )


@functools.cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None with the reason why it cannot be had here."""
    try:
        library = compiler.open_library("ternary")
    except EngineError as error:
        return None, str(error)
    if not native.matches(library, (Ternary, Decode), ("ternary_linear", "ternary_decode")):
        return None, "the compiled ternary kernel does not match this version: its arguments differ"
    return library, "native ternary kernel"


def quantize_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Activations in 8 bits, each token by its own largest magnitude.

    Args: x [..., C] float. Returns: q [..., C], whole numbers of -127 to 127 in x's dtype, and scale [..., 1]; x is
    about q * scale. Whatever is no finite number makes its whole token NaN.
    """
    largest = x.abs().amax(-1, keepdim=True).clamp(min=EPS)
    return (x * (largest.reciprocal() * _LEVELS)).round(), largest * (1 / _LEVELS)


def ternary_product(q: Tensor, x_scale: Tensor, trits: Tensor, scale: Tensor | float) -> Tensor:
    """Activations [..., I] in 8 bits times trits [O, I], both whole numbers in a float dtype, times their scales."""
    return F.linear(q, trits) * (x_scale * scale)


class TernaryWeight:
    """A ternary matrix, laid out for whatever multiplies it here.

    Args: trits [O, I] of -1, 0 and 1; scale: what they are multiplied by, a float32 value.
    Raises: EngineError where the trits are no matrix of such numbers, or are so wide that float32 sums would round.
    """

    def __init__(self, trits: Tensor, scale: float) -> None:
        if trits.dim() != 2 or not trits.numel() or trits.abs().max() > 1:
            raise EngineError(f"a ternary weight is [O, I] of -1, 0 and 1, not {trits.dtype} {list(trits.shape)}")
        if trits.shape[1] * _LEVELS >= 1 << 24:
            raise EngineError(f"a ternary weight of {trits.shape[1]:,} inputs: their sums are exact below 132,104")
        self.out_features, self.in_features = trits.shape
        self.scale = scale
        self._dense = trits.float() if load()[0] is None or not trits.is_cpu else None
        self._codes = _lay_out(trits) if self._dense is None else None
        self._arguments = Ternary(in_features=self.in_features, out_features=self.out_features, scale=scale)
        if self._codes is not None:
            self._arguments.codes = self._codes.data_ptr()

    @property
    def address(self) -> int:
        """Where the kernel finds its blocks; they live as long as the weight. Raises: EngineError where it has none."""
        if self._codes is None:
            raise EngineError("a ternary weight off the CPU, or without its kernel, has no blocks")
        return self._codes.data_ptr()

    def linear(self, x: Tensor) -> Tensor:
        """Args: x [..., I] float32. Returns: [..., O]; no gradient passes. Raises: EngineError for another input."""
        if x.dtype is not torch.float32 or not x.dim() or x.shape[-1] != self.in_features:
            expected = f"float32 [..., {self.in_features}]"
            raise EngineError(f"a ternary product: x is {x.dtype} {list(x.shape)}; expected {expected}")
        library, _ = load()
        if self._codes is None or library is None or not x.is_cpu or not x.numel():
            return self._torch_linear(x)
        x = x if x.is_contiguous() else x.contiguous()
        out = x.new_empty(*x.shape[:-1], self.out_features)
        arguments = Ternary.from_buffer_copy(self._arguments)
        arguments.tokens = x.numel() // self.in_features
        arguments.threads = torch.get_num_threads()
        arguments.x, arguments.out = x.data_ptr(), out.data_ptr()
        library.ternary_linear(ctypes.byref(arguments))
        return out

    @torch.no_grad()
    def _torch_linear(self, x: Tensor) -> Tensor:
        trits = _restore(self._codes, self.out_features, self.in_features) if self._dense is None else self._dense
        return ternary_product(*quantize_activations(x), trits.to(x), self.scale)


def _lay_out(trits: Tensor) -> Tensor:
    """Trits [O, I] to blocks [ceil(O / 16), ceil(I / 16), 64] of uint8, as ternary.cpp describes them."""
    outputs, inputs = trits.shape
    codes = F.pad(trits.to(torch.int8), (0, -inputs % _SIDE, 0, -outputs % _SIDE)) + 1
    codes = codes.to(torch.uint8).view(-(-outputs // _SIDE), _SIDE, -(-inputs // _SIDE), _STEPS, 4)
    steps = codes.permute(3, 0, 2, 1, 4)  # [step, blocks of outputs, blocks of inputs, output, input of four]
    packed = steps[0] | steps[1] << 2 | steps[2] << 4 | steps[3] << 6
    return packed.flatten(2).contiguous()


def _restore(codes: Tensor | None, outputs: int, inputs: int) -> Tensor:
    assert codes is not None
    steps = torch.stack([codes >> 2 * step & 3 for step in range(_STEPS)])
    blocks = steps.view(_STEPS, *codes.shape[:2], _SIDE, 4).permute(1, 3, 2, 0, 4)
    whole = blocks.reshape(codes.shape[0] * _SIDE, codes.shape[1] * _SIDE)
    return whole[:outputs, :inputs].float() - 1

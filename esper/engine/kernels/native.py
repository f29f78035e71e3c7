"""The boundary to the compiled kernels: what they are handed is checked here, before its address goes to C++."""

import ctypes
import functools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from esper.engine.kernels import compiler
from esper.errors import EngineError

_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
_KINDS = {"integers": ctypes.c_int64, "reals": ctypes.c_double, "pointers": ctypes.c_void_p}


def struct_fields(**groups: str) -> list[tuple[str, Any]]:
    """The fields of a struct of arguments: names, by the kind that they are of, in order."""
    return [(name, _KINDS[kind]) for kind, names in groups.items() for name in names.split()]


class Block(ctypes.Structure):
    """`struct Block` of kernels.cpp."""

    _fields_ = struct_fields(
        integers="rows in_channels out_channels height width samples kernel depthwise norm relu pool training threads "
        "x_row_stride",
        reals="eps momentum",
        pointers="x weight bias gamma beta running_mean running_var y mean invstd out grad_out grad_x grad_weight "
        "grad_bias grad_gamma grad_beta",
    )


class LayerNorm(ctypes.Structure):
    """`struct LayerNorm` of layer_norm.h."""

    _fields_ = struct_fields(
        integers="rows width samples relu threads",
        reals="eps",
        pointers="x gamma beta kept out grad_out grad_x grad_gamma grad_beta",
    )


class Seed(ctypes.Structure):
    """`struct Seed` of kernels.cpp."""

    _fields_ = struct_fields(
        integers="rows size samples alpha_per_sample threads",
        reals="max_ratio eps",
        pointers="x delta out kept alpha straight_through is_finite grad_out grad_x grad_delta grad_alpha",
    )


_KERNELS: dict[str, type[ctypes.Structure]] = {
    f"{operation}_{way}": structure
    for operation, structure in (("block", Block), ("layer_norm", LayerNorm), ("bound", Seed), ("blend", Seed))
    for way in ("forward", "backward")
}


@functools.cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None with the reason why it cannot be had here."""
    try:
        library = compiler.open_library("kernels")
    except EngineError as error:
        return None, str(error)
    kernels = [f"{kernel}_{suffix}" for kernel in _KERNELS for suffix in _SUFFIX.values()]
    if not matches(library, (Block, LayerNorm, Seed), kernels):
        return None, "the compiled kernels do not match this version: their arguments differ"
    return library, "native kernels"


def matches(library: ctypes.CDLL, structures: Iterable[type[ctypes.Structure]], kernels: Iterable[str]) -> bool:
    """Whether the library has every kernel, and sees the fields of their arguments as they are declared here."""
    try:
        for structure in structures:
            name = structure.__name__.lower()
            fields, bytes_of = getattr(library, f"{name}_fields"), getattr(library, f"{name}_bytes")
            fields.restype, bytes_of.restype = ctypes.c_char_p, ctypes.c_int64
            if fields().decode() != _spelled(structure) or bytes_of() != ctypes.sizeof(structure):
                return False
        return all(hasattr(library, kernel) for kernel in kernels)
    except AttributeError:
        return False


def _spelled(structure: type[ctypes.Structure]) -> str:
    kinds = {kind: name for name, kind in _KINDS.items()}
    return "".join(f"{kinds[field[1]]} {field[0]};" for field in structure._fields_)


def is_supported(x: Tensor) -> bool:
    """Whether the kernels serve this tensor; one without elements is left to torch."""
    return x.is_cpu and x.dtype in _SUFFIX and x.numel() > 0 and load()[0] is not None


class _ForwardOnly:
    """Stands in for autograd's context where nothing will go backward."""

    needs_input_grad: tuple[bool, ...] = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Nothing is kept."""

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Nothing is."""


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`function.apply`; under no_grad without autograd's machinery, which is half the time of a call on a few rows."""
    if torch.is_grad_enabled():
        return function.apply(*arguments)
    return function.forward(_ForwardOnly(), *arguments)


class Call:
    """A kernel with its numbers, to be run on tensors of the shapes that these numbers imply.

    Args:
        kernel: its name, without the precision.
        numbers: the arguments, as yet without addresses.
        shapes: of every tensor that the kernel reads or writes, by the name of its field.
        optional: those of them that may be missing.
    """

    def __init__(
        self,
        kernel: str,
        numbers: ctypes.Structure,
        shapes: Mapping[str, tuple[int, ...]],
        optional: Collection[str] = (),
    ) -> None:
        self.kernel, self.numbers, self.shapes = kernel, numbers, dict(shapes)
        self.required = frozenset(shapes) - frozenset(optional)

    def run(self, dtype: torch.dtype, tensors: Mapping[str, Tensor | None]) -> None:
        """Run in this precision. Addresses are taken here alone, and of nothing that C++ would misread.

        Raises EngineError for a tensor that is missing or not wanted, of another shape or dtype, elsewhere than on the
        CPU, or not contiguous.
        """
        library, reason = load()
        if library is None:
            raise EngineError(f"native kernels: {reason}")
        arguments, shapes, missing = type(self.numbers).from_buffer_copy(self.numbers), self.shapes, len(self.required)
        for name, tensor in tensors.items():
            if tensor is None:
                continue
            if (
                tensor.shape != shapes.get(name)
                or tensor.dtype is not dtype
                or not tensor.is_cpu
                or not tensor.is_contiguous()
                or not (address := tensor.data_ptr())  # its storage was given back
            ):
                raise EngineError(self._refusal(name, tensor, dtype))
            setattr(arguments, name, address)
            missing -= name in self.required
        if missing:
            absent = sorted(name for name in self.required if tensors.get(name) is None)
            raise EngineError(f"{self.kernel}: {', '.join(absent)} missing")
        getattr(library, f"{self.kernel}_{_SUFFIX[dtype]}")(ctypes.byref(arguments))

    def _refusal(self, name: str, tensor: Tensor, dtype: torch.dtype) -> str:
        if name not in self.shapes:
            return f"{self.kernel}: {name} is given, but such a block has none"
        found = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
        if not tensor.is_cpu or tensor.is_contiguous():
            found += "" if not tensor.is_cpu or tensor.data_ptr() else ", its memory given back"
        else:
            found += f" with strides {list(tensor.stride())}"
        expected = f"contiguous {dtype} {list(self.shapes[name])} on cpu"
        return f"{self.kernel}: {name} is {found}; expected {expected}"

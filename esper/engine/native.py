"""Compiles `kernels.cpp` for this processor at first use, keeps the library in the user's cache, and loads it."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from esper.errors import EngineError

_SOURCE = Path(__file__).with_name("kernels.cpp")
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fno-math-errno", "-fno-trapping-math")


def _fields(**groups: str) -> list[tuple[str, Any]]:
    types = {"integers": ctypes.c_int64, "reals": ctypes.c_double, "pointers": ctypes.c_void_p}
    return [(name, types[kind]) for kind, names in groups.items() for name in names.split()]


class Block(ctypes.Structure):
    """`struct Block` of kernels.cpp, in its order."""

    _fields_ = _fields(
        integers="rows in_channels out_channels height width samples kernel depthwise norm relu pool training threads "
        "x_row_stride",
        reals="eps momentum",
        pointers="x weight bias gamma beta running_mean running_var y mean invstd out grad_out grad_x grad_weight "
        "grad_bias grad_gamma grad_beta",
    )


class Seed(ctypes.Structure):
    """`struct Seed` of kernels.cpp, in its order."""

    _fields_ = _fields(
        integers="rows size samples alpha_per_sample threads",
        reals="max_ratio eps",
        pointers="x delta out kept alpha through ok grad_out grad_x grad_delta grad_alpha",
    )


@functools.cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None with the reason why it cannot be had here."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        return None, "no C++ compiler (g++ or clang++) found"
    path = _cache_dir() / f"kernels-{_fingerprint(compiler)}.so"
    if not path.exists():
        try:
            _compile(compiler, path)
        except (OSError, subprocess.CalledProcessError) as error:
            detail = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            return None, f"{compiler} could not compile the kernels: {detail[0] if detail else error}"
    try:
        return ctypes.CDLL(str(path)), "native kernels"
    except OSError as error:
        return None, f"the compiled kernels could not be loaded: {error}"


def applies(x: Tensor) -> bool:
    """Whether the kernels serve this tensor."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and load()[0] is not None


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


def point(arguments: ctypes.Structure, **tensors: Tensor | None) -> None:
    """Set pointer fields; the caller keeps the (contiguous) tensors alive during the call."""
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(arguments, name, tensor.data_ptr())


def call(function: str, arguments: ctypes.Structure, dtype: torch.dtype) -> None:
    """Run the kernel of this precision."""
    library, reason = load()
    if library is None:
        raise EngineError(f"native kernels: {reason}")
    getattr(library, f"{function}_{'f32' if dtype is torch.float32 else 'f64'}")(ctypes.byref(arguments))


def _cache_dir() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(root) if root else Path.home() / ".cache") / "esper"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"esper-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _fingerprint(compiler: str) -> str:
    """A home folder may serve several machines: source, compiler and processor all name the file."""
    try:
        cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    key = "\0".join([_SOURCE.read_text(), compiler, *_FLAGS, platform.platform(), cpu])
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _compile(compiler: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        obj, library = f"{folder}/kernels.o", f"{folder}/kernels.so"
        command = [compiler, *_FLAGS, "-c", str(_SOURCE), "-o", obj]
        # Linked without -fopenmp: the symbols then come from the OpenMP runtime that torch has already loaded, and
        # both share one pool of threads.
        openmp = ["-fopenmp"] if platform.system() == "Linux" and "clang" not in compiler else []
        subprocess.run([*command, *openmp], check=True, capture_output=True, text=True)
        shared = ["-shared"] if platform.system() == "Linux" else ["-dynamiclib", "-undefined", "dynamic_lookup"]
        subprocess.run([compiler, *shared, obj, "-o", library], check=True, capture_output=True, text=True)
        os.replace(library, path)

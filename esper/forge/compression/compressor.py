"""Compressor: one network's tensors at any number of bytes; each tensor is encoded once by each codec."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from esper.forge.compression.allocation import FAMILIES, GENTLEST, Candidate, allocate, candidates_for
from esper.forge.compression.codec import Statistics, encode
from esper.forge.compression.config import PlainConfig
from esper.forge.compression.container import pack
from esper.forge.phase import nothing

FILE_OVERHEAD_BYTES = 128  # of a safetensors file with one tensor
_ATTEMPTS = 4


class Compressor:
    """See the module.

    Args:
        tensors: all of a network's, float32 by name, tied ones once.
        statistics: what errors in each matrix cost.
        progress: gets (done, total, what is being done).
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        statistics: Mapping[str, Statistics],
        progress: Callable[[int, int, str], None] = nothing,
    ) -> None:
        self._matrices = {name: tensor for name, tensor in tensors.items() if tensor.ndim == 2}
        self._rest = {n: encode(t, "plain", PlainConfig()) for n, t in tensors.items() if n not in self._matrices}
        self._statistics, self._progress = statistics, progress
        self._found: dict[str, dict[str, list[Candidate]]] = {}

    def at(self, num_bytes: int, families: Sequence[str]) -> Tensor:
        """All tensors as `container.pack` packs them, [bytes] uint8, for a file no larger than so many bytes.

        Raises: CompressionError where these codecs need more.
        """
        candidates = {name: [c for f in families for c in self._candidates(f)[name]] for name in self._matrices}
        limit = num_bytes - FILE_OVERHEAD_BYTES
        budget = limit - len(pack(self._rest)) - 24 * len(self._matrices)  # of the directory, about
        best = torch.empty(0, dtype=torch.uint8)
        attempts = 0
        while not len(best) or attempts < _ATTEMPTS:  # sizes of candidates are estimates; the file's is what counts
            attempts += 1
            chosen = {name: candidate.encoded for name, candidate in allocate(candidates, budget).items()}
            packed = pack(chosen | self._rest)
            room = limit - len(packed)
            if room >= 0 and len(packed) > len(best):
                best = packed
            if 0 <= room <= limit // 500:
                break
            budget += room if room > 0 else 2 * room - 16
        return best

    def gentlest(self) -> Tensor:
        """As `at`, with all matrices at eight bits: what is left where nothing smaller does."""
        return pack({n: encode(t, *GENTLEST, self._statistics.get(n)) for n, t in self._matrices.items()} | self._rest)

    def _candidates(self, family: str) -> dict[str, list[Candidate]]:
        if family not in self._found:
            found = {}
            for number, (name, tensor) in enumerate(self._matrices.items()):
                self._progress(number, len(self._matrices), f"encoding by {family}")
                statistics = self._statistics.get(name) or Statistics.flat(tensor)
                found[name] = candidates_for(tensor, statistics, FAMILIES[family])
            self._found[family] = found
        return self._found[family]


def compress_packed(tensors: Mapping[str, Tensor], format: str) -> Tensor:
    """The tensors of a bundle that is packed already, [bytes] uint8: float matrices at eight bits, all else exactly."""
    encoded = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.ndim == 2:
            encoded[name] = encode(tensor, *GENTLEST)
        else:
            dtype = "float32" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
            encoded[name] = encode(tensor, "plain", PlainConfig(dtype=dtype))
    return pack(encoded, format)

"""Codec: what turns one tensor into few bytes and back; looked up by name, so that a file never chooses code."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from esper.errors import CheckpointError, ConfigError, first_line
from esper.forge.compression.config import CODECS, CodecConfig
from esper.forge.compression.feedback import Factors, factorize
from esper.forge.compression.symbols import Symbols

Payload = Mapping[str, Tensor | Symbols]

MOST_ELEMENTS = 1 << 31  # of a tensor that a file may ask for


@dataclass(frozen=True, slots=True)
class Statistics:
    """How much the loss minds an error in one weight matrix [O, I]: a Kronecker-factored Fisher matrix.

    An error E costs about ½ Σ_o rows[o] · E[o] inputs E[o]ᵀ nats a token (K-FAC: Martens & Grosse 2015).

    Args:
        inputs: second moments of what the matrix is multiplied with, [I, I] float32.
        rows: mean squared gradients of the loss with respect to its outputs, [O] float32.
    """

    inputs: Tensor
    rows: Tensor
    _factors: dict[int, Factors] = field(default_factory=dict, repr=False, compare=False)

    def factors(self, dim: int = 1) -> Factors:
        """Of `inputs` by blocks of `dim`, padded with zeros to whole ones; computed once."""
        if dim not in self._factors:
            padding = -len(self.inputs) % dim
            self._factors[dim] = factorize(torch.nn.functional.pad(self.inputs, (0, padding, 0, padding)), dim)
        return self._factors[dim]

    @classmethod
    def flat(cls, weight: Tensor) -> "Statistics":
        """Where nothing was measured: all errors count alike."""
        return cls(torch.eye(weight.shape[1]), torch.ones(weight.shape[0]))

    def loss_increase(self, error: Tensor) -> float:
        """What an error [O, I] costs, in nats a token."""
        return 0.5 * float(((error @ self.inputs) * error).sum(1).double() @ self.rows.double())


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tensor as a codec wrote it: plain values; symbols, and one-dimensional tensors of float16 or float32."""

    codec: str
    config: dict[str, Any]
    shape: tuple[int, ...]
    payload: dict[str, Tensor | Symbols] = field(repr=False)

    @property
    def num_bytes(self) -> int:
        """Of the payload alone, once it is packed; within a few."""
        return sum(part.num_bytes if isinstance(part, Symbols) else part.nbytes for part in self.payload.values())


class Codec(Protocol):
    """Built of its configuration by `CODECS.build(config, name=...)`."""

    def encode(self, weight: Tensor, statistics: Statistics) -> dict[str, Tensor | Symbols]:
        """The payload of a weight matrix [O, I] float32."""
        ...

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> Tensor:
        """The float32 tensor, bit for bit the same in every process; arithmetic is element by element, in fixed order.

        Raises: CheckpointError where the payload is not one that `encode` makes.
        """
        ...


def encode(weight: Tensor, codec: str, config: CodecConfig, statistics: Statistics | None = None) -> Encoded:
    """A tensor by one codec.

    Args:
        weight: [O, I] for all codecs but "plain", which takes any shape, and bytes too.
        statistics: what errors cost; None: all alike.
    """
    weight = weight.detach().contiguous().cpu()
    weight = weight if weight.dtype in (torch.int8, torch.uint8) else weight.float()
    if statistics is None and weight.ndim == 2:
        statistics = Statistics.flat(weight)
    payload = CODECS.build(config, name=codec).encode(weight, statistics)  # type: ignore[arg-type]
    return Encoded(codec, asdict(config), tuple(weight.shape), payload)


def decode(encoded: Encoded) -> Tensor:
    """The tensor that was encoded, float32. Raises CheckpointError in a line where the payload is malformed."""
    try:
        if encoded.codec not in CODECS:
            raise CheckpointError(f"there is no codec {encoded.codec!r}")
        if math.prod(encoded.shape) > MOST_ELEMENTS:
            raise CheckpointError(f"a tensor of shape {list(encoded.shape)} is more than is read")
        codec = CODECS.build(CODECS[encoded.codec](**encoded.config), name=encoded.codec)
        return codec.decode(encoded.payload, encoded.shape)
    except (ConfigError, TypeError) as error:  # values that the codec's configuration refuses
        raise CheckpointError(f"codec {encoded.codec!r}: {first_line(error)}") from None


def float_values(payload: Payload, key: str, dtype: torch.dtype, count: int) -> Tensor:
    """One part of a payload, as float32: so many finite numbers of this dtype."""
    found = payload.get(key)
    if not isinstance(found, Tensor) or found.dtype != dtype or found.shape != (count,) or not found.isfinite().all():
        raise CheckpointError(f"its part {key!r} is missing or malformed; expected {count} finite numbers of {dtype}")
    return found.float()


def symbol_values(payload: Payload, key: str, count: int, levels: int) -> Tensor:
    """One part of a payload: so many symbols below `levels`, [count] uint8."""
    found = payload.get(key)
    if not isinstance(found, Symbols) or found.levels > levels or found.values.shape != (count,):
        raise CheckpointError(f"its part {key!r} is missing or malformed; expected {count} symbols below {levels}")
    return found.values


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns. Raises CheckpointError where it is no matrix."""
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError(f"a tensor of shape {list(shape)} is no matrix")
    return shape[0], shape[1]

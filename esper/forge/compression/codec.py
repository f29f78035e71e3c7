"""Codec: what turns one tensor into few bytes and back; looked up by name, so that a file never chooses code."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from esper.errors import CheckpointError, ConfigError, first_line
from esper.forge.compression.config import CODECS, CodecConfig

MOST_ELEMENTS = 1 << 31  # of a tensor that a file may ask for


@dataclass(frozen=True, slots=True)
class Statistics:
    """How much the loss minds an error in one weight matrix [O, I]: a Kronecker-factored Fisher matrix.

    An error E costs about ½ Σ_o rows[o] · E[o] inputs E[o]ᵀ nats a token (Martens & Grosse 2015, diagonal over outputs).

    Args:
        inputs: second moments of what the matrix is multiplied with, [I, I] float32.
        rows: mean squared gradients of the loss with respect to its outputs, [O] float32.
    """

    inputs: Tensor
    rows: Tensor

    @classmethod
    def flat(cls, weight: Tensor) -> "Statistics":
        """Where nothing was measured: all errors count alike."""
        return cls(torch.eye(weight.shape[1]), torch.ones(weight.shape[0]))

    def loss_increase(self, error: Tensor) -> float:
        """What an error [O, I] costs, in nats a token."""
        return 0.5 * float(((error @ self.inputs) * error).sum(1).double() @ self.rows.double())


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tensor as a codec wrote it: plain values, and one-dimensional tensors of uint8, float16 or float32."""

    codec: str
    config: dict[str, Any]
    shape: tuple[int, ...]
    payload: dict[str, Tensor] = field(repr=False)

    @property
    def num_bytes(self) -> int:
        """Of the payload alone."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.payload.values())


class Codec(Protocol):
    """Built of its configuration by `CODECS.build(config, name=...)`."""

    def encode(self, weight: Tensor, statistics: Statistics) -> dict[str, Tensor]:
        """The payload of a weight matrix [O, I] float32."""
        ...

    def decode(self, payload: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """The float32 tensor, bit for bit the same in every process; arithmetic is element by element, in fixed order.

        Raises: CheckpointError where the payload is not one that `encode` makes.
        """
        ...


def encode(weight: Tensor, codec: str, config: CodecConfig, statistics: Statistics | None = None) -> Encoded:
    """A tensor by one codec.

    Args:
        weight: [O, I] for all codecs but "plain", which takes any shape.
        statistics: what errors cost; None: all alike.
    """
    weight = weight.detach().float().contiguous().cpu()
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


def part(payload: Mapping[str, Tensor], key: str, dtype: torch.dtype, count: int | None = None) -> Tensor:
    """One tensor of a payload, with the dtype and number of elements that it must have."""
    found = payload.get(key)
    if found is None or found.dtype != dtype or found.ndim != 1 or (count is not None and found.numel() != count):
        size = "" if count is None else f"{count} "
        raise CheckpointError(f"its part {key!r} is missing or malformed; expected {size}values of {dtype}")
    if dtype.is_floating_point and not bool(found.isfinite().all()):
        raise CheckpointError(f"its part {key!r} holds values that are not finite")
    return found


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns. Raises CheckpointError where it is no matrix."""
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError(f"a tensor of shape {list(shape)} is no matrix")
    return shape[0], shape[1]

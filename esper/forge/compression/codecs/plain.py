"""Plain: values as they are; for norms, for bytes that are packed already, and for whatever must not be touched."""

import math

import numpy as np
import torch
from torch import Tensor

from esper.errors import CheckpointError
from esper.forge.compression.codec import Payload, Statistics, symbol_values
from esper.forge.compression.config import CODECS, PlainConfig
from esper.forge.compression.symbols import Symbols


@CODECS.register("plain", PlainConfig)
class PlainCodec:
    """Bytes of equal weight lie together, since those of exponents repeat."""

    def __init__(self, config: PlainConfig) -> None:
        self.dtype = np.dtype(config.dtype).newbyteorder("<")

    def encode(self, weight: Tensor, statistics: Statistics) -> dict[str, Tensor | Symbols]:
        """float16 where it reaches; what is beyond its largest number becomes that."""
        info = np.finfo if self.dtype.kind == "f" else np.iinfo
        values = weight.numpy().ravel().clip(info(self.dtype).min, info(self.dtype).max).astype(self.dtype)
        planes = values.view(np.uint8).reshape(-1, self.dtype.itemsize).T
        return {"bytes": Symbols(torch.from_numpy(planes.ravel().copy()), 256)}

    def decode(self, payload: Payload, shape: tuple[int, ...]) -> Tensor:
        count = math.prod(shape)
        planes = symbol_values(payload, "bytes", count * self.dtype.itemsize, 256).numpy()
        values = planes.reshape(self.dtype.itemsize, count).T.copy().view(self.dtype)
        if not np.isfinite(values).all():
            raise CheckpointError("a tensor holds values that are not finite")
        return torch.from_numpy(values.astype(np.float32 if self.dtype.kind == "f" else self.dtype)).view(shape)

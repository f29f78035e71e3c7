"""Plain: values as they are, in a float dtype; for norms, and for whatever must not be touched."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from esper.errors import CheckpointError
from esper.forge.compression.codec import Statistics, part
from esper.forge.compression.config import CODECS, PlainConfig
from esper.forge.compression.symbols import pack_symbols, unpack_symbols


@CODECS.register("plain", PlainConfig)
class PlainCodec:
    """Bytes of equal weight lie together, since those of exponents repeat."""

    def __init__(self, config: PlainConfig) -> None:
        self.dtype = np.dtype(config.dtype)

    def encode(self, weight: Tensor, statistics: Statistics) -> dict[str, Tensor]:
        """float16 where it reaches; what is beyond its largest number becomes that."""
        limit = np.finfo(self.dtype).max
        values = weight.numpy().ravel().clip(-limit, limit).astype(self.dtype.newbyteorder("<"))
        planes = values.view(np.uint8).reshape(-1, self.dtype.itemsize).T
        return {"bytes": pack_symbols(torch.from_numpy(planes.ravel().copy()), 256)}

    def decode(self, payload: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        count = int(np.prod(shape, dtype=np.int64))
        planes = unpack_symbols(part(payload, "bytes", torch.uint8), count * self.dtype.itemsize, 256).numpy()
        values = planes.reshape(self.dtype.itemsize, count).T.copy().view(self.dtype.newbyteorder("<"))
        if not np.isfinite(values).all():
            raise CheckpointError("a tensor holds values that are not finite")
        return torch.from_numpy(values.astype(np.float32)).view(shape)

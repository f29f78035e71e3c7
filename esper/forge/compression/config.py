"""Settings of the compression phase and of its codecs; free of torch, as the configuration is."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.checks import in_range, one_of, positive, require, whole
from esper.registry import Registry

if TYPE_CHECKING:
    from esper.forge.compression.codec import Codec

PLAIN_DTYPES = ("float16", "float32", "int8", "uint8")


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """What a decoder has to know of a codec, as plain values in the file; what only an encoder needs is a constant."""


@dataclass(frozen=True, kw_only=True)
class PlainConfig(CodecConfig):
    """dtype: what values are kept as."""

    dtype: str = "float16"

    def __post_init__(self) -> None:
        one_of("plain.dtype", self.dtype, PLAIN_DTYPES)


@dataclass(frozen=True, kw_only=True)
class GroupConfig(CodecConfig):
    """bits: of a weight. group_size: weights that share a scale. clip: search for the scale that loses least; else the
    largest weight of a group decides it (round to nearest)."""

    bits: int = 4
    group_size: int = 64
    clip: bool = True

    def __post_init__(self) -> None:
        whole("group.bits", self.bits, 2)
        in_range("group.bits", self.bits, 2, 8)
        whole("group.group_size", self.group_size, 1)
        require(isinstance(self.clip, bool), "group.clip", self.clip, "true or false")


@dataclass(frozen=True, kw_only=True)
class GridConfig(CodecConfig):
    """bits: what a weight takes after entropy coding, about."""

    bits: float = 4.0

    def __post_init__(self) -> None:
        in_range("grid.bits", self.bits, 0.5, 7)


@dataclass(frozen=True, kw_only=True)
class VectorConfig(CodecConfig):
    """dim: weights of a row that one index stands for. entries: of the codebook."""

    dim: int = 2
    entries: int = 64

    def __post_init__(self) -> None:
        whole("vector.dim", self.dim, 1)
        whole("vector.entries", self.entries, 2)
        in_range("vector.dim", self.dim, 1, 16)
        in_range("vector.entries", self.entries, 2, 256)


@dataclass(frozen=True, kw_only=True)
class SeedConfig(CodecConfig):
    """block: weights that a seed stands for. rank: pseudo-random vectors that span them. seed_bits: length of the
    register; the search goes through all of its states."""

    block: int = 8
    rank: int = 3
    seed_bits: int = 12

    def __post_init__(self) -> None:
        whole("seedlm.block", self.block, 2)
        whole("seedlm.rank", self.rank, 1)
        whole("seedlm.seed_bits", self.seed_bits, 8)
        in_range("seedlm.block", self.block, 2, 64)
        in_range("seedlm.rank", self.rank, 1, self.block)
        in_range("seedlm.seed_bits", self.seed_bits, 8, 16)


@dataclass(frozen=True, kw_only=True)
class HyperConfig(CodecConfig):
    """dim: weights that one point stands for. points: of the trajectory that are looked at."""

    dim: int = 2
    points: int = 64

    def __post_init__(self) -> None:
        whole("hyper.dim", self.dim, 1)
        whole("hyper.points", self.points, 2)
        in_range("hyper.dim", self.dim, 1, 8)
        in_range("hyper.points", self.points, 2, 256)


@dataclass(frozen=True, kw_only=True)
class TernaryConfig(CodecConfig):
    """Nothing to set: one scale a tensor, and three values."""


CODECS: "Registry[CodecConfig, Codec]" = Registry("codec")
CODECS.declare("plain", PlainConfig, "esper.forge.compression.codecs.plain:PlainCodec")
CODECS.declare("group", GroupConfig, "esper.forge.compression.codecs.group:GroupCodec")
CODECS.declare("grid", GridConfig, "esper.forge.compression.codecs.grid:GridCodec")
CODECS.declare("vector", VectorConfig, "esper.forge.compression.codecs.vector:VectorCodec")
CODECS.declare("seedlm", SeedConfig, "esper.forge.compression.codecs.seedlm:SeedCodec")
CODECS.declare("hyper", HyperConfig, "esper.forge.compression.codecs.hyper:HyperCodec")
CODECS.declare("ternary", TernaryConfig, "esper.forge.compression.codecs.ternary:TernaryCodec")


COMPRESSING = ("grid", "group", "vector", "seedlm", "hyper", "ternary")  # whole matrices, at several rates


@dataclass(kw_only=True)
class CompressionConfig:
    """Two files are made of a plain model, a gentle and a tight one, and one of a ternary model.

    *_ratio: fp32 bytes over bytes on disk. *_score: what it must keep, exp(-ΔNLL) in nats a token. codecs: that a
    tensor's is chosen from. calibration_windows: of the validation text, which sensitivities are measured on.
    score_timeout_s: for a fresh process that scores a file.
    """

    gentle_ratio: float
    gentle_score: float
    tight_ratio: float
    tight_score: float
    ternary_ratio: float
    ternary_score: float
    codecs: list[str]
    calibration_windows: int
    score_timeout_s: float

    def __post_init__(self) -> None:
        for key in ("gentle", "tight", "ternary"):
            in_range(f"compression.{key}_ratio", getattr(self, f"{key}_ratio"), 1, 1000)
            in_range(f"compression.{key}_score", getattr(self, f"{key}_score"), 0, 1)
        require(bool(self.codecs), "compression.codecs", self.codecs, f"some of {', '.join(COMPRESSING)}")
        for codec in self.codecs:
            one_of("compression.codecs", codec, COMPRESSING)
        whole("compression.calibration_windows", self.calibration_windows, 1)
        positive("compression.score_timeout_s", self.score_timeout_s)

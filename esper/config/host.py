"""Group `host`: the network that grows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from esper.checks import in_range, one_of, require, spelled
from esper.config.checks import distinct
from esper.errors import ConfigError
from esper.factories import check_factory
from esper.leyline.positions import resolve_slots
from esper.leyline.topologies import TOPOLOGIES
from esper.registry import Registry

if TYPE_CHECKING:
    from esper.kasmina.host import Host


@dataclass(kw_only=True)
class HostConfig:
    """What every host has.

    `inputs`: the kinds of data it takes (see `BaseTaskConfig.inputs`); none: whatever there is. `topology`: of the
    features at its slots, which says what can be planted there; empty where that is not known beforehand.
    """

    inputs: ClassVar[tuple[str, ...]] = ()
    topology: ClassVar[str] = ""

    name: str

    def positions_by_depth(self) -> list[str]:
        """Where slots can be, in the order in which the data meets them; none where only the host itself says that."""
        return []

    def check_slots(self, names: Sequence[str]) -> None:
        """Raise ConfigError unless the host has these positions, and one for each."""
        if positions := self.positions_by_depth():
            resolve_slots(names, positions, "slots.names")

    def check_image(self, side_pixels: int | None) -> None:
        """Raise ConfigError where images of so many pixels a side come to nothing; None: the task has no images."""


@dataclass(kw_only=True)
class CNNHostConfig(HostConfig):
    """Blocks of 3x3 convolution, batch norm, ReLU and (all but the last) pooling; then a linear head."""

    inputs: ClassVar[tuple[str, ...]] = ("images",)
    topology: ClassVar[str] = "cnn"

    channels: list[int]

    def __post_init__(self) -> None:
        require(self.name == "cnn", "host.name", self.name, "cnn (the option host=... chooses the host)")
        require(1 <= len(self.channels) <= 8, "host.channels", self.channels, "1 to 8 blocks, such as [4,8,8]")
        for index, width in enumerate(self.channels):
            in_range(f"host.channels[{index}]", width, 1, 4096)

    def positions_by_depth(self) -> list[str]:
        """One behind every block."""
        return blocks(len(self.channels))

    def check_image(self, side_pixels: int | None) -> None:
        """Every block but the last halves the image."""
        if side_pixels is not None and side_pixels >> (len(self.channels) - 1) == 0:
            most = side_pixels.bit_length()
            raise ConfigError(
                f"host.channels={spelled(self.channels)}: {len(self.channels)} blocks pool images of {side_pixels}x"
                f"{side_pixels} pixels to nothing\n  expected at most {most} blocks, or larger images"
            )


@dataclass(kw_only=True)
class TransformerHostConfig(HostConfig):
    """A decoder of so many layers; the task says how long its sequences are and how many tokens there are."""

    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    topology: ClassVar[str] = "transformer"

    n_embd: int
    n_head: int
    n_layer: int

    def __post_init__(self) -> None:
        require(
            self.name == "transformer", "host.name", self.name, "transformer (the option host=... chooses the host)"
        )
        in_range("host.n_embd", self.n_embd, 1, 16_384)
        in_range("host.n_head", self.n_head, 1, 1024)
        in_range("host.n_layer", self.n_layer, 1, 256)
        fits = self.n_embd % self.n_head == 0
        require(fits, "host.n_head", self.n_head, f"a divisor of host.n_embd, {self.n_embd}")

    def positions_by_depth(self) -> list[str]:
        """One behind every layer."""
        return blocks(self.n_layer)


@dataclass(kw_only=True)
class DecoderHostConfig(HostConfig):
    """The decoder of the forge: rotary positions, RMSNorm, SwiGLU, a tied head; the task says the rest."""

    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    topology: ClassVar[str] = "transformer"

    n_embd: int
    n_head: int
    n_layer: int
    window: int | None

    def __post_init__(self) -> None:
        require(self.name == "decoder", "host.name", self.name, "decoder (the option host=... chooses the host)")
        in_range("host.n_embd", self.n_embd, 2, 16_384)
        in_range("host.n_head", self.n_head, 1, 1024)
        in_range("host.n_layer", self.n_layer, 1, 256)
        fits = self.n_embd % (2 * self.n_head) == 0
        require(fits, "host.n_head", self.n_head, f"what divides host.n_embd, {self.n_embd}, into even parts")
        if self.window is not None:
            in_range("host.window", self.window, 1, 65_536)

    def positions_by_depth(self) -> list[str]:
        """One behind every layer."""
        return blocks(self.n_layer)


@dataclass(kw_only=True)
class MLPHostConfig(HostConfig):
    """Blocks of linear layer, layer norm and ReLU; then a linear head. What is no vector is laid out as one."""

    inputs: ClassVar[tuple[str, ...]] = ("vectors", "images", "sequences")
    topology: ClassVar[str] = "mlp"

    widths: list[int]

    def __post_init__(self) -> None:
        require(self.name == "mlp", "host.name", self.name, "mlp (the option host=... chooses the host)")
        require(1 <= len(self.widths) <= 256, "host.widths", self.widths, "1 to 256 blocks, such as [32,32,32]")
        for index, width in enumerate(self.widths):
            in_range(f"host.widths[{index}]", width, 1, 65_536)

    def positions_by_depth(self) -> list[str]:
        """One behind every block."""
        return blocks(len(self.widths))


@dataclass(kw_only=True)
class ResNetHostConfig(HostConfig):
    """Three stages of residual blocks, as for CIFAR-10; depth 6n + 2."""

    inputs: ClassVar[tuple[str, ...]] = ("images",)
    topology: ClassVar[str] = "cnn"

    depth: int
    width: int

    def __post_init__(self) -> None:
        require(self.name == "resnet", "host.name", self.name, "resnet (the option host=... chooses the host)")
        fits = 8 <= self.depth <= 1202 and self.depth % 6 == 2
        require(fits, "host.depth", self.depth, "6n + 2 layers, such as 8, 14 or 20")
        in_range("host.width", self.width, 1, 4096)

    def positions_by_depth(self) -> list[str]:
        """One behind every stage."""
        return ["stage1", "stage2", "stage3"]


@dataclass(kw_only=True)
class ViTHostConfig(HostConfig):
    """A transformer over patches of an image; the task says how large that is."""

    inputs: ClassVar[tuple[str, ...]] = ("images",)
    topology: ClassVar[str] = "transformer"

    patch: int
    n_embd: int
    n_head: int
    n_layer: int

    def __post_init__(self) -> None:
        require(self.name == "vit", "host.name", self.name, "vit (the option host=... chooses the host)")
        in_range("host.patch", self.patch, 1, 1024)
        in_range("host.n_embd", self.n_embd, 1, 16_384)
        in_range("host.n_head", self.n_head, 1, 1024)
        in_range("host.n_layer", self.n_layer, 1, 256)
        fits = self.n_embd % self.n_head == 0
        require(fits, "host.n_head", self.n_head, f"a divisor of host.n_embd, {self.n_embd}")

    def positions_by_depth(self) -> list[str]:
        """One behind every layer."""
        return blocks(self.n_layer)

    def check_image(self, side_pixels: int | None) -> None:
        """Patches fill the image."""
        if side_pixels is not None and side_pixels % self.patch:
            fitting = [patch for patch in range(1, side_pixels + 1) if side_pixels % patch == 0]
            raise ConfigError(
                f"host.patch={self.patch}: does not divide images of {side_pixels}x{side_pixels} pixels\n"
                f"  expected one of {', '.join(map(str, fitting))}"
            )


@dataclass(kw_only=True)
class CustomHostConfig(HostConfig):
    """A network of the user's own; what kind of data and of seeds it takes shows when it is tried."""

    factory: str
    positions: list[str]
    features: str | None

    def __post_init__(self) -> None:
        require(self.name == "custom", "host.name", self.name, "custom (the option host=... chooses the host)")
        check_factory("host.factory", self.factory)
        require(bool(self.positions), "host.positions", self.positions, "at least one, such as [layer1,layer2]")
        distinct("host.positions", self.positions)
        if self.features is not None:
            one_of("host.features", self.features, tuple(TOPOLOGIES))

    def check_slots(self, names: Sequence[str]) -> None:
        """Which of them is met first shows when the network is tried: only whether they are there is known."""
        for name in names:
            resolve_slots([name], [path.replace(".", "_") for path in self.positions], "slots.names")


def blocks(count: int) -> list[str]:
    """Positions behind blocks that follow each other."""
    return [f"block{number}" for number in range(1, count + 1)]


HOSTS: "Registry[HostConfig, Host]" = Registry("host")
HOSTS.declare("cnn", CNNHostConfig)
HOSTS.declare("custom", CustomHostConfig)
HOSTS.declare("decoder", DecoderHostConfig)
HOSTS.declare("transformer", TransformerHostConfig)
HOSTS.declare("mlp", MLPHostConfig)
HOSTS.declare("resnet", ResNetHostConfig)
HOSTS.declare("vit", ViTHostConfig)

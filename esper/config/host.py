"""Group `host`: the network that grows."""

import re
from dataclasses import dataclass
from typing import ClassVar

from esper.config.checks import distinct, in_range, one_of, require


@dataclass(kw_only=True)
class HostSchema:
    """What every host has; `topology` is the kind of task it takes, empty where that is not known beforehand."""

    topology: ClassVar[str]

    name: str


@dataclass(kw_only=True)
class CNNHostSchema(HostSchema):
    """Blocks of 3x3 convolution, batch norm, ReLU and (all but the last) pooling; then a linear head."""

    topology: ClassVar[str] = "cnn"

    channels: list[int]

    def __post_init__(self) -> None:
        require(self.name == "cnn", "host.name", self.name, "cnn (the option host=... chooses the host)")
        require(1 <= len(self.channels) <= 8, "host.channels", self.channels, "1 to 8 blocks, such as [4,8,8]")
        for index, width in enumerate(self.channels):
            in_range(f"host.channels[{index}]", width, 1, 4096)


@dataclass(kw_only=True)
class TransformerHostSchema(HostSchema):
    """A decoder of so many layers; the task says how long its sequences are and how many tokens there are."""

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


@dataclass(kw_only=True)
class CustomHostSchema(HostSchema):
    """A network of the user's own; what kind of seeds it takes shows when it is tried."""

    topology: ClassVar[str] = ""

    factory: str
    positions: list[str]
    features: str | None

    def __post_init__(self) -> None:
        require(self.name == "custom", "host.name", self.name, "custom (the option host=... chooses the host)")
        named = re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.factory) is not None
        require(named, "host.factory", self.factory, "package.module:function")
        require(bool(self.positions), "host.positions", self.positions, "at least one, such as [layer1,layer2]")
        distinct("host.positions", self.positions)
        if self.features is not None:
            one_of("host.features", self.features, ("cnn", "transformer"))


HOSTS: dict[str, type[HostSchema]] = {
    "cnn": CNNHostSchema,
    "custom": CustomHostSchema,
    "transformer": TransformerHostSchema,
}

"""Group `host`: the network that grows."""

from dataclasses import dataclass

from esper.config.checks import in_range, require


@dataclass(kw_only=True)
class HostSchema:
    """What every host has."""

    name: str


@dataclass(kw_only=True)
class CNNHostSchema(HostSchema):
    """Blocks of 3x3 convolution, batch norm, ReLU and (all but the last) pooling; then a linear head."""

    channels: list[int]

    def __post_init__(self) -> None:
        require(self.name == "cnn", "host.name", self.name, "cnn (the option host=... chooses the host)")
        require(1 <= len(self.channels) <= 8, "host.channels", self.channels, "1 to 8 blocks, such as [4,8,8]")
        for index, width in enumerate(self.channels):
            in_range(f"host.channels[{index}]", width, 1, 4096)

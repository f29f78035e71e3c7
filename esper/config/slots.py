"""Group `slots`: where seeds may be planted, and how long the phases of their life last."""

from dataclasses import dataclass

from esper.checks import in_range, positive
from esper.config.checks import distinct


@dataclass(kw_only=True)
class SlotsConfig:
    """Whether the host has these positions is checked when the host is built."""

    names: list[str]
    blending_epochs: int
    cull_epochs: int
    embargo_epochs: int
    isolate_gradients: bool
    max_ratio: float

    def __post_init__(self) -> None:
        distinct("slots.names", self.names)
        in_range("slots.blending_epochs", self.blending_epochs, 1, 10_000)
        in_range("slots.cull_epochs", self.cull_epochs, 1, 10_000)
        in_range("slots.embargo_epochs", self.embargo_epochs, 1, 10_000)
        positive("slots.max_ratio", self.max_ratio)

"""Group `engine`: how many hosts train at once, on what, and what is done when one goes wrong."""

from dataclasses import dataclass

from esper.checks import in_range, one_of, require
from esper.config.checks import all_required
from esper.errors import ConfigError
from esper.leyline.governor import GovernorConfig


@all_required
class RunGovernorConfig(GovernorConfig):
    """When a member counts as gone wrong, and how often it may be put back; checked."""

    def __post_init__(self) -> None:
        in_range("engine.governor.snapshot_every_epochs", self.snapshot_every_epochs, 1, 10_000)
        require(self.explode_factor > 1, "engine.governor.explode_factor", self.explode_factor, "more than 1")
        in_range("engine.governor.collapse_points", self.collapse_points, 1, 100)
        in_range("engine.governor.max_rollbacks", self.max_rollbacks, 1, 1000)


@dataclass(kw_only=True)
class EngineConfig:
    """The population and the machine it trains on."""

    kind: str
    members: int
    device: str
    threads: int | None
    memory_format: str
    precision: str
    governor: RunGovernorConfig

    def __post_init__(self) -> None:
        one_of("engine.kind", self.kind, ("auto", "fused", "sequential"))
        in_range("engine.members", self.members, 1, 4096)
        one_of("engine.device", self.device, ("auto", "cpu", "cuda"))
        if self.threads is not None:
            in_range("engine.threads", self.threads, 1, 1024)
        one_of("engine.memory_format", self.memory_format, ("auto", "contiguous", "channels_last"))
        one_of("engine.precision", self.precision, ("float32", "float64", "bf16"))
        if self.precision == "bf16" and self.device == "cpu":
            raise ConfigError("engine.precision=bf16: slower than float32 on a CPU; use engine.device=cuda or float32")

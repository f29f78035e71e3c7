"""Group `telemetry`: what a run writes and shows while it goes."""

import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

from esper.checks import one_of, require
from esper.errors import ConfigError
from esper.registry import Registry

if TYPE_CHECKING:
    from esper.leyline import Sink


@dataclass(kw_only=True)
class WandbConfig:
    """Where Weights & Biases files a run, and what it gets beside the curves."""

    enabled: bool
    project: str
    entity: str | None
    checkpoints: bool

    def __post_init__(self) -> None:
        for key, name in (("project", self.project), ("entity", self.entity)):
            plain = name is None or re.fullmatch(r"[^/\\#?%:\s]{1,128}", name) is not None
            require(
                plain, f"telemetry.wandb.{key}", name, "1 to 128 characters, none of them a space or one of /\\#?%:"
            )


@dataclass(kw_only=True)
class SinkConfig:
    """What every output of a user's own has beside its own keys (esper.sink). enabled: whether it is open."""

    enabled: bool = False


def own_sinks() -> dict[str, SinkConfig]:
    """The settings of all outputs of users' own that are registered, as they are by default."""
    return {name: part.config() for name, part in SINKS.parts.items() if part.is_own}


@dataclass(kw_only=True)
class TelemetryConfig:
    """Which outputs are open. sinks: those of users' own, by name."""

    jsonl: bool
    console: str
    report: bool
    tensorboard: bool
    wandb: WandbConfig
    sinks: dict[str, SinkConfig] = field(default_factory=own_sinks)

    def __post_init__(self) -> None:
        made_of_lines = {
            "telemetry.report": self.report,
            "telemetry.tensorboard": self.tensorboard,
            "telemetry.wandb.enabled": self.wandb.enabled,
        }
        for key, is_asked in made_of_lines.items():
            if is_asked and not self.jsonl:
                raise ConfigError(f"{key}=true: it is made of the JSON lines; use telemetry.jsonl=true")
        one_of("telemetry.console", self.console, ("auto", "live", "plain", "off"))


# Each builder says by itself whether its output is asked for: None where it is not.
SINKS: "Registry[TelemetryConfig, Sink | None]" = Registry("sink")
SINKS.declare("jsonl", TelemetryConfig)
SINKS.declare("console", TelemetryConfig)
SINKS.declare("tensorboard", TelemetryConfig)
SINKS.declare("wandb", TelemetryConfig)


def require_packages(telemetry: TelemetryConfig) -> None:
    """Raise ConfigError where what a dashboard needs is not installed; nothing is imported."""
    for name, is_asked in (("wandb", telemetry.wandb.enabled), ("tensorboard", telemetry.tensorboard)):
        package = find_spec(name) if is_asked else None
        # A folder of that name, such as an old ./wandb, passes for a package without an origin.
        if is_asked and (package is None or package.origin is None):
            raise ConfigError(f"telemetry={name}: the package {name} is not installed\n  pip install 'esper[{name}]'")

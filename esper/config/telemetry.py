"""Group `telemetry`: what a run writes and shows while it goes."""

from dataclasses import dataclass

from esper.config.checks import one_of
from esper.errors import ConfigError


@dataclass(kw_only=True)
class TelemetrySchema:
    """Which outputs are open."""

    jsonl: bool
    console: str
    report: bool

    def __post_init__(self) -> None:
        if self.report and not self.jsonl:
            raise ConfigError("telemetry.report=true: the report is made of the JSON lines; use telemetry.jsonl=true")
        one_of("telemetry.console", self.console, ("auto", "live", "plain", "off"))

"""The outputs of a run, opened as its configuration asks."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.config.composing import to_plain
from esper.config.root import RunConfig
from esper.config.telemetry import SINKS, TelemetryConfig
from esper.files import read_jsonl
from esper.files.records import LEARNING_FILE, METRICS_FILE, RETURN_UNIT
from esper.leyline import Sink
from esper.nissa import JsonlSink, RunTitle, console_sink
from esper.nissa.hub import FAILURES, reason
from esper.printing import logger

if TYPE_CHECKING:
    from esper.runner.directory import RunDirectory

LOCAL = ("jsonl", "console")  # of what is no dashboard, in the order in which they are told
log = logger("esper.nissa")


def open_sinks(config: RunConfig, folder: "RunDirectory", owns_terminal: bool = True) -> list[Sink]:
    """The sinks of the run in this folder, which has been started; its JSON lines are cut back to where it goes on.

    A dashboard that cannot be opened is warned of and left out.

    Args:
        owns_terminal: whether the run has the terminal.

    Raises:
        OSError: the JSON lines cannot be written.
    """
    policy = folder.record["options"].get("policy", config.policy.name)
    host = getattr(config.host, "factory", config.host.name)
    unit = folder.record.get(RETURN_UNIT, "")
    title = RunTitle(config.name, policy, host, config.epochs, folder.record["max_updates"], unit)
    # Before the terminal's view, which what they say while they open would tear.
    dashboards = open_dashboards(config.telemetry, folder, policy, to_plain(config))
    console = SINKS.build(config.telemetry, "console", title=title, owns_terminal=owns_terminal)
    sinks = [SINKS.build(config.telemetry, "jsonl", folder=folder), console, *dashboards]
    return [sink for sink in sinks if sink is not None]


def open_dashboards(
    telemetry: TelemetryConfig, folder: "RunDirectory", policy: str, config: dict[str, Any]
) -> list[Sink]:
    """The dashboards that are asked for. policy: what the run is filed under; config: its plain values."""

    def build(name: str) -> Sink | None:
        if not SINKS.parts[name].is_own:
            return SINKS.build(telemetry, name, folder=folder, policy=policy, config=config)
        settings = telemetry.sinks[name]
        return SINKS.builder(name)(settings, folder.path) if settings.enabled else None

    opened = [_dashboard(name, partial(build, name), folder.path) for name in SINKS if name not in LOCAL]
    return [sink for sink in opened if sink is not None]


@SINKS.register("jsonl", TelemetryConfig)
def build_jsonl(telemetry: TelemetryConfig, folder: "RunDirectory") -> Sink | None:
    """One line an epoch, update and event in the run's folder."""
    return JsonlSink(folder.path) if telemetry.jsonl else None


@SINKS.register("console", TelemetryConfig)
def build_console(telemetry: TelemetryConfig, title: RunTitle, owns_terminal: bool) -> Sink | None:
    """The view on the terminal."""
    return console_sink(title, telemetry.console if owns_terminal else "off")


@SINKS.register("tensorboard", TelemetryConfig)
def build_tensorboard(telemetry: TelemetryConfig, folder: "RunDirectory") -> Sink | None:
    """Curves for TensorBoard, in the run's folder."""
    if not telemetry.tensorboard:
        return None
    from esper.nissa.sinks.tensorboard_sink import TensorBoardSink

    return TensorBoardSink(folder.path)


@SINKS.register("wandb", TelemetryConfig)
def build_wandb(telemetry: TelemetryConfig, folder: "RunDirectory", policy: str, config: dict[str, Any]) -> Sink | None:
    """A run at Weights & Biases."""
    if not telemetry.wandb.enabled:
        return None
    from esper.nissa.sinks.wandb_sink import WandbSink

    return WandbSink(
        folder.path,
        record=folder.record,
        config=config,
        policy=policy,
        project=telemetry.wandb.project,
        entity=telemetry.wandb.entity,
        checkpoints=telemetry.wandb.checkpoints,
    )


def _dashboard(name: str, opener: Callable[[], Sink | None], run_dir: Path) -> Sink | None:
    """Open a dashboard and tell it what a resumed run has lived through; None, and a warning, where that fails."""
    sink = None
    try:
        sink = opener()
        if sink is None:
            return None
        for file, tell in ((LEARNING_FILE, sink.update), (METRICS_FILE, sink.epoch)):
            if (run_dir / file).exists():
                for line in read_jsonl(run_dir / file):
                    if line.record is not None:
                        tell(line.record)
    except FAILURES as error:
        log.warning("telemetry=%s could not be opened (%s); the run goes on.", name, reason(error))
        if sink is not None:
            with suppress(*FAILURES):
                sink.close("failed")
        return None
    return sink

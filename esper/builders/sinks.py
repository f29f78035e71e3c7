"""The outputs of a run, opened as its configuration asks."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from esper.config.composing import to_plain
from esper.config.root import RunSchema
from esper.files import read_jsonl
from esper.files.records import LEARNING_FILE, METRICS_FILE
from esper.leyline import Sink
from esper.nissa import JsonlSink, RunTitle, console_sink
from esper.nissa.hub import reason
from esper.printing import logger

if TYPE_CHECKING:
    from esper.runner.directory import RunDirectory

log = logger("esper.nissa")


def open_sinks(config: RunSchema, folder: "RunDirectory", owns_terminal: bool = True) -> list[Sink]:
    """The sinks of the run in this folder, which has been started; its JSON lines are cut back to where it goes on.

    A dashboard that cannot be opened is warned of and left out.

    Args:
        owns_terminal: whether the run has the terminal.

    Raises:
        OSError: the JSON lines cannot be written.
    """
    telemetry = config.telemetry
    policy = folder.record["options"].get("policy", config.policy.name)
    host = getattr(config.host, "factory", config.host.name)
    title = RunTitle(config.name, policy, host, config.epochs, folder.record["max_updates"])

    def open_tensorboard() -> Sink:
        from esper.nissa.sinks.tensorboard_sink import TensorBoardSink

        return TensorBoardSink(folder.path)

    def open_wandb() -> Sink:
        from esper.nissa.sinks.wandb_sink import WandbSink

        return WandbSink(
            folder.path,
            record=folder.record,
            config=to_plain(config),
            policy=policy,
            project=telemetry.wandb.project,
            entity=telemetry.wandb.entity,
            checkpoints=telemetry.wandb.checkpoints,
        )

    asked = {open_tensorboard: telemetry.tensorboard, open_wandb: telemetry.wandb.enabled}
    # Before the terminal's view, which what they say while they open would tear.
    dashboards = [_dashboard(opener, folder.path) for opener, is_asked in asked.items() if is_asked]
    sinks = [
        JsonlSink(folder.path) if telemetry.jsonl else None,
        console_sink(title, telemetry.console if owns_terminal else "off"),
        *dashboards,
    ]
    return [sink for sink in sinks if sink is not None]


def _dashboard(opener: Callable[[], Sink], run_dir: Path) -> Sink | None:
    """Open a dashboard and tell it what a resumed run has lived through; None, and a warning, where that fails."""
    sink = None
    try:
        sink = opener()
        for name, tell in ((LEARNING_FILE, sink.update), (METRICS_FILE, sink.epoch)):
            if (run_dir / name).exists():
                for line in read_jsonl(run_dir / name):
                    if line.record is not None:
                        tell(line.record)
    except Exception as error:
        name = opener.__name__.removeprefix("open_")
        log.warning("telemetry=%s could not be opened (%s); the run goes on.", name, reason(error))
        if sink is not None:
            with suppress(Exception):
                sink.close("failed")
        return None
    return sink

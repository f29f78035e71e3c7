"""Forge runs by their folders: start, go on, run one phase, and say how they ended."""

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.override_parser.types import Quote, QuotedString

from esper.builders.sinks import open_dashboards
from esper.config.telemetry import require_packages
from esper.errors import EsperError, ExitCode, of_machine
from esper.forge.composing import compose, read_config, to_plain
from esper.forge.config import ForgeConfig
from esper.forge.log import ForgeLog
from esper.forge.phase import PHASES, Interrupted, PhaseContext, PhaseResult
from esper.forge.pipeline import Pipeline
from esper.forge.progress import Progress
from esper.forge.records import POLICY, PhaseRecord, input_folder, read_phases
from esper.forge.report import write_report
from esper.printing import error_text, say, say_text, say_traceback
from esper.runner.directory import RunDirectory, write_config
from esper.runner.stop import StopRequest


def start(config: ForgeConfig, path: Path, overrides: Sequence[str] = (), sweep: str | None = None) -> int:
    """A new run in its folder. Returns the exit code; raises EsperError on bad input, and leaves no folder then."""
    config.check_input()
    require_packages(config.telemetry)
    options = {"task": config.corpus.name, "host": "decoder", "policy": POLICY}
    plain = to_plain(config)
    with RunDirectory.create(path, plain, list(overrides), options, sweep, max_epochs=len(config.way)) as folder:
        return _go(folder, config, is_new=True)


def resume(path: Path, overrides: Sequence[str] = ()) -> int:
    """Go on with the run in this folder; a phase that is done stays, unless an override concerns it."""
    config = read_config(path / "config.yaml", overrides)
    with RunDirectory.reopen(path) as folder:
        if overrides:
            write_config(path, to_plain(config))
        return _go(folder, config, is_new=False)


def run_phase(name: str, input: str | Path | None, output: str | Path, overrides: Sequence[str] = ()) -> PhaseResult:
    """One phase, from Python: reads `input`, writes `output`.

    Args:
        name: of the phase. input: folder of a forge run or of a phase, or a bundle; None for cognate.
        overrides: as on the command line of python -m esper.forge, such as size=nano.

    Raises: EsperError on bad input; a gate that fails is no error: `success` is then False.
    """
    given = [] if input is None else [f"input={QuotedString(str(input), Quote.single).with_quotes()}"]
    config = compose([*overrides, f"phase={name}", *given])
    torch.set_num_threads(config.threads or torch.get_num_threads())
    phase = PHASES.build(getattr(config, name), name, context=make_context(config))
    source = None if input is None else input_folder(Path(input), before=name)
    phase.check(source)
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise of_machine(error) from error
    return phase.run(source, Path(output))


def make_context(config: ForgeConfig) -> PhaseContext:
    """What a phase is handed, told to nobody."""
    return PhaseContext(
        seed=config.seed,
        model=config.model,
        tokenizer_name=config.tokenizer,
        corpus_config=config.corpus,
        controls=config.controls,
        threads=torch.get_num_threads(),
    )


def _go(folder: RunDirectory, config: ForgeConfig, is_new: bool) -> int:
    """Bring the run to whatever end, and let run.json say which; the exit code."""
    torch.set_num_threads(config.threads or torch.get_num_threads())
    progress = Progress(config.way, config.telemetry.console)
    with StopRequest(part="step") as stop:
        try:
            failed = _run(folder, config, progress, stop)
        except (Interrupted, KeyboardInterrupt) as request:
            folder.interrupt()
            say("interrupted; to continue:", f"  python -m esper.forge resume={folder.path}")
            return 128 + (stop.signal or getattr(request, "signal", 0) or signal.SIGINT)
        except EsperError as error:
            if is_new and not read_phases(folder.path):
                folder.discard()
            else:
                folder.fail(error_text(error))
            raise
        except Exception as error:
            folder.fail(error_text(error))
            if isinstance(error, OSError):
                say_text(f"error: {error_text(error)}\n  to continue: python -m esper.forge resume={folder.path}", True)
            else:
                say_traceback(error)
            return ExitCode.FAILED
    if failed is not None:
        say_text(f"error: {failed.phase} failed: {failed.result.error if failed.result else ''}", is_error=True)
        return ExitCode.FAILED
    return ExitCode.DONE


def _run(folder: RunDirectory, config: ForgeConfig, progress: Progress, stop: StopRequest) -> PhaseRecord | None:
    log: ForgeLog | None = None

    def begin(name: str, is_resumed: bool) -> None:
        nonlocal log
        if log is None:
            log = ForgeLog(folder.path, open_dashboards(config.telemetry, folder, POLICY, to_plain(config)))
            folder.start(max_epochs=len(config.way))
        if not is_resumed:
            log.begin_anew(name)
        progress.begin(name)

    def context(name: str) -> PhaseContext:
        def write(step: int, **metrics: float) -> None:
            assert log is not None  # a phase that logs has begun
            log.write(name, step, **metrics)
            folder.beat(len(done))

        return replace(make_context(config), log=write, progress=progress, should_stop=lambda: bool(stop))

    done: list[PhaseRecord] = []
    status = "failed"
    try:
        failed = Pipeline(config, folder.path, context, begin, progress.note).run(done.append)
        summary = _summary(done, folder.record["wall_s"])
        if failed is None:
            folder.update(epoch=len(done))
            folder.finish(summary)
            status = "finished"
        else:
            folder.fail(f"{failed.phase}: {failed.result.error if failed.result else ''}", summary=summary)
        if config.telemetry.report:
            report = write_report(folder.path)
            if config.telemetry.console != "off":
                say(f"report: {report}")
        return failed
    except (Interrupted, KeyboardInterrupt):
        status = "interrupted"
        raise
    finally:
        if log is not None:
            log.hub.close(status)


def _summary(done: Sequence[PhaseRecord], wall_s: float) -> dict[str, Any]:
    """What run.json, `esper runs` and dashboards tell of the run: its last sound model."""
    sound = [record.continuity for record in done if record.continuity and record.status == "finished"]
    last = sound[-1] if sound else {}
    figures = {"test_bits_per_byte": last.get("bits_per_byte"), "test_accuracy": last.get("top1")}
    grown = {name: [value] for name, value in figures.items() if value is not None}
    return {"grown": grown, "twin": None, "difference": None, "seeds": {}, "wall_s": wall_s}

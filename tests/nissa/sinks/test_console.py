import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from esper.leyline import Sink, TelemetryEvent, TelemetryEventType
from esper.nissa import RunTitle, console_sink
from esper.nissa.record_view import Clock
from esper.nissa.sinks.console import PlainConsole
from esper.nissa.sinks.live import LiveConsole

TITLE = RunTitle("digits", "heuristic", "cnn", max_epochs=25)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def play(sink: Sink, run_dir: Path) -> None:
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for event in events:
            if event["epoch"] == record["epoch"]:
                sink.event(revive(event))
        sink.epoch(record)
    sink.close("finished")


def revive(event: dict[str, Any]) -> TelemetryEvent:
    kind = TelemetryEventType(event["type"])
    return TelemetryEvent(
        kind, event["epoch"], event["member"], event["slot"], event["seed"], event["message"], event["data"]
    )


def live(run_dir: Path, width: int = 100) -> str:
    """The last picture that a live view leaves on the terminal."""
    out = io.StringIO()
    play(LiveConsole(TITLE, out, Console(file=out, force_terminal=True, width=width, height=50)), run_dir)
    plain = Console(file=io.StringIO(), width=width)
    text = plain.render_str("")  # strip the terminal's codes
    text = type(text).from_ansi(out.getvalue().split("\x1b[2K")[-1])
    return text.plain


def test_the_mode_follows_the_stream() -> None:
    assert console_sink(TITLE, "off") is None
    assert isinstance(console_sink(TITLE, "auto", io.StringIO()), PlainConsole)
    assert isinstance(console_sink(TITLE, "plain", Terminal()), PlainConsole)
    sink = console_sink(TITLE, "auto", Terminal())
    assert isinstance(sink, LiveConsole)
    sink.close("finished")


def test_plain_is_one_line_an_epoch_and_one_a_rollback(make_run: Callable[..., Path]) -> None:
    out = io.StringIO()
    play(PlainConsole(TITLE, out), make_run())
    title, *lines, end = out.getvalue().splitlines()
    assert title == "digits · policy heuristic · host cnn"
    epochs = [line for line in lines if line.startswith("epoch ") and "/25" in line]
    assert len(epochs) == 26 and len(lines) == 27
    (rollback,) = set(lines) - set(epochs)
    assert rollback == "epoch 9  member 2  rolled back to epoch 5: training loss is not finite"
    assert all(part in epochs[12] for part in ("grown", "twin", "difference +", "training", "samples/s", "left"))
    assert "0:00 left" in epochs[-1]
    assert end.startswith("run finished after 1:")
    assert "\x1b" not in out.getvalue()


def test_plain_without_twins_or_finite_accuracy(make_run: Callable[..., Path]) -> None:
    out = io.StringIO()
    sink = PlainConsole(TITLE, out)
    sink.epoch({"epoch": 1, "wall_s": 1.0, "members": [{"member": 0, "val_accuracy": None, "slots": {}}]})
    play(sink, make_run(members=1, twins=False, rollback=None))
    assert "twin" not in out.getvalue() and "difference" not in out.getvalue()


def test_live_shows_a_row_a_member_and_what_each_slot_does(make_run: Callable[..., Path]) -> None:
    picture = live(make_run(members=3))
    assert "esper digits · policy heuristic · host cnn" in picture
    assert "25/25" in picture and "samples/s" in picture and "finished" in picture
    assert "member" in picture and "twin %" in picture and " F " in picture
    assert "fossilised" in picture, "the letters are explained"
    assert "epoch 25" in picture or "epoch 24" in picture, "the latest events are shown"


def test_live_shows_many_members_as_strips(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=20)
    picture = live(run_dir)
    last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    fossils = sum(row["slots"]["early"]["stage"] == "FOSSILIZED" for row in last["members"][:20])
    (strip,) = [line.split()[1] for line in picture.splitlines() if line.strip().startswith("early ")]
    assert len(strip) == 20 and strip.count("F") == fossils
    assert "of 20 members beat their twin" in picture and "parameters" in picture


def test_live_fits_a_narrow_terminal(make_run: Callable[..., Path]) -> None:
    assert max(len(line) for line in live(make_run(members=8), width=60).splitlines()) <= 60


def test_live_gives_the_cursor_back() -> None:
    out = Terminal()
    sink = LiveConsole(TITLE, out, Console(file=out, force_terminal=True))
    sink.close("failed")
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


def test_live_passes_diagnoses_on() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=140, height=40)
    sink = LiveConsole(TITLE, out, console)
    slot = {"stage": "TRAINING", "seed": "s1", "blueprint": "norm", "gradient_norm": 50.0, "alpha": 0.0}
    for epoch in range(1, 5):
        row = {"member": 0, "val_accuracy": 10.0, "parameter_count": 5, "slots": {"early": slot}}
        sink.epoch({"epoch": epoch, "wall_s": 1.0, "members": [row]})
    sink.close("finished")
    assert "pegged for 4 epochs" in out.getvalue()


def test_time_left_comes_from_the_latest_epochs() -> None:
    clock = Clock()
    clock.tick({"wall_s": 100.0}, 0, 20)
    assert clock.left_s is None
    for epoch, wall_s in enumerate([50.0, 2.0, 2.0, 2.0, 2.0, 2.0], start=1):
        clock.tick({"wall_s": wall_s}, epoch, 20)
    assert clock.left_s == pytest.approx(2.0 * 14)
    assert clock.spent_s == pytest.approx(160.0)

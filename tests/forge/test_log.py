"""What phases log, and what they tell the terminal."""

import json

import pytest

from esper.forge.log import ForgeLog
from esper.forge.progress import Progress


def lines(folder):
    return [json.loads(line) for line in (folder / "learning.jsonl").read_text().splitlines()]


def told(folder):
    """(step, the figures of a line), without what every line has."""
    return [(line["step"], {name: line[name] for name in line if "/" in name}) for line in lines(folder)]


def test_figures_are_named_after_their_phase_and_lines_are_numbered_through(tmp_path):
    log = ForgeLog(tmp_path)
    log.write("cognate", 20, trunk_loss=2.5, trunk_gradient_norm=1.0)
    log.write("bitnet", 10, loss=1.5)
    assert told(tmp_path) == [
        (20, {"cognate/trunk_loss": 2.5, "cognate/trunk_gradient_norm": 1.0}),
        (10, {"bitnet/loss": 1.5}),
    ]
    assert [line["update"] for line in lines(tmp_path)] == [1, 2]


def test_what_is_no_number_is_left_out(tmp_path):
    log = ForgeLog(tmp_path)
    log.write("bitnet", 1, loss=float("nan"), perplexity=3.0)
    log.write("bitnet", 2, loss=float("inf"))
    assert told(tmp_path) == [(1, {"bitnet/perplexity": 3.0})]


def test_steps_that_are_lived_through_again_are_not_logged_again(tmp_path):
    log = ForgeLog(tmp_path)
    for step in (10, 20, 30):
        log.write("bitnet", step, loss=step / 10)
    log.hub.close("interrupted")
    log = ForgeLog(tmp_path)  # from a checkpoint at step 10
    for step in (20, 30, 40):
        log.write("bitnet", step, loss=step / 10)
    log.write("bitnet", 30, perplexity=9.0)  # figures of another name have steps of their own
    assert [step for step, _ in told(tmp_path)] == [10, 20, 30, 40, 30]
    assert [line["update"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_phase_that_is_run_anew_logs_from_its_first_step(tmp_path):
    log = ForgeLog(tmp_path)
    log.write("cognate", 10, loss=1.0)
    log.write("bitnet", 10, loss=1.0)
    log.begin_anew("bitnet")
    log.write("cognate", 10, loss=2.0)
    log.write("bitnet", 10, loss=3.0)
    assert told(tmp_path)[2:] == [(10, {"bitnet/loss": 3.0})]


def test_half_a_line_of_a_kill_is_cut_off(tmp_path):
    log = ForgeLog(tmp_path)
    log.write("bitnet", 10, loss=1.0)
    log.hub.close("interrupted")
    with (tmp_path / "learning.jsonl").open("a") as file:
        file.write('{"schema": 1, "update": 2, "st')
    ForgeLog(tmp_path).write("bitnet", 20, loss=2.0)
    assert told(tmp_path) == [(10, {"bitnet/loss": 1.0}), (20, {"bitnet/loss": 2.0})]
    assert [line["update"] for line in lines(tmp_path)] == [1, 2]


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr("esper.forge.progress.LINE_EVERY_S", 0.0)


def test_progress_says_which_phase_how_far_and_how_long(at_once, capsys):
    progress = Progress(["cognate", "bitnet"], "plain")
    progress.begin("bitnet")
    for done in range(0, 30, 10):
        progress(done, 20, "fine-tuning")
    progress.note("the control won")
    said = capsys.readouterr().out.splitlines()
    assert said == ["2 of 2: bitnet", "  fine-tuning 10/20  0:00 left", "  fine-tuning 20/20", "  the control won"]


def test_lines_come_every_few_seconds_and_at_the_end_of_a_part(capsys):
    progress = Progress(["bitnet"], "plain")
    for done in range(100):
        progress(done, 100, "fine-tuning")
    progress(100, 100, "fine-tuning")
    progress(0, 5, "measuring")
    assert capsys.readouterr().out.splitlines() == ["  fine-tuning 100/100"]


def test_a_console_that_is_off_is_told_nothing(at_once, capsys):
    progress = Progress(["bitnet"], "off")
    progress.begin("bitnet")
    progress.note("the control won")
    progress(0, 2, "measuring")
    progress(2, 2, "measuring")
    assert capsys.readouterr().out == ""

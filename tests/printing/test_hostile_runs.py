"""What a run's files hold reaches no terminal unspelled, whatever shows it."""

import io
import json
import re
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress

import pytest

from esper.cli import main
from esper.leyline import TelemetryEvent, TelemetryEventType
from esper.nissa import RunTitle, console_sink, print_summary
from esper.sweep import FAILED, FINISHED, JobFile
from esper.sweep.terminal import Job, Terminal, Watch, show_end, show_jobs
from tests.printing.test_lines import HOSTILE
from tests.study.run_folders import make_run

ALL = "".join(HOSTILE).replace("\x00", "").replace("\udce9", "")
OWN = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")  # colours and cursor movements of rich, on a terminal
NAME = ALL.replace("/", "")


class Screen(io.StringIO):
    """A terminal, or a pipe."""

    def __init__(self, is_terminal):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal

    def __enter__(self):
        """Be standard output and error."""
        self.stack = ExitStack()
        self.stack.enter_context(redirect_stdout(self))
        self.stack.enter_context(redirect_stderr(self))
        return self

    def __exit__(self, *error):
        self.stack.close()


@pytest.fixture(params=[False, True], ids=["pipe", "terminal"])
def screen(request, monkeypatch):
    """Standard output and error in one, inside `with`."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "400")
    return Screen(request.param)


def check(screen):
    """Something was shown, and nothing of it steers a terminal. Returns it without colours."""
    shown = screen.getvalue()
    plain = OWN.sub("", shown) if screen.is_terminal else shown
    assert plain.strip()
    steering = {letter for letter in plain if not (letter.isprintable() or letter in "\n\t")}
    assert not steering - ({"\r"} if screen.is_terminal else set())
    if screen.is_terminal:  # and of what looks like rich's own, none is ours
        assert not re.search(r"\x1b\[2J|\x1b\]|\x1b\[31mtxt", shown)
    return plain


def event(kind, **data):
    return {"schema": 1, "type": kind, "epoch": 1, "member": 0, "slot": ALL, "seed": ALL, "message": ALL, "data": data}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Runs whose every text is hostile."""
    monkeypatch.chdir(tmp_path)
    texts = {"name": ALL, "host": ALL, "error": ALL, "sweep": ALL, "overrides": [f"name={ALL}"]}
    options = {"task": ALL, "host": ALL, "policy": ALL}
    config = {"policy": {"name": ALL}, "optimizer": {"learning_rate": ALL}, "extra": {ALL: ALL}}
    for number, status in enumerate(("finished", "failed", "interrupted", "running", ALL)):
        folder = make_run(tmp_path / f"outputs/a/{number}", status=status, seed=number, options=options, **texts)
        (folder / "events.jsonl").write_text(
            json.dumps(event("germinated", blueprint=ALL, reason=ALL)) + "\n"
            + json.dumps(event("culled", blueprint=ALL, reason=ALL)) + "\n"
            + json.dumps(event("governor_rollback", reason=ALL, to_epoch=0)) + "\n"
        )  # fmt: skip
    make_run(tmp_path / "outputs/b/0", config=config)
    make_run(tmp_path / NAME, status="failed")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ["runs"],
        ["runs", "--columns", "policy", "error", "optimizer.learning_rate", "name", "overrides"],
        ["runs", "--json"],
        ["runs", "--filter", f"status={ALL}"],
        ["runs", "--sort", ALL],
        ["compare", "outputs/a/0", "outputs/b/0", NAME],
        ["compare", ALL],
        ["report", "outputs/a/0", NAME],
        ["report", ALL],
        ["clean"],
        ["clean", NAME],
        ["clean", ALL],
        ["evaluate", ALL],
        ["evaluate", "outputs/a/0", "--suite", ALL],
        ["analyze", ALL],
        ["resume", ALL],
        ["resume", "outputs/a/1"],
        ["audit", f"{ALL}.pt"],
        ["convert", f"{ALL}.pt", "new"],
        [ALL],
        ["runs", f"--{ALL}"],
        ["clean", "--yes", NAME],
    ],
    ids=lambda command: " ".join(command).encode("unicode_escape").decode()[:40],
)
def test_commands(command, runs, screen):
    with screen, suppress(SystemExit):
        main(command)
    assert "Traceback" not in check(screen)


def test_json_gives_back_what_was_there(runs, screen):
    with screen:
        assert main(["runs", "--json", "--filter", "status=failed"]) == 0
    (row,) = json.loads(screen.getvalue())
    assert row["error"] == ALL


@pytest.mark.parametrize("mode", ["plain", "live"])
def test_the_view_of_a_run(mode, runs, screen):
    sink = console_sink(RunTitle(ALL, ALL, ALL, max_epochs=3), mode, screen)
    for kind in TelemetryEventType:
        data = dict.fromkeys(("reason", "blueprint", "to", "gate", "to_epoch"), ALL)
        sink.event(TelemetryEvent(kind, 1, 0, ALL, ALL, ALL, data))
    slots = {ALL: {"stage": "TRAINING", "blueprint": ALL, "alpha": 0.5}, "other": {"stage": ALL, "blueprint": ALL}}
    for count in (1, 12):
        rows = [{"member": member, "val_accuracy": 1.0, "slots": slots} for member in range(count)]
        sink.epoch({"epoch": 1, "wall_s": 1.0, "members": rows})
    sink.close(ALL)
    check(screen)


def test_the_summary_of_a_run(runs, screen):
    summary = json.loads((runs / "outputs/a/0/run.json").read_text())["summary"]
    with screen:
        print_summary(summary, runs / "outputs/a/0", f"{ALL}.html")
    check(screen)


def test_tables_and_lines_of_a_sweep(tmp_path, screen):
    with screen:
        terminal = Terminal()
    jobs = [Job(JobFile(tmp_path / f"{number}{NAME}"), [ALL], [f"name={ALL}"]) for number in range(3)]
    with Watch(terminal, jobs, lambda _: None):
        for job, status in zip(jobs, (FINISHED, FAILED), strict=False):
            job.file.begin([ALL])
            job.file.end(status, {ALL: ALL, "score": 1.0}, error=ALL)
    statuses = [FINISHED, FAILED, ALL]
    show_jobs(terminal, jobs, statuses)
    show_end(terminal, jobs, statuses)
    terminal.close()
    check(screen)

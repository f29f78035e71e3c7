"""Whatever becomes of the console, a run ends as it would have, and so does every command."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT, lines
from tests.study.run_folders import make_run

RUN = (
    *("debug=smoke", "policy=static", "telemetry.report=false"),
    *("engine.kind=sequential", "engine.threads=1", "engine.memory_format=contiguous"),
)
ASCII = {"PYTHONIOENCODING": "ascii"}
C_LOCALE = {"LC_ALL": "C", "LANG": "C"}
BARE_C_LOCALE = C_LOCALE | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # paths come as lone surrogates

# What the shell does with the outputs, further environment, further arguments.
CONSOLES = {
    "no stdout": (">&-", {}, ()),
    "no stderr": ("2>&-", {}, ()),
    "nothing at all": ("<&- >&- 2>&-", {}, ()),
    "full stdout": (">/dev/full", {}, ()),
    "full both, live": (">/dev/full 2>&1", {}, ("telemetry.console=live",)),
    "nobody reads": ("| true", {}, ()),
    "ascii": ("", ASCII, ("telemetry.console=live",)),
    "C locale, a path that is not ASCII": ("", C_LOCALE, ('hydra.run.dir="é/ü"',)),
    "C locale without UTF-8": ("", BARE_C_LOCALE, ('hydra.run.dir="é/ü"', "telemetry.report=true")),
    "no stdout, ascii": (">&-", ASCII, ()),
}


def shell(folder, module, arguments, redirection="", environment=None):
    """A command in a shell: exit code, output, errors."""
    words = " ".join(f'"${{{number}}}"' for number in range(1, len(arguments) + 1))
    script = f'"$0" -m {module} {words} {redirection}; exit ${{PIPESTATUS[0]}}'
    own = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | (environment or {})
    own.pop("PYTHONUNBUFFERED", None)  # what is buffered is what fails at the very end
    command = ["bash", "-c", script, sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=own, capture_output=True, timeout=90)
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def settled(folder):
    """What a run leaves, but for times, names and places."""
    (run,) = folder.rglob("run.json")
    record = json.loads(run.read_text())
    files = sorted(path.relative_to(run.parent).as_posix() for path in run.parent.rglob("*") if path.is_file())
    records = [
        {key: value for key, value in line.items() if not re.search(r"_s$", key)}
        for line in lines(run.parent / "metrics.jsonl")
    ]
    tensors = (run.parent / "checkpoints" / "agent_epoch_2.safetensors").read_bytes()
    summary = {key: value for key, value in record["summary"].items() if key != "wall_s"}
    return record["status"], [name for name in files if name != "report.html"], records, tensors, summary


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    code, _, errors = shell(folder, "esper.run", RUN)
    assert (code, errors) == (0, "")
    return settled(folder)


@pytest.mark.parametrize("console", CONSOLES)
def test_a_run_ends_as_it_would_have(console, undisturbed, tmp_path):
    redirection, environment, further = CONSOLES[console]
    code, out, errors = shell(tmp_path, "esper.run", (*RUN, *further), redirection, environment)
    assert code == 0, errors
    assert "Traceback" not in errors and "Exception ignored" not in errors
    assert settled(tmp_path) == undisturbed
    if environment is ASCII:
        assert out.isascii() and (r"\xb7" in out or ">&-" in redirection)
    if "telemetry.report=true" in further:
        assert list(tmp_path.rglob("report.html"))
    if redirection == ">/dev/full":
        assert errors == "standard output: No space left on device; not all could be printed\n"


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"])
def test_bad_input_keeps_its_exit_code(redirection, tmp_path):
    code, _, errors = shell(tmp_path, "esper.run", ["slots.names=[nowhere]"], redirection)
    assert code == 2
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


COMMANDS = {
    "runs": 0,
    "runs --json": 0,
    "compare a b": 0,
    "report a": 0,
    "clean": 0,
    "clean --yes": 0,
    "analyze": 2,
    "evaluate nowhere": 2,
    "completion bash": 0,
    "audit none.pt": 2,
    "convert none.pt new": 2,
    "resume nowhere": 2,
    "--help": 0,
    "nonsense": 2,
}


@pytest.mark.parametrize(
    ("redirection", "environment"),
    [("<&- >&- 2>&-", {}), (">/dev/full 2>/dev/full", {}), ("", BARE_C_LOCALE | ASCII)],
    ids=["nothing", "full", "ascii"],
)
def test_commands_keep_their_exit_codes(redirection, environment, tmp_path):
    for name in ("outputs/digits/a", "outputs/digits/b", "outputs/é/c"):
        make_run(tmp_path / name)
    make_run(tmp_path / "outputs/digits/d", status="failed", error="why → é")
    for command, expected in COMMANDS.items():
        code, _, errors = shell(tmp_path, "esper.cli", command.split(), redirection, environment)
        assert (command, code) == (command, expected), errors
        assert "Traceback" not in errors and "Exception ignored" not in errors, command
    assert (tmp_path / "outputs/digits/a/report.html").exists()
    assert not (tmp_path / "outputs/digits/d/run.json").exists()


def test_a_sweep_goes_on_without_a_console(tmp_path):
    jobs = ("-m", *RUN, "seed=0,1", "hydra.sweep.dir=sweep")
    for redirection in (">&- 2>&-", ">/dev/full"):
        code, _, errors = shell(tmp_path, "esper.run", jobs, redirection)
        assert code == 0, errors
        assert "Traceback" not in errors
    records = [json.loads(path.read_text()) for path in tmp_path.glob("sweep/*/run.json")]
    assert [record["status"] for record in records] == ["finished"] * 2

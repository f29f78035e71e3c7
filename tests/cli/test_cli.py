"""The command line, driven as a user does."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import esper
from esper.cli import main
from esper.cli.commands import COMMANDS
from esper.config.composing import compose, to_plain
from tests.study.run_folders import make_run

ROOT = Path(__file__).resolve().parents[2]


def program(
    *command: str, temporary: Path | None = None, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"TMPDIR": str(temporary)} if temporary else {})
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=60, env=environment, cwd=folder
    )


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"esper {esper.__version__}\n"


GIVEN = {"--help", "--version", "zsh"}  # what is asked for, and no mistake
HEAVY = {"torch", "numpy", "matplotlib", "hydra", "omegaconf", "wandb"}


def light(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `esper` and fail where it loads what is heavy."""
    code = f"import sys\nfrom esper.cli import main\ntry:\n    code = main({arguments})\n"
    code += f"finally:\n    assert not {HEAVY} & set(sys.modules), sorted({HEAVY} & set(sys.modules))\nsys.exit(code)"
    return program("-c", code, folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([command, "--help"] for command in COMMANDS),
        ["nonsense"],
        [],
        ["completion", "zsh"],
        ["audit"],
    ],
    ids=" ".join,
)
def test_help_and_mistakes_load_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    done = light(arguments, tmp_path)
    assert done.returncode == (0 if not arguments or GIVEN & set(arguments) else 2), done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["runs"],
        ["runs", "--json", "--filter", "optimizer.learning_rate>0"],
        ["clean"],
        ["report", "none"],
        ["resume", "none"],
    ],
    ids=" ".join,
)
def test_looking_at_runs_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    make_run(tmp_path / "outputs/digits/a")
    done = light(arguments, tmp_path)
    assert done.returncode == (2 if "none" in arguments else 0), done.stderr


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(
    "arguments", [["--help"], *([command, "--help"] for command in COMMANDS), ["runs"]], ids=" ".join
)
def test_it_answers_within_half_a_second(arguments: list[str], tmp_path: Path) -> None:
    make_run(tmp_path / "outputs/digits/a")

    def seconds() -> float:
        started = time.perf_counter()
        assert program("-m", "esper.cli", *arguments, folder=tmp_path).returncode == 0
        return time.perf_counter() - started

    assert any(seconds() < 0.5 for _ in range(5))  # whatever else the machine is doing


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_does_not_know_is_answered_with_its_own_help(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"convert": ["a", "b"], "completion": ["bash"], "tokenizer": ["train", "a", "--out", "b"]}.get(
        command, ["a"]
    )
    with pytest.raises(SystemExit) as left:
        main([command, *given, "--nonsense"])
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert said == f"error: unrecognized arguments: --nonsense\n  see esper {command} --help\n"


def test_resume_and_report_know_a_run_by_part_of_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_run(tmp_path / "outputs/digits/2026_fbca5242")
    (folder / "config.yaml").write_text(yaml.safe_dump(to_plain(compose([]))))
    assert main(["resume", "fbca"]) == 0
    assert capsys.readouterr().out == "outputs/digits/2026_fbca5242: this run has finished, after epoch 3\n"
    assert main(["report", "fbca"]) == 0
    assert capsys.readouterr().out == "outputs/digits/2026_fbca5242/report.html\n"
    assert "81.0" in (folder / "report.html").read_text()
    for command in ("resume", "report"):
        assert main([command, "fbcb"]) == 2
        assert "no such run in outputs" in capsys.readouterr().err


def test_what_is_no_command_is_told_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repotr"]) == 2
    error = capsys.readouterr().err
    assert "did you mean report?" in error
    assert all(command in error for command in COMMANDS)
    assert main([]) == 0
    assert "commands:" in capsys.readouterr().out


def test_nobody_needs_to_read_to_the_end(tmp_path: Path) -> None:
    make_run(tmp_path / "outputs/digits/a")
    command = f"{sys.executable} -m esper.cli runs | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=20, cwd=tmp_path)
    assert done.stdout == "0\n"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_exit_codes_mean(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert re.search(r"Exit code: (as of a run: )?0", capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments", [["audit"], ["audit", "a.pt", "--generate-test"], ["convert", "a.pt"], ["audit", "none.pt"]]
)
def test_mistakes_are_answered_in_two_lines(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(arguments)
    except SystemExit as left:
        code = int(str(left.code))
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ")
    assert len(error.splitlines()) <= 2

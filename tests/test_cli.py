"""The command line for checkpoints, driven as a user does."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from esper.cli import main
from esper.forensics import KINDS
from tests.checkpoint.evil import evil_files

ROOT = Path(__file__).resolve().parents[1]


def program(*command: str, temporary: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"TMPDIR": str(temporary)} if temporary else {})
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, env=environment)


@pytest.mark.parametrize(
    "arguments", ["['--help']", "['audit', '--help']", "['convert', '--help']", "['nonsense']", "[]"]
)
def test_help_and_mistakes_load_nothing_heavy(arguments: str) -> None:
    code = f"""
import sys
from esper.cli import main
try:
    main({arguments})
finally:
    assert not {{"torch", "numpy", "omegaconf", "hydra"}} & set(sys.modules)
"""
    done = program("-c", code)
    assert done.returncode == (0 if "help" in arguments else 2)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_help_answers_within_half_a_second() -> None:
    def seconds() -> float:
        started = time.perf_counter()
        assert program("-m", "esper.cli", "--help").returncode == 0
        return time.perf_counter() - started

    assert any(seconds() < 0.5 for _ in range(5))  # whatever else the machine is doing


@pytest.mark.parametrize("command", ["audit", "convert"])
def test_help_says_what_exit_codes_mean(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "Exit code: 0" in capsys.readouterr().out


def test_the_script_audits_what_it_generates(tmp_path: Path) -> None:
    done = program(str(ROOT / "scripts/checkpoint_audit.py"), "--generate-test", temporary=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "FAILED: " in done.stdout
    assert "root['metadata']['recent_rewards']: deque → list" in done.stdout
    assert torch.load(tmp_path / "esper_test_checkpoint.pt", weights_only=False)["train_steps"] == 1


@pytest.mark.parametrize("name", ["morphogenetic", "blending", "probationary"])
def test_esper_s_own_examples_load(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["audit", f"--generate-{name}"]) == 0
    assert "SUCCESS - checkpoint is already compatible!" in capsys.readouterr().out
    assert torch.load(tmp_path / KINDS[name].file_name, weights_only=True)["epoch"] == 3
    assert [file.name for file in tmp_path.iterdir()] == [f"esper_{name}_checkpoint.pt"]


def test_malicious_files_are_audited_and_not_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, proof = evil_files(tmp_path)
    evil = str(files["zip"])
    assert main(["audit", evil]) == 0
    assert "system(...) → CRITICAL: runs code when loaded; do not load" in capsys.readouterr().out
    assert main(["audit", "--iterative", evil]) == 0
    assert "Unsafe globals" in capsys.readouterr().out
    assert main(["convert", evil, str(tmp_path / "new")]) == 2
    assert not proof.exists()
    error = capsys.readouterr().err
    assert "system" in error
    assert "--trust" in error
    assert len(error.splitlines()) == 2
    main(["convert", "--trust", evil, str(tmp_path / "new")])
    assert proof.exists()


def test_convert_says_what_became_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old").mkdir()
    torch.save({"w": torch.ones(2)}, tmp_path / "old" / "a.pt")
    (tmp_path / "old" / "b.pt").write_text("no checkpoint")
    assert main(["convert", str(tmp_path / "old"), str(tmp_path / "new")]) == 2
    output = capsys.readouterr()
    assert output.out == f"{tmp_path / 'old/a.pt'} → {tmp_path / 'new/a.safetensors'}\n"
    assert output.err.startswith(f"error: {tmp_path / 'old/b.pt'} is not a sound torch checkpoint")
    assert main(["convert", str(tmp_path / "old"), str(tmp_path / "new")]) == 2
    assert "exists already" in capsys.readouterr().err


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


def test_the_page_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    assert main(["audit", "--write-docs", str(tmp_path / "page.md")]) == 0
    assert "| PPO agent | FAILED | 5 |" in (tmp_path / "page.md").read_text()

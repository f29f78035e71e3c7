"""`esper chat`, driven as a user does."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from esper.cli import main
from esper.forge.bundles import load_language_model, save_language_model
from tests.forge.models import network, tokenizer

ROOT = Path(__file__).resolve().parents[2]


def saved(path: Path, seed: int = 0) -> Path:
    return save_language_model(
        path, network(seed), tokenizer(), phase="cognate", seed=0, data_fingerprint=""
    ).with_suffix("")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return saved(tmp_path / "python")


def chat(monkeypatch: pytest.MonkeyPatch, text: str, *arguments: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return main(["chat", *arguments])


def test_each_line_of_a_pipe_is_answered(bundle, monkeypatch, capsys):
    settings = ["--max-new-tokens", "12", "--temperature", "0"]
    assert chat(monkeypatch, "one\n\ntwo", str(bundle), *settings) == 0
    model = load_language_model(bundle)
    answers = [model.generate(prompt, 12, 0) for prompt in ("one", "two")]
    shown = ["\n".join(_printable(line) for line in answer.split("\n")) for answer in answers]
    assert capsys.readouterr().out == "".join(f"{answer}\n" for answer in shown)


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line)


def test_what_is_drawn_follows_from_the_seed_and_steers_no_terminal(bundle, monkeypatch, capsys):
    said = []
    for seed in ("1", "1", "2"):
        chat(monkeypatch, "x\n", str(bundle), "--seed", seed, "--max-new-tokens", "60", "--temperature", "3")
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]
    assert all(c.isprintable() or c in "\n\t" for c in said[0]) and "\\x" in said[0]


def test_a_phases_folder_means_its_model_and_either_file_its_bundle(tmp_path, monkeypatch, capsys):
    saved(tmp_path, seed=1)
    bundle = saved(tmp_path / "python")
    said = {}
    for given in (f"{bundle}.json", f"{bundle}.safetensors", f"{tmp_path}/model"):
        assert chat(monkeypatch, "x\n", given, "--max-new-tokens", "20") == 0
        said[given] = capsys.readouterr().out
    assert len(set(said.values())) == 2 and said[f"{bundle}.json"] == said[f"{bundle}.safetensors"]


def test_of_a_forge_run_the_last_phase_that_passed_speaks(tmp_path, monkeypatch, capsys):
    from esper.forge.phase import PhaseResult
    from esper.forge.records import PhaseRecord, phase_folder

    run = tmp_path / "outputs" / "forge_nano" / "a1"
    for seed, (name, status) in enumerate(
        {"cognate": "finished", "bitnet": "finished", "compression": "failed"}.items()
    ):
        folder = phase_folder(run, name)
        saved(folder / "model", seed)
        result = PhaseResult(
            success=status == "finished", phase=name, error=None, metrics={}, artifacts={}, duration_s=1
        )
        PhaseRecord(folder, name, status, "key", None, result).write()
    said = {}
    for given in (run, run / "4-bitnet", run / "4-bitnet" / "model", run / "1-cognate"):
        assert chat(monkeypatch, "x\n", str(given), "--max-new-tokens", "20") == 0
        said[given.name] = capsys.readouterr().out
    assert said["a1"] == said["4-bitnet"] == said["model"] != said["1-cognate"]
    assert chat(monkeypatch, "x\n", str(run / "8-compression"), "--max-new-tokens", "20") == 0
    assert chat(monkeypatch, "x\n", str(tmp_path / "outputs"), "--root", str(tmp_path / "outputs")) == 2
    assert chat(monkeypatch, "x\n", str(tmp_path / "nothing"), "--root", str(tmp_path / "outputs")) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--temperature", "-1"], "--temperature=-1.0: expected 0.0 to 100.0"),
        (["--max-new-tokens", "0"], "--max-new-tokens=0: expected a whole number, 1 or more"),
        (["--seed", "-1"], "--seed=-1"),
    ],
)
def test_what_is_out_of_range_is_told_before_anything_is_read(bundle, monkeypatch, capsys, arguments, said):
    assert chat(monkeypatch, "x\n", str(bundle), *arguments) == 2
    assert said in capsys.readouterr().err


def test_a_bundle_that_is_damaged_is_told_in_a_line(bundle, monkeypatch, capsys):
    file = bundle.with_suffix(".safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    assert chat(monkeypatch, "x\n", str(bundle)) == 2
    assert capsys.readouterr().err.startswith(f"error: {file} is cut short")


class Interrupted(io.StringIO):
    """The terminal's input, at which somebody presses Ctrl-C after the first line."""

    lines = 0

    def readline(self, size: int = -1) -> str:
        self.lines += 1
        if self.lines > 1:
            raise KeyboardInterrupt
        return "x\n"


def test_ctrl_c_ends_it_with_a_line_of_its_own(bundle, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Interrupted())
    assert main(["chat", str(bundle), "--max-new-tokens", "5"]) == 130
    out, err = capsys.readouterr()
    assert out.endswith("\n") and not err


@pytest.mark.slow
def test_a_signal_ends_the_program_cleanly(bundle):
    command = [sys.executable, "-m", "esper.cli", "chat", str(bundle), "--max-new-tokens", "5"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        process.stdin.write(b"\xff\xfe\n")
        process.stdin.flush()
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b"")

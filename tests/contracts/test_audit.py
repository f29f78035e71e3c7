"""Contracts, section checkpoint: the audit and its script."""

import collections
import dataclasses
import enum
import importlib.util
import os
import pickle
import runpy
import subprocess
import sys
from collections import OrderedDict, deque, namedtuple
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "checkpoint_audit.py"
SUCCESS = "SUCCESS - checkpoint is already compatible!"
GENERATED = {
    "--generate-test": "esper_test_checkpoint.pt",
    "--generate-legacy": "esper_legacy_checkpoint.pt",
    "--generate-morphogenetic": "esper_morphogenetic_checkpoint.pt",
    "--generate-blending": "esper_blending_checkpoint.pt",
    "--generate-probationary": "esper_probationary_checkpoint.pt",
}


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Told:
    when: Any
    other: int = 0

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


class Strange:
    pass


Pair = namedtuple("Pair", "left right")
NOW = datetime(2025, 1, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("checkpoint_audit", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the script in a temporary folder of its own: its output, and its exit code."""

    def call(*arguments: str | Path) -> tuple[str, int]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        captured = capsys.readouterr()
        return captured.out + captured.err, exited.value.code or 0

    return call


def save(folder: Path, payload: Any, name: str = "old.pt") -> Path:
    torch.save(payload, folder / name)
    return folder / name


# ---- one value


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        (NOW, "ISO 8601 string"),
        (deque([1]), "list"),
        (Colour.RED, "int"),
        (Level.LOW, "int"),
        (Told(1), "to_dict()"),
        (nn.Linear(1, 1), "CRITICAL: store state_dict separately"),
        (Strange(), "needs manual inspection"),
        (lambda: None, "needs manual inspection"),
        (object(), "needs manual inspection"),
        (frozenset({1}), "needs manual inspection"),
        (Pair(1, 2), "needs manual inspection"),
        (collections.defaultdict(int), "needs manual inspection"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_an_unsafe_value_is_one_line_with_what_to_do(script: ModuleType, value: Any, becomes: str) -> None:
    (line,) = script.audit_value(value)
    assert isinstance(line, str) and line.startswith("root") and becomes in line
    assert type(value).__name__ in line or isinstance(value, datetime | deque | nn.Module)
    (line,) = script.audit_value({"key": [value]}, path="file")
    assert line.startswith("file['key'][0]") and becomes in line


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, 2.5, "text", b"bytes", [1, (2, {"a": 3})], {"a": {1: 2}}, {1, 2}, OrderedDict(a=1),
        torch.zeros(2), nn.Parameter(torch.zeros(2)), torch.float32, torch.device("cpu"), torch.Size([1, 2]),
        nn.Linear(2, 2).state_dict(), torch.optim.SGD(nn.Linear(2, 2).parameters()).state_dict(),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_a_safe_load_takes_is_no_finding(script: ModuleType, value: Any, tmp_path: Path) -> None:
    assert script.audit_value(value) == []
    torch.load(save(tmp_path, value), weights_only=True)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"key": [Told(when=NOW)]}, "root['key'][0].when"),
        ({"a": ({"b": NOW},)}, "root['a'][0]['b']"),
        ([[1, [2, NOW]]], "root[0][1][1]"),
        (Pair(1, NOW), "root[1]"),
        (Told(deque([0, NOW])), "root.when[1]"),
        ({3: NOW}, "root[3]"),
    ],
)
def test_a_path_leads_to_the_value(script: ModuleType, value: Any, path: str) -> None:
    lines = [line for line in script.audit_value(value) if "ISO 8601" in line]
    assert len(lines) == 1 and lines[0].startswith(f"{path}:")


def test_sets_and_keys_are_looked_into(script: ModuleType) -> None:
    for value in ({NOW}, frozenset({NOW}), {NOW: 1}, {(1, NOW): 2}, {"a": {Colour.RED: 1}}):
        assert any("ISO 8601" in line or "Colour" in line for line in script.audit_value(value))


def test_depth_and_cycles_are_told_and_not_followed(script: ModuleType) -> None:
    deep: Any = NOW
    for _ in range(100):
        deep = [deep]
    (line,) = script.audit_value(deep)
    assert "recursion" in line and "20" in line
    shallow: Any = NOW
    for _ in range(19):
        shallow = [shallow]
    assert "ISO 8601" in script.audit_value(shallow)[0]
    cycle: dict[str, Any] = {"when": NOW}
    cycle["again"] = [cycle]
    lines = script.audit_value(cycle)
    assert len(lines) == 2 and any("cycle" in line for line in lines)


# ---- one file


def test_the_environment_is_named(script: ModuleType) -> None:
    found = script.get_environment_info()
    assert isinstance(found, dict)
    text = " ".join(f"{name} {value}" for name, value in found.items())
    for word in ("pytorch", "cuda", "python", "platform", torch.__version__, sys.version.split()[0]):
        assert word.lower() in text.lower()


def test_a_file_is_audited_as_a_whole(script: ModuleType, tmp_path: Path) -> None:
    payload = {
        "model_state_dict": nn.Linear(2, 2).state_dict(),
        "optimizer_state_dict": {"state": {}, "started": NOW},
        "seen": deque([Colour.RED]),
    }
    path = save(tmp_path, payload)
    for given in (path, str(path)):
        audit = script.audit_checkpoint(given)
        assert isinstance(audit, dict)
    text = repr(audit)
    assert "FAILED: " in text and "root['seen']" in text and "root['optimizer_state_dict']['started']" in text
    assert all(f"'{key}'" in text for key in payload)
    without = repr(script.audit_checkpoint(path, include_optimizer=False))
    assert "root['seen']" in without and "started" not in without
    clean = script.audit_checkpoint(save(tmp_path, {"w": torch.zeros(1)}, "clean.pt"))
    assert SUCCESS in repr(clean)


def test_all_unsafe_globals_are_found_and_not_only_the_first(script: ModuleType, tmp_path: Path) -> None:
    found = script.iterative_audit(save(tmp_path, [NOW, deque(), Colour.RED, Strange(), torch.zeros(1)]))
    assert isinstance(found, list) and all(isinstance(name, str) for name in found)
    for name in ("datetime.datetime", "datetime.timezone", "collections.deque", "Colour", "Strange"):
        assert any(name in each for each in found)
    assert len(found) == len(set(found)) and not any("torch._utils" in each for each in found)
    assert script.iterative_audit(save(tmp_path, {"w": torch.zeros(1)}, "clean.pt")) == []


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle"])
def test_an_audit_runs_nothing_of_the_file(script: ModuleType, run: Any, tmp_path: Path, layout: str) -> None:
    target, path = tmp_path / "exploded", tmp_path / "evil.pt"
    if layout == "pickle":
        path.write_bytes(pickle.dumps({"a": Bomb(target)}))
    else:
        torch.save({"a": Bomb(target), "b": NOW}, path, _use_new_zipfile_serialization=layout == "zip")
    assert any("Path.touch" in line or "getattr" in line for line in script.iterative_audit(path))
    assert "root['a']" in repr(script.audit_checkpoint(path))
    assert "FAILED: " in run(path)[0]
    assert not target.exists()


def test_what_is_no_checkpoint_is_told_in_short(run: Any, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no checkpoint")
    for path in (tmp_path / "text.pt", tmp_path / "absent.pt"):
        output, code = run(path)
        assert code not in (0, 1) and path.name in output and "Traceback" not in output


# ---- the script


@pytest.mark.parametrize("option", GENERATED)
def test_a_generator_writes_its_file_and_audits_it(run: Any, tmp_path: Path, option: str) -> None:
    output, code = run(option)
    assert code == 0
    assert [path.name for path in tmp_path.glob("*.pt")] == [GENERATED[option]]
    for word in ("PyTorch", "CUDA", "Python", "platform"):
        assert word in output
    for section in ("environment", "weights_only=true", "contents", "optimizer", "top-level structure"):
        assert section in output.lower()
    payload = None
    try:
        payload = torch.load(tmp_path / GENERATED[option], weights_only=True)
    except pickle.UnpicklingError:
        assert "FAILED: " in output and SUCCESS not in output and "root[" in output
    else:
        assert SUCCESS in output and "FAILED: " not in output
    for key in payload or ():
        assert key in output
    again, _ = run(tmp_path / GENERATED[option])
    assert (SUCCESS in again) == (payload is not None)


@pytest.mark.parametrize(("option", "stage"), [("morphogenetic", 2), ("blending", 4), ("probationary", 6)])
def test_generated_seeds_are_in_the_stage_they_are_named_after(
    run: Any, tmp_path: Path, option: str, stage: int
) -> None:
    run(f"--generate-{option}")
    payload = torch.load(tmp_path / f"esper_{option}_checkpoint.pt", weights_only=False)
    assert f"'stage': {stage}" in repr({key: value for key, value in payload.items() if "seed" in key})


def test_the_script_asks_for_exactly_one_thing(run: Any) -> None:
    for arguments in ((), ("--generate-nothing",), ("--generate-test", "file.pt")):
        output, code = run(*arguments)
        assert code == 2 and "--help" in output


def test_the_iterative_option_lists_them_all(run: Any, tmp_path: Path) -> None:
    output, code = run("--iterative", save(tmp_path, [NOW, deque(), Colour.RED]))
    assert code == 0
    assert all(name in output for name in ("datetime.datetime", "collections.deque", "Colour"))


@pytest.mark.slow
def test_the_script_runs_from_anywhere_and_helps(tmp_path: Path) -> None:
    command, environment = [sys.executable, SCRIPT, "--help"], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0
    for option in (*GENERATED, "--iterative", "--help"):
        assert option in done.stdout


def test_esper_audit_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from esper.cli import main

    assert main(["audit", str(save(tmp_path, {"w": torch.zeros(1)}))]) == 0
    assert SUCCESS in capsys.readouterr().out


def test_the_page_of_results_has_its_tables() -> None:
    page = (ROOT / "docs" / "checkpoint-audit-results.md").read_text()
    for row in ("PPO agent", "GERMINATED", "BLENDING", "PROBATIONARY"):
        assert sum(line.startswith(f"| {row} |") for line in page.splitlines()) >= 1
        assert f"### {row}" in page
    for word in ("weights_only=True", "FAILED: ", SUCCESS, "datetime.datetime", "ISO 8601", "deque", "nn.Module"):
        assert word in page

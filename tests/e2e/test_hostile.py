"""A run's files, damaged in many ways: every command answers in a line or two, and never with a traceback."""

import copy
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import esper
from esper.checkpoint.plain import fingerprint
from esper.cli import main as cli
from esper.errors import EsperError
from esper.run import main as run
from tests.e2e.conftest import environment

SMOKE = ("debug=smoke", "policy=random", "policy.act_probability=1.0", "gates=permissive", "epochs=4")
KEPT = ("checkpoint.every_epochs=1", "checkpoint.keep_last=3", "telemetry.console=off")
WRONG = (None, True, 1.5, -1, 2**62, 10**30, "x", "", [], {}, [1], {"a": 1}, 1e308, 10**9, "\x1b[31m", [[]])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs."""
    root = tmp_path_factory.mktemp("sound")
    assert run([*SMOKE, *KEPT, f"hydra.run.dir={root}/a"]) == 0
    assert run(["debug=smoke", "policy=static", *KEPT, f"hydra.run.dir={root}/b"]) == 0
    return root


@pytest.fixture
def root(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies of them are damaged."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


def restore(sound: Path, root: Path, is_under_way: bool = False) -> Path:
    """The runs as they were; is_under_way: the first has the last epoch before it."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(sound, root)
    folder = root / "a"
    if is_under_way:
        record = json.loads((folder / "run.json").read_text()) | {"status": "interrupted", "summary": None}
        (folder / "run.json").write_text(json.dumps(record))
        for file in (folder / "checkpoints").glob("agent_epoch_4.*"):
            file.unlink()
    return folder


def answered(capsys: pytest.CaptureFixture[str], call: Callable[[], Any], what: object) -> None:
    """It ends with an exit code of ours, or an error of ours, in few lines."""
    capsys.readouterr()
    try:
        code = call()
    except EsperError as error:
        assert len(str(error).splitlines()) <= 2, what
        code = 2
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}, after {what}") from error
    err = capsys.readouterr().err
    assert code in (None, 0, 1, 2), what
    assert "Traceback" not in err and len(err.splitlines()) <= 8, f"{err}\nafter {what}"


def look(capsys: pytest.CaptureFixture[str], what: object) -> None:
    """All that shows runs."""
    answered(capsys, lambda: cli(["runs"]), what)
    answered(capsys, lambda: cli(["runs", "--json", "--filter", "age>1s"]), what)
    answered(capsys, lambda: cli(["report", "outputs/a"]), what)
    answered(capsys, lambda: cli(["compare", "outputs/a", "outputs/b"]), what)


def load(capsys: pytest.CaptureFixture[str], what: object) -> None:
    answered(capsys, lambda: esper.load_member("outputs/a") and 0, what)


def resume(capsys: pytest.CaptureFixture[str], what: object) -> None:
    answered(capsys, lambda: run(["resume=outputs/a", "telemetry.console=off"]), what)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values are, of lists the first of each."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*place, key))


def put(value: Any, place: tuple[Any, ...], wrong: Any) -> Any:
    if not place:
        return wrong
    changed = copy.deepcopy(value)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = wrong
    return changed


@pytest.mark.parametrize("file", ["run.json", "metrics.jsonl", "events.jsonl"])
def test_values_of_every_wrong_type(sound: Path, root: Path, capsys: pytest.CaptureFixture[str], file: str) -> None:
    rng = random.Random(file)
    for _ in range(16):  # benchmarks.torture tries many more
        path = restore(sound, root) / file
        lines = path.read_text().splitlines() if file.endswith("l") else [path.read_text()]
        at = rng.randrange(len(lines))
        value = json.loads(lines[at])
        place, wrong = rng.choice(list(places(value))), rng.choice(WRONG)
        lines[at] = json.dumps(put(value, place, wrong))
        path.write_text("\n".join(lines) + "\n")
        look(capsys, (file, at, place, wrong))


def test_bytes_at_random(sound: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(7)
    for number in range(20):
        folder = restore(sound, root, is_under_way=number % 5 == 0)
        path = rng.choice([file for file in folder.rglob("*") if file.is_file()])
        data = bytearray(path.read_bytes())
        kind, at = rng.choice(("flip", "cut", "insert", "zeros")), rng.randrange(len(data) + 1)
        match kind:
            case "flip":
                for _ in range(rng.choice((1, 1, 8)) if data else 0):
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case "cut":
                del data[at:]
            case "insert":
                data[at:at] = rng.randbytes(rng.choice((1, 5, 300)))
            case "zeros":
                data[at : at + 100] = bytes(len(data[at : at + 100]))
        path.write_bytes(data)
        look(capsys, (path, kind, at))
        if number % 5 == 0:
            load(capsys, (path, kind, at))
            resume(capsys, (path, kind, at))


def sign(sidecar: dict[str, Any]) -> str:
    del sidecar["self_sha256"]
    return json.dumps(sidecar | {"self_sha256": fingerprint(sidecar)})


SEED = ("growth", "population", "seeds", 0)
# Of a sidecar that is signed anew: where in `state` or `metadata`, and what is there instead.
STATES: dict[str, tuple[tuple[Any, ...], Any]] = {
    "no state": (("state",), {}),
    "no growth": (("state", "growth"), {}),
    "an epoch that is a list": (("state", "growth", "epoch"), [4]),
    "an epoch before all": (("state", "growth", "epoch"), -3),
    "an epoch after all": (("state", "growth", "epoch"), 10**12),
    "no reports": (("state", "growth", "reports"), []),
    "reports of texts": (("state", "growth", "reports"), ["good"]),
    "seeds of nobody": (("state", "growth", "population", "seeds"), []),
    "seeds of texts": (("state", *SEED), {"early": "x", "mid": "x", "late": "x"}),
    "slots that are none": (("state", *SEED), {"nowhere": None}),
    "watches that are none": (("state", "growth", "governor", "watches"), [None]),
    "a count that is a text": (("state", "seeds"), {"planted": "many"}),
    "episodes of objects": (("state", "growth", "episodes"), [{}]),
    "a controller that is a list": (("state", "controller"), [1]),
    "an engine that is a text": (("metadata", "engine"), "fast"),
    "threads that are a list": (("metadata", "engine", "threads"), [1]),
    "a device that is none": (("metadata", "engine", "device"), "abacus"),
}


@pytest.mark.parametrize("kind", STATES)
def test_a_signed_sidecar_with_a_wrong_state(
    sound: Path, root: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    folder = restore(sound, root, is_under_way=True)
    path = folder / "checkpoints/agent_epoch_3.json"
    path.write_text(sign(put(json.loads(path.read_text()), *STATES[kind])))
    load(capsys, kind)
    resume(capsys, kind)


def test_every_wrong_type_in_a_signed_sidecars_seeds(
    sound: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(3)
    folder = restore(sound, root, is_under_way=True)
    path = folder / "checkpoints/agent_epoch_3.json"
    sidecar = json.loads(path.read_text())
    found = [place for place in places(sidecar["state"]["growth"]) if place]
    for _ in range(12):
        place, wrong = rng.choice(found), rng.choice((None, "x", [], {}, 1.5, -1, 10**9))
        restore(sound, root, is_under_way=True)
        path.write_text(sign(put(sidecar, ("state", "growth", *place), wrong)))
        load(capsys, (place, wrong))
        resume(capsys, (place, wrong))


ENGINES: dict[str, Any] = {
    "a text": "fast",
    "a part of it": {"kind": "fused"},
    "no device": {"kind": "fused", "kernels": "native", "device": "abacus", "threads": 1},
    "a device that is a list": {"kind": "fused", "kernels": "native", "device": [], "threads": 1},
    "threads below none": {"kind": "fused", "kernels": "native", "device": "cpu", "threads": -1},
}


@pytest.mark.parametrize("kind", ENGINES)
def test_a_run_json_whose_engine_is_none(
    sound: Path, root: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    folder = restore(sound, root, is_under_way=True)
    record = json.loads((folder / "run.json").read_text()) | {"engine": ENGINES[kind]}
    (folder / "run.json").write_text(json.dumps(record))
    resume(capsys, kind)
    look(capsys, kind)


FULL = """
import json, os, sys
from pathlib import Path
from esper.cli import main as cli
from esper.run import main as run

def fill():
    for size in (1 << 16, 1 << 10, 1):
        try:
            with open("filling", "ab", buffering=0) as file:
                while file.write(bytes(size)):
                    pass
        except OSError:
            pass

os.chdir(sys.argv[1])
new = ["debug=smoke", "policy=static", "telemetry.console=off", "checkpoint.every_epochs=1"]
codes = {"start": run([*new, "hydra.run.dir=outputs/a"])}
record = Path("outputs/a/run.json").read_text().replace('"finished"', '"interrupted"')
Path("outputs/a/run.json").write_text(record)
fill()
codes["runs"] = cli(["runs"])
codes["report"] = cli(["report", "outputs/a"])
codes["start full"] = run([*new, "hydra.run.dir=outputs/b"])
codes["sweep full"] = run([*new, "-m", "seed=1,2", "hydra.sweep.dir=outputs/s"])
codes["resume full"] = run(["resume=outputs/a", "telemetry.console=off"])
Path("filling").unlink()
codes["resume"] = run(["resume=outputs/a", "telemetry.console=off"])
print(json.dumps(codes))
"""


def test_a_full_disk_is_answered_at_start_at_resume_and_at_a_report(tmp_path: Path) -> None:
    (disk := tmp_path / "disk").mkdir()
    mount = 'mount -t tmpfs -o size=3m none "$1" && exec "$2" "$3" "$1"'
    mounted = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "-", disk, sys.executable]
    if not shutil.which("unshare") or subprocess.run([*mounted[:-1], "true", "-"], capture_output=True).returncode:
        pytest.skip("no disk of one's own can be mounted here")
    (script := tmp_path / "full.py").write_text(FULL)
    done = subprocess.run([*mounted, script], capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    codes = json.loads(done.stdout.splitlines()[-1])
    assert (codes["start"], codes["runs"], codes["report"], codes["resume"]) == (0, 0, 2, 0)
    assert {codes["start full"], codes["sweep full"], codes["resume full"]} <= {0, 1, 2}
    assert "disk is full" in done.stderr


def test_a_lock_needs_no_room_for_its_signature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from esper.checkpoint import RunLock
    from esper.errors import RunError

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with RunLock(tmp_path), pytest.raises(RunError, match="in use by another process"), RunLock(tmp_path):
        pass
    with RunLock(tmp_path):
        pass

"""The whole way: killed anywhere and gone on with, stale where something changed, rolled back where a gate fails."""

import json
import signal
import time

import pytest

from esper.forge.config import PLACES
from tests.e2e.forge_runs import TINY, forge, result, start

pytestmark = pytest.mark.timeout(900)
PHASES = tuple(PLACES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A tiny run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    done = forge(folder, *TINY, "hydra.run.dir=run")
    assert done.code == 0, done.out + done.err
    return folder / "run"


def bundles(run):
    """Checksums of all that the phases wrote, but for checkpoints and what depends on the clock."""
    return {
        str(path.relative_to(run)): json.loads(path.read_text())["tensors_sha256"]
        for path in sorted(run.glob("[1-8]-*/*.json"))
        if path.name != "phase.json"
    }


def figures(run):
    """What was measured, but for times."""
    timed = ("_s", "latency_ms")
    return {
        phase: {k: v for k, v in result(run, phase)["result"]["metrics"].items() if not k.endswith(timed)}
        for phase in PHASES
    }


KILLED_AT = (  # once this is there: in a phase, after a checkpoint, between two phases
    "run/1-cognate/checkpoints/trunk_training.json",
    "run/1-cognate/python.json",
    "run/2-evomerge/phase.json",
    "run/3-quietstar/phase.json",
    "run/4-bitnet/checkpoints/*.json",
    "run/4-bitnet/model.json",
    "run/5-curriculum/phase.json",
    "run/6-baking/model.json",
    "run/7-experts/phase.json",
    "run/8-compression/phase.json",
)


def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(whole, tmp_path):
    arguments = [*TINY, "hydra.run.dir=run"]
    for pattern in KILLED_AT:
        process = start(tmp_path, *arguments)
        deadline = time.monotonic() + 120
        while process.poll() is None and not list(tmp_path.glob(pattern)):
            assert time.monotonic() < deadline, pattern
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        said = process.communicate(timeout=60)[0].decode()
        assert process.returncode == -signal.SIGKILL, said
        arguments = ["resume=run"]
    done = forge(tmp_path, *arguments)
    assert done.code == 0, done.out + done.err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
    assert bundles(tmp_path / "run") == bundles(whole)
    assert figures(tmp_path / "run") == figures(whole)


def test_ctrl_c_stops_it_and_it_goes_on(whole, tmp_path):
    process = start(tmp_path, *TINY, "hydra.run.dir=run")
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "1-cognate" / "checkpoints").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 130, said
    assert "resume=run" in said and "Traceback" not in said
    done = forge(tmp_path, "resume=run")
    assert done.code == 0, done.out + done.err
    assert bundles(tmp_path / "run") == bundles(whole)


def test_a_finished_run_is_not_run_again_and_a_changed_value_makes_what_follows_stale(whole, tmp_path):
    import shutil

    shutil.copytree(whole, tmp_path / "run")
    before = {phase: (tmp_path / "run").glob(f"*{phase}/phase.json") for phase in PHASES}
    times = {phase: next(paths).stat().st_mtime_ns for phase, paths in before.items()}
    assert forge(tmp_path, "resume=run").code == 0
    for phase, was in times.items():
        (path,) = (tmp_path / "run").glob(f"*-{phase}/phase.json")
        assert path.stat().st_mtime_ns == was, phase
    done = forge(tmp_path, "resume=run", "bitnet.distill=1.0")
    assert done.code == 0, done.out + done.err
    assert "bitnet is stale" in done.out
    now = {phase: next((tmp_path / "run").glob(f"*-{phase}/phase.json")).stat().st_mtime_ns for phase in PHASES}
    assert [phase for phase in PHASES if now[phase] != times[phase]] == list(PHASES[PHASES.index("bitnet") :])
    assert (tmp_path / "run" / "4-bitnet.1" / "model.safetensors").exists()


def test_a_failed_gate_rolls_back_or_ends_the_way(tmp_path):
    done = forge(tmp_path, *TINY, "phases=[cognate,evomerge]", "evomerge.min_bits_below_soup=7", "hydra.run.dir=soft")
    assert done.code == 0, done.out + done.err
    assert result(tmp_path / "soft", "evomerge")["status"] == "failed"
    assert "bits_below_soup" in result(tmp_path / "soft", "evomerge")["result"]["error"]

    arguments = [*TINY, "phases=[evomerge,bitnet,compression]", "input=soft", "bitnet.min_top1_ratio=1.0"]
    done = forge(tmp_path, *arguments, "bitnet.min_likelihood_ratio=1.0", "hydra.run.dir=hard")
    if result(tmp_path / "hard", "bitnet")["status"] == "failed":
        assert done.code == 1
        assert not list((tmp_path / "hard").glob("*compression/phase.json"))
        assert json.loads((tmp_path / "hard" / "run.json").read_text())["status"] == "failed"

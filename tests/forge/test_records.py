"""What a phase's folder says of itself, and which folder of bundles a path stands for."""

import json
import math
import os
from pathlib import Path

import pytest

from esper.errors import ForgeError
from esper.forge.config import PLACES
from esper.forge.phase import Gate, PhaseResult
from esper.forge.records import (
    PHASE_FILE,
    PhaseRecord,
    input_folder,
    is_forge_run,
    phase_folder,
    read_phase,
    read_phases,
)


def written(run: Path, phase: str, status: str = "finished", **fields) -> PhaseRecord:
    folder = phase_folder(run, phase)
    folder.mkdir(parents=True, exist_ok=True)
    if status != "running":
        artifacts = {"model": str(folder / "model.safetensors")}
        fields = {"result": PhaseResult(
            success=status == "finished", phase=phase, error=None, metrics={"bits": 2.5}, artifacts=artifacts,
            duration_s=1.5,
        )} | fields  # fmt: skip
    return PhaseRecord(folder, phase, status, "key", None, **fields).write()


def bundle(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model.json", "model.safetensors"):
        (folder / name).write_text("{}")


def test_a_record_comes_back_as_it_was_written(tmp_path):
    measured = {"bits_per_byte": 2.25, "latency_ms": None}
    record = written(tmp_path, "bitnet", continuity=measured, notes=("the control won", "zwölf"))
    assert read_phase(record.folder) == record
    running = written(tmp_path, "evomerge", "running")
    assert read_phase(running.folder) == running and running.result is None


def test_artifacts_are_found_where_a_run_was_moved_to(tmp_path):
    written(tmp_path / "run", "cognate")
    os.rename(tmp_path / "run", tmp_path / "moved")
    folder = phase_folder(tmp_path / "moved", "cognate")
    assert read_phase(folder).result.artifacts == {"model": str(folder / "model.safetensors")}


def test_a_figure_that_is_no_number_stays_one(tmp_path):
    metrics = {"bits": math.nan, "ratio": math.inf, "bytes": 3.0}
    result = PhaseResult(success=False, phase="bitnet", error="x", metrics=metrics, artifacts={}, duration_s=0.0)
    record = written(tmp_path, "bitnet", "failed", result=result, continuity={"bits_per_byte": math.nan})
    found = read_phase(record.folder)
    assert math.isnan(found.result.metrics["bits"]) and math.isnan(found.result.metrics["ratio"])
    assert found.result.metrics["bytes"] == 3.0 and found.continuity == {"bits_per_byte": None}


@pytest.mark.parametrize(
    "changed",
    [{"schema": 2}, {"status": "done"}, {"result": {"success": True}}, {"notes": [3]}, {"key": None}, {"input": 4}],
    ids=str,
)
def test_what_is_no_record_counts_as_none(tmp_path, changed):
    path = written(tmp_path, "bitnet").folder / PHASE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    assert read_phase(path.parent) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1'])
def test_a_torn_record_counts_as_none(tmp_path, text):
    path = written(tmp_path, "bitnet").folder / PHASE_FILE
    path.write_text(text)
    assert read_phase(path.parent) is None and read_phases(tmp_path) == []


def test_phases_are_read_in_their_order(tmp_path):
    for name in reversed(PLACES):
        written(tmp_path, name)
    assert [record.phase for record in read_phases(tmp_path)] == list(PLACES)
    assert phase_folder(tmp_path, "bitnet").name == "4-bitnet"


def test_a_forge_run_is_known_by_its_record_or_by_its_phases(tmp_path):
    assert not is_forge_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"options": {"policy": "ppo"}}))
    assert not is_forge_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"options": {"policy": "forge"}}))
    assert is_forge_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    assert not is_forge_run(tmp_path)
    written(tmp_path, "cognate", "running")
    assert is_forge_run(tmp_path)


def test_a_run_stands_for_its_last_phase_that_passed(tmp_path):
    for name, status in (("cognate", "finished"), ("evomerge", "finished"), ("bitnet", "failed")):
        written(tmp_path, name, status)
    assert input_folder(tmp_path) == phase_folder(tmp_path, "evomerge")


def test_a_phases_folder_and_a_bundle_stand_for_themselves(tmp_path):
    bundle(tmp_path / "4-bitnet")
    for path in ("4-bitnet", "4-bitnet/model", "4-bitnet/model.json", "4-bitnet/model.safetensors"):
        assert input_folder(tmp_path / path) == tmp_path / "4-bitnet"


def test_what_holds_no_model_is_refused_with_what_would_do(tmp_path):
    written(tmp_path, "cognate", "running")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "4-bitnet" / "other.json"):
        with pytest.raises(ForgeError, match=r"no model\.safetensors with its model\.json(.|\n)*expected the folder"):
            input_folder(path)


def test_gates_come_back_and_a_record_from_before_there_were_any_is_read(tmp_path):
    gates = (Gate("x", "at_least", 0.5), Gate("x", "at_most", 2.0))
    result = PhaseResult(
        success=True, phase="cognate", error=None, metrics={"x": 1.0}, artifacts={}, duration_s=1.0, gates=gates
    )
    record = PhaseRecord(tmp_path, "cognate", "finished", "key", None, result).write()
    assert read_phase(tmp_path) == record
    plain = json.loads((tmp_path / "phase.json").read_text())
    del plain["result"]["gates"]
    (tmp_path / "phase.json").write_text(json.dumps(plain))
    assert read_phase(tmp_path).result.gates == ()

"""Run folders as runs leave them, without a run."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml


def make_run(
    folder: Path,
    status: str = "finished",
    seed: int = 0,
    policy: str = "heuristic",
    accuracy: list[float] | None = None,
    epochs: int = 3,
    age_s: float = 60.0,
    score: str = "accuracy",
    config: dict[str, Any] | None = None,
    final: bool = False,
    **changes: Any,
) -> Path:
    """A run of two grown members and their twins. accuracy: of the grown ones in the last epoch, and in the test; or
    what has the name `score` and stands in its place."""
    accuracy = accuracy or [80.0, 82.0]
    folder.mkdir(parents=True)
    began = datetime.now(UTC) - timedelta(seconds=age_s)
    twin = [value - 5 - index for index, value in enumerate(accuracy)]
    summary = {
        "grown": {"test_accuracy": accuracy, "val_accuracy": accuracy, "parameters": [2000, 2200]},
        "twin": {"test_accuracy": twin, "val_accuracy": twin, "parameters": [1000, 1000]},
        "difference": {"test_accuracy": {"mean": 5.5, "low": 4.0, "high": 7.0, "n": 2}},
        "seeds": {"planted": 6, "culled": 1, "fossilized": 5},
        "wall_s": 12.0,
    }
    if final:  # a point better than the grown ones, at twice the arithmetic of the twins
        better = [value + 1 for value in accuracy]
        summary["final"] = {"test_accuracy": better, "parameters": [2000, 2200], "training_flops": [4e9, 6e9]}
        summary["final_difference"] = {"test_accuracy": {"mean": -1.0, "low": -1.5, "high": -0.5, "n": 2}}
    record = {
        "schema": 1,
        "id": folder.name,
        "uid": folder.name,
        "name": folder.parent.name,
        "sweep": None,
        "status": status,
        "seed": seed,
        "epoch": epochs,
        "max_epochs": 3,
        "update": 0,
        "max_updates": 0,
        "started_at": began.isoformat(timespec="milliseconds"),
        "finished_at": None,
        "heartbeat_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "wall_s": 12.5,
        "overrides": [f"policy={policy}", f"seed={seed}"],
        "options": {"task": "digits", "host": "cnn", "policy": policy},
        "error": None,
        "summary": summary if status == "finished" else None,
        "pid": 1,
        "host": "machine",
        "versions": {"esper": "0.1.0"},
    } | changes
    write_record(folder, record)
    values = {
        "name": "test",
        "seed": seed,
        "epochs": 3,
        "task": {"name": "digits"},
        "host": {"name": "cnn"},
        "policy": {"name": policy},
        "optimizer": {"learning_rate": 0.05},
        "controls": ["twin"],
        "engine": {"members": 2},
        "slots": {"isolate_gradients": True},
    } | (config or {})
    (folder / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    lines = [_epoch(epoch, epochs, accuracy) for epoch in range(epochs + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("run.json", "metrics.jsonl"):
        (folder / name).write_text((folder / name).read_text().replace("_accuracy", f"_{score}"))
    return folder


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """run.json, replaced as a whole."""
    fresh = folder / ".fresh"
    fresh.write_text(json.dumps(record))
    fresh.replace(folder / "run.json")


def _epoch(epoch: int, last: int, accuracy: list[float]) -> dict[str, Any]:
    share = epoch / max(last, 1)
    members = []
    for number in range(2 * len(accuracy)):
        is_twin = number >= len(accuracy)
        final = accuracy[number % len(accuracy)] - (5 if is_twin else 0)
        members.append(
            {
                "member": number,
                "is_twin": is_twin,
                "twin_of": number - len(accuracy) if is_twin else None,
                "val_accuracy": 10 + share * (final - 10),
                "parameter_count": 1000 if is_twin else 1000 + 400 * epoch,
                "flops_per_sample": 5000,
                "slots": {"early": {"stage": "FOSSILIZED" if epoch > 1 and not is_twin else "DORMANT"}},
            }
        )
    return {"epoch": epoch, "members": members}

"""Run directories as a run would leave them, made up: whole lives of seeds, twins, gates, rollbacks."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from esper.leyline import SeedStage, TelemetryEvent, TelemetryEventType

BLUEPRINTS = {"norm": 16, "conv_light": 160, "depthwise": 120, "conv_small": 240, "attention": 90, "conv_enhance": 600}
SLOTS = ("early", "mid", "late")
HOST_PARAMETERS, HOST_FLOPS = 1030, 118_000


@dataclass
class FakeSlot:
    name: str
    stage: SeedStage = SeedStage.DORMANT
    seed: str = ""
    blueprint: str = ""
    worth: float = 0.0
    alpha: float = 0.0
    epochs: int = 0

    def record(self, rng: random.Random, extra: dict[str, float]) -> dict[str, Any]:
        measured = self.stage in (SeedStage.BLENDING, SeedStage.PROBATIONARY, SeedStage.FOSSILIZED)
        contribution = self.worth * self.alpha + rng.gauss(0, 0.5) if measured else None
        return {
            "stage": self.stage.name,
            "stage_value": int(self.stage),
            "seed": self.seed,
            "blueprint": self.blueprint,
            "alpha": round(self.alpha, 4),
            "epochs_in_stage": self.epochs,
            "contribution": contribution,
            "contribution_loss": None if contribution is None else contribution / 60,
            "gradient_norm": abs(rng.gauss(0.4, 0.1)) if self.seed else 0.0,
            "gradient_norm_ratio": 0.2 if self.seed else 0.0,
            "improvement": rng.gauss(1, 0.5) if self.seed else 0.0,
        } | extra


@dataclass
class FakeMember:
    number: int
    rng: random.Random
    slots: dict[str, FakeSlot]
    events: list[TelemetryEvent] = field(default_factory=list)
    planted: int = 0

    def tell(self, kind: str, epoch: int, slot: FakeSlot, **data: Any) -> None:
        self.events.append(
            TelemetryEvent(TelemetryEventType(kind), epoch, self.number, slot.name, slot.seed, data=data)
        )

    def move(self, epoch: int, slot: FakeSlot, to: SeedStage, reason: str) -> None:
        data = {"from": slot.stage.name, "to": to.name, "blueprint": slot.blueprint, "blend": "sigmoid"}
        slot.stage, slot.epochs = to, 0
        self.tell("stage_changed", epoch, slot, **data, reason=reason)

    def gate(self, epoch: int, slot: FakeSlot, gate: str, target: SeedStage, passed: bool, score: float) -> None:
        good = [f"global_improvement_{score * 5:.2f}%", "isolation_ok", f"epochs_in_stage_{slot.epochs}"]
        bad = [] if passed else [f"seed_gradient_low_{abs(self.rng.gauss(0.02, 0.01)):.2f}"]
        self.tell(
            "gate_evaluated", epoch, slot, gate=gate, target=target.name, passed=passed, score=score,
            checks_passed=good, checks_failed=bad,
        )  # fmt: skip

    def act(self, epoch: int) -> None:
        """What a controller would do at the start of an epoch, one action a member."""
        for slot in self.slots.values():
            chance = self.rng.random()
            if slot.stage is SeedStage.DORMANT and epoch >= 2 and chance < 0.5:
                self.planted += 1
                slot.blueprint = self.rng.choice(list(BLUEPRINTS))
                slot.seed = f"m{self.number}-{slot.name}-{self.planted}"
                slot.worth, slot.alpha = self.rng.gauss(2.5, 2.0), 0.0
                reason = "validation accuracy has not moved by 0.5 points in 3 epochs"
                self.tell("germinated", epoch, slot, blueprint=slot.blueprint, blend="sigmoid", reason=reason)
                self.move(epoch, slot, SeedStage.GERMINATED, reason)
                return
            if slot.stage is SeedStage.TRAINING and slot.epochs >= 2:
                passed = chance < 0.45
                self.gate(epoch, slot, "G2", SeedStage.BLENDING, passed, 0.2 + 0.7 * chance)
                if passed:
                    self.move(epoch, slot, SeedStage.BLENDING, "G2 passed")
                    return
            if slot.stage is SeedStage.PROBATIONARY and slot.epochs >= 2:
                if slot.worth < 0.8:
                    self.cull(
                        epoch, slot, f"contribution {slot.worth:.2f} points after {slot.epochs} epochs on probation"
                    )
                    return
                self.gate(epoch, slot, "G4", SeedStage.FOSSILIZED, True, 1.0)
                self.gate(epoch, slot, "G5", SeedStage.FOSSILIZED, True, min(1.0, slot.worth / 5))
                self.move(epoch, slot, SeedStage.FOSSILIZED, f"contribution {slot.worth:.2f} points")
                self.tell(
                    "fossilized", epoch, slot, blueprint=slot.blueprint, reason=f"contribution {slot.worth:.2f} points"
                )
                return

    def cull(self, epoch: int, slot: FakeSlot, reason: str) -> None:
        self.tell("culled", epoch, slot, blueprint=slot.blueprint, reason=reason)
        self.move(epoch, slot, SeedStage.CULLED, reason)

    def end_epoch(self, epoch: int) -> None:
        """What a slot does by itself at the end of an epoch."""
        for slot in self.slots.values():
            slot.epochs += 1
            if slot.stage is SeedStage.GERMINATED:
                self.gate(epoch, slot, "G1", SeedStage.TRAINING, True, 1.0)
                self.move(epoch, slot, SeedStage.TRAINING, "G1 passed")
            elif slot.stage is SeedStage.BLENDING:
                slot.alpha = min(1.0, slot.alpha + 0.36)
                if slot.alpha == 1.0:
                    self.gate(epoch, slot, "G3", SeedStage.PROBATIONARY, True, 1.0)
                    self.move(epoch, slot, SeedStage.PROBATIONARY, "alpha reached 1")
            elif slot.stage is SeedStage.CULLED:
                slot.alpha = max(0.0, slot.alpha - 0.6)
                if slot.alpha == 0.0:
                    self.move(epoch, slot, SeedStage.EMBARGOED, "ramp ended")
            elif slot.stage is SeedStage.EMBARGOED and slot.epochs >= 3:
                self.move(epoch, slot, SeedStage.RESETTING, "embargo ended")
            elif slot.stage is SeedStage.RESETTING:
                self.move(epoch, slot, SeedStage.DORMANT, "reset")
                slot.seed, slot.blueprint = "", ""

    def roll_back(self, epoch: int) -> None:
        for slot in self.slots.values():
            slot.stage, slot.seed, slot.blueprint, slot.alpha = SeedStage.DORMANT, "", "", 0.0
        data = {"reason": "training loss is not finite", "to_epoch": epoch - 4}
        self.events.append(TelemetryEvent(TelemetryEventType.GOVERNOR_ROLLBACK, epoch, self.number, data=data))

    def parameters(self) -> int:
        return HOST_PARAMETERS + sum(BLUEPRINTS.get(slot.blueprint, 0) for slot in self.slots.values())


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`write_run` into a folder of this test's own."""
    return lambda **options: write_run(tmp_path / "run", **options)


@pytest.fixture(scope="session")
def write_a_run() -> Callable[..., Path]:
    """`write_run` itself, for a folder of the caller's choice."""
    return write_run


def write_run(
    run_dir: Path,
    *,
    members: int = 8,
    twins: bool = True,
    epochs: int = 25,
    status: str = "finished",
    last_epoch: int | None = None,
    events: bool = True,
    slots: tuple[str, ...] = SLOTS,
    name: str = "digits",
    rollback: tuple[int, int] | None = (2, 9),
    slot_extra: dict[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """Write config.yaml, run.json, metrics.jsonl and events.jsonl; rollback is (member, epoch)."""
    run_dir.mkdir(parents=True, exist_ok=True)
    last_epoch = epochs if last_epoch is None else last_epoch
    rng = random.Random(seed)
    grown = [
        FakeMember(n, random.Random(seed * 1000 + n), {slot: FakeSlot(slot) for slot in slots}) for n in range(members)
    ]
    talent = [rng.gauss(0, 1.5) for _ in range(members)]
    records: list[dict[str, Any]] = []
    said: list[TelemetryEvent] = [TelemetryEvent(TelemetryEventType.RUN_STARTED)]
    for epoch in range(last_epoch + 1):
        rows = []
        for member in grown:
            rolled = rollback == (member.number, epoch)
            if epoch:
                member.act(epoch)
                member.end_epoch(epoch)
            if rolled:
                member.roll_back(epoch)
            said += member.events
            member.events = []
            base = 10 + 60 * (1 - 2.718 ** (-epoch / 7)) + talent[member.number]
            gain = sum(slot.worth * slot.alpha for slot in member.slots.values())
            rows.append(_row(member, epoch, base + gain, rolled, slot_extra or {}))
        if twins:
            for member in grown:
                twin = FakeMember(members + member.number, rng, {slot: FakeSlot(slot) for slot in slots})
                base = 10 + 60 * (1 - 2.718 ** (-epoch / 7)) + talent[member.number]
                rows.append(
                    _row(twin, epoch, base, False, slot_extra or {}) | {"is_twin": True, "twin_of": member.number}
                )
        train_s = rng.gauss(2.0, 0.1) + 0.02 * epoch
        records.append(
            {
                "schema": 1,
                "epoch": epoch,
                "wall_s": 0.3 if epoch == 0 else train_s + 0.9,
                "train_s": 0.0 if epoch == 0 else train_s,
                "validation_s": 0.3,
                "counterfactual_s": 0.1 + 0.02 * epoch,
                "samples_per_s": None if epoch == 0 else 1000 * len(rows) / train_s,
                "host_epochs_per_s": None if epoch == 0 else len(rows) / (train_s + 0.9),
                "members": rows,
            }
        )
    if events:
        said.append(TelemetryEvent(TelemetryEventType.RUN_FINISHED, last_epoch, message=status))
    _write_lines(run_dir / "metrics.jsonl", records)
    _write_lines(run_dir / "events.jsonl", [event.to_dict() for event in said] if events else [])
    summary = _summary(records[-1]["members"], said, rng) if status == "finished" else None
    run = {
        "schema": 1, "id": run_dir.name, "name": name, "status": status, "pid": 4242, "host": "workstation",
        "started_at": "2026-11-20T12:00:00+00:00", "heartbeat_at": "2026-11-20T12:02:11+00:00",
        "finished_at": "2026-11-20T12:02:31+00:00" if status == "finished" else None, "epoch": last_epoch,
        "max_epochs": epochs, "seed": seed, "versions": {"esper": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "engine": {"kind": "fused", "kernels": "native", "reason": "3.8 ms a step against 11.2 ms sequential"},
        "error": "OSError: [Errno 28] No space left on device" if status == "failed" else None, "summary": summary,
    }  # fmt: skip
    (run_dir / "run.json").write_text(json.dumps(run, indent=1))
    (run_dir / "config.yaml").write_text(
        f"name: {name}\nseed: {seed}\nepochs: {epochs}\ntask:\n  name: digits\n  distortion: affine\n"
        f"host:\n  name: cnn\n  channels: [4, 8, 8]\npolicy:\n  name: heuristic\n  patience_epochs: 3\n"
        f"engine:\n  members: {members}\n"
    )
    return run_dir


def _row(member: FakeMember, epoch: int, accuracy: float, rolled: bool, slot_extra: dict[str, Any]) -> dict[str, Any]:
    accuracy = min(99.5, accuracy + member.rng.gauss(0, 0.7))
    parameters = member.parameters()
    return {
        "member": member.number,
        "is_twin": False,
        "twin_of": None,
        "train_loss": None if epoch == 0 else 2.3 - accuracy / 60,
        "train_accuracy": None if epoch == 0 else accuracy + 2,
        "val_loss": 2.4 - accuracy / 60,
        "val_accuracy": accuracy,
        "parameter_count": parameters,
        "flops_per_sample": HOST_FLOPS + 90 * (parameters - HOST_PARAMETERS),
        "rolled_back": rolled,
        "retired": False,
        "slots": {name: slot.record(member.rng, slot_extra) for name, slot in member.slots.items()},
    }


def _summary(rows: list[dict[str, Any]], events: list[TelemetryEvent], rng: random.Random) -> dict[str, Any]:
    def group(twin: bool) -> dict[str, Any]:
        mine = [row for row in rows if row["is_twin"] is twin]
        return {
            "test_accuracy": [row["val_accuracy"] - 1 + rng.gauss(0, 0.6) for row in mine],
            "val_accuracy": [row["val_accuracy"] for row in mine],
            "parameters": [row["parameter_count"] for row in mine],
        }

    def count(stage: str) -> int:
        return sum(event.data.get("to") == stage for event in events)

    grown, twin = group(False), group(True)
    return {
        "grown": grown,
        "twin": twin if twin["test_accuracy"] else None,
        "difference": None,
        "seeds": {"planted": count("GERMINATED"), "culled": count("CULLED"), "fossilized": count("FOSSILIZED")},
        "wall_s": 151.0,
    }


def _write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record, allow_nan=False) + "\n" for record in records))

"""What the quality gates decided, shortened to what a person wants to read."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from esper.nissa.report.timeline import check_text


@dataclass(slots=True)
class GateDecision:
    """One gate's verdict on one seed; the same verdict in a row is one decision from `first` to `last` epoch."""

    member: int
    slot: str
    seed: str
    gate: str
    target: str
    passed: bool
    first: int
    last: int
    times: int = 1
    score: float | None = None
    checks_passed: list[str] = field(default_factory=list)
    checks_failed: list[str] = field(default_factory=list)


@dataclass(slots=True)
class GateTotal:
    """How often a gate was asked and passed, and the commonest reasons why it refused."""

    gate: str
    target: str
    asked: int = 0
    passed: int = 0
    refusals: Counter[str] = field(default_factory=Counter)


def decisions(events: Iterable[dict[str, Any]]) -> list[GateDecision]:
    """All gate decisions, in order of their first epoch; checks are those of the last time."""
    found: list[GateDecision] = []
    latest: dict[tuple[Any, ...], GateDecision] = {}
    for event, data in _verdicts(events):
        seed_key = (event.get("member"), event.get("slot"), event.get("seed"))
        before = latest.get(seed_key)
        if before and (before.gate, before.passed) == (data.get("gate"), bool(data.get("passed"))):
            decision = before
            decision.times += 1
        else:
            decision = latest[seed_key] = GateDecision(
                member=event.get("member") or 0,
                slot=event.get("slot", ""),
                seed=event.get("seed", ""),
                gate=str(data.get("gate", "")),
                target=str(data.get("target", "")),
                passed=bool(data.get("passed")),
                first=event.get("epoch", 0),
                last=event.get("epoch", 0),
            )
            found.append(decision)
        decision.last = event.get("epoch", 0)
        decision.score = data.get("score")
        decision.checks_passed = [check_text(check) for check in data.get("checks_passed") or []]
        decision.checks_failed = [check_text(check) for check in data.get("checks_failed") or []]
    return found


def gate_totals(events: Iterable[dict[str, Any]]) -> list[GateTotal]:
    """One row a gate, in the gates' order."""
    totals: dict[str, GateTotal] = {}
    for _, data in _verdicts(events):
        gate = str(data.get("gate", ""))
        total = totals.setdefault(gate, GateTotal(gate, str(data.get("target", ""))))
        total.asked += 1
        total.passed += bool(data.get("passed"))
        if not data.get("passed"):
            total.refusals.update(without_numbers(check_text(check)) for check in data.get("checks_failed") or [])
    return [totals[gate] for gate in sorted(totals)]


def without_numbers(reason: str) -> str:
    """A reason without the figures in it, and their units, so that like reasons count as one."""
    bare = re.sub(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?\s*(%|points|epochs|times)?", "", reason)
    return re.sub(r"\s+", " ", bare).strip(" ,:;()") or reason


def _verdicts(events: Iterable[dict[str, Any]]) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    return ((event, event.get("data") or {}) for event in events if event.get("type") == "gate_evaluated")

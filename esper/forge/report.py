"""report.html of a forge run: the continuity table, each phase's gates, its curves."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esper.errors import ForgeError, FormatError
from esper.files import fitting, read_object
from esper.files.records import LEARNING_FILE, REPORT_FILE, RUN, RUN_FILE, UPDATE, UPDATE_NEEDS
from esper.forge.continuity import Aspect, aspects_of, marks
from esper.forge.phase import Gate
from esper.forge.pictures import continuity_picture, curves_picture
from esper.forge.records import PhaseRecord, read_phases
from esper.nissa import read_jsonl
from esper.nissa.formatting import clock, compact
from esper.nissa.report.page import render_page, write_page


def write_report(folder: Path) -> Path:
    """Write report.html into a forge run's folder, finished or not, and return its path. Raises ForgeError."""
    phases = read_phases(folder)
    if not phases:
        raise ForgeError(f"{folder}: no phase has begun in it yet")
    path = folder / REPORT_FILE
    write_page(path, render(folder, phases))
    return path


def render(folder: Path, phases: Sequence[PhaseRecord]) -> str:
    """The page as text."""
    try:
        run = fitting(read_object(folder / RUN_FILE), RUN)[0]
    except FormatError as error:
        raise ForgeError(f"{folder / RUN_FILE}: {error}") from error
    records, _ = read_jsonl(folder / LEARNING_FILE, UPDATE, UPDATE_NEEDS)
    measured = [record for record in phases if record.continuity is not None]
    aspects = aspects_of(record.continuity or {} for record in measured)
    worse = marks([(record.continuity or {}, record.status == "finished") for record in measured])
    return render_page(
        "forge/report.html.j2",
        run=run,
        phases=[_phase(record, records) for record in phases],
        rows=[
            {"phase": record.phase, "status": record.status, "cells": _cells(record, aspects, flags)}
            for record, flags in zip(measured, worse, strict=True)
        ],
        aspects=aspects,
        picture=continuity_picture([(record.phase, record.continuity or {}) for record in measured]),
        duration=clock(run.get("wall_s") or 0.0),
    )


def _cells(record: PhaseRecord, aspects: Sequence[Aspect], worse: dict[str, bool]) -> list[dict[str, Any]]:
    values = record.continuity or {}
    return [{"text": aspect.text(values.get(aspect.name)), "worse": worse[aspect.name]} for aspect in aspects]


def _shown(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return compact(value) if abs(value) >= 1e4 or value == int(value) else f"{value:.4g}"


def _gate(gate: Gate, metrics: Mapping[str, float]) -> dict[str, Any]:
    figure = metrics.get(gate.metric)
    return {
        "metric": gate.metric,
        "measured": "not measured" if figure is None else _shown(figure),
        "asked": f"{gate.bound.replace('_', ' ')} {_shown(gate.value)}",
        "is_passed": gate.is_passed(metrics),
    }


def _phase(record: PhaseRecord, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    result = record.result
    return {
        "name": record.phase,
        "status": record.status,
        "error": result.error if result else None,
        "notes": record.notes,
        "duration": clock(result.duration_s) if result else "",
        "gates": [_gate(gate, result.metrics) for gate in result.gates] if result else [],
        "metrics": [(name, _shown(value)) for name, value in (result.metrics.items() if result else ())],
        "curves": curves_picture(record.phase, records),
    }

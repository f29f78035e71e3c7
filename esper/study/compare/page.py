"""The page of a comparison: one file that works offline, in the look of a run's report."""

import hashlib
import os
from pathlib import Path
from typing import Any

from esper.checks import spelled
from esper.errors import CheckpointError, RunError
from esper.files.records import REPORT_FILE
from esper.nissa.formatting import compact, duration
from esper.nissa.report.page import render_page, write_page
from esper.nissa.statistics import Interval
from esper.study.compare import figures as figures
from esper.study.compare.comparison import Comparison, Difference
from esper.study.compare.run_group import GroupedRun, RunGroup
from esper.study.measure import Measure

MOST_CARDS = 6
MOST_BESIDE = 7  # groups whose rows have room beside the curves


def write_comparison(comparison: Comparison, path: Path | None = None) -> Path:
    """Write the page and return its path: beside the runs that are compared, unless it is given.

    Raises RunError where it cannot be written.
    """
    path = path or default_path(comparison)
    elsewhere = "another place: --page FILE"
    if not path.parent.is_dir():
        raise RunError(f"{path}: there is no such folder\n  {elsewhere}")
    try:
        write_page(path, render(comparison, path.parent))
    except CheckpointError as error:
        raise RunError(f"{error}\n  {elsewhere}") from error
    return path


def default_path(comparison: Comparison) -> Path:
    """In the folder that all runs have in common; the same runs always give the same name."""
    folders = [run.folder for group in comparison.groups for run in group.runs]
    names = "\n".join(sorted(str(folder.resolve()) for folder in folders))
    digest = hashlib.sha256(os.fsencode(names)).hexdigest()[:8]
    return Path(os.path.commonpath([folder.parent for folder in folders])) / f"compare_{digest}.html"


def render(comparison: Comparison, folder: Path) -> str:
    """The page as text. folder: where it will lie, for links to the runs' own reports."""
    main = comparison.measures[0]
    differences, own = shown_differences(comparison)
    return render_page(
        "study/compare/comparison.html.j2",
        title=title(comparison),
        facts=_facts(comparison),
        groups=[_group(comparison, group) for group in comparison.groups],
        cards=len(comparison.groups) <= MOST_CARDS,
        main=main,
        unit=comparison.unit,
        is_by_seed=comparison.is_by_seed,
        having=comparison.having,
        interval_note=comparison.interval_note,
        measures=comparison.measures,
        score=comparison.score,
        all_pair=all(comparison.difference(group, main).is_paired for group in comparison.groups[1:]),
        drawn=len(figures.drawn(comparison)),
        is_spread_beside=len(comparison.groups) <= MOST_BESIDE,
        pictures=_pictures(comparison, main),
        differences=differences,
        own_settings=own,
        left_out=comparison.given.left_out,
        runs=[
            _run(group, run, figures.tint(comparison, group), folder)
            for group in comparison.groups
            for run in group.runs
        ],
    )


def title(comparison: Comparison) -> str:
    """ "heuristic against static", with as many names as there is room for."""
    labels = [group.label for group in comparison.groups]
    if len(labels) == 2:
        return f"{labels[1]} against {labels[0]}"
    return " · ".join(labels) if len(labels) <= 4 else f"{len(labels)} configurations"


def shown_differences(comparison: Comparison) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """What differs between the configurations, as one would type it; "" where a group has no such key.

    Apart from it: keys that some options of a group do not have at all, of which an option's name says enough.
    """
    found = {
        key: ["" if value is ... else spelled(value) for value in values]
        for key, values in comparison.given.differences().items()
    }
    own = {key: values for key, values in found.items() if comparison.given.is_own(key)}
    return {key: values for key, values in found.items() if key not in own}, own


def measured(interval: Interval, measure: Measure) -> str:
    """A mean and its interval, as the tables have it."""
    if measure.decimals == 0 and interval.mean is not None:
        return compact(interval.mean)
    return interval.text(measure.decimals, measure.unit, signed=measure.name.endswith("/gain"))


def told_apart(difference: Difference, measure: Measure) -> str:
    """A difference and its interval."""
    if measure.decimals == 0 and difference.interval.mean is not None:
        mean = difference.interval.mean
        return "0" if round(mean) == 0 else f"{'+' if mean > 0 else '-'}{compact(abs(mean))}"
    return difference.interval.text(measure.decimals, signed=True)


def _facts(comparison: Comparison) -> dict[str, str]:
    runs = [run for group in comparison.groups for run in group.runs]
    return {
        "configurations": str(len(comparison.groups)),
        "runs": str(len(runs)),
        "hosts": str(sum(len(run.hosts) for run in runs)),
        "means over": comparison.unit,
        "baseline": comparison.groups[0].label,
    }


def _group(comparison: Comparison, group: RunGroup) -> dict[str, Any]:
    is_first = group is comparison.groups[0]
    hosts = sum(len(run.hosts) for run in group.runs)
    means = [comparison.mean(group, measure) for measure in comparison.measures]
    differences = [None if is_first else comparison.difference(group, measure) for measure in comparison.measures]
    return {
        "label": group.label,
        "tint": figures.tint(comparison, group),
        "runs": len(group.runs),
        "hosts": hosts,
        "mean": means[0],
        "difference": differences[0],
        "cells": [
            {
                "mean": measured(mean, measure),
                "difference": told_apart(difference, measure) if difference else "",
                "is_sure": bool(difference and difference.excludes_zero),
            }
            for mean, difference, measure in zip(means, differences, comparison.measures, strict=True)
        ],
        "controls": {
            title: [
                measured(mean, measure) if mean else ""
                for mean, measure in zip(figures, comparison.measures, strict=True)
            ]
            for title, figures in comparison.controls(group).items()
        },
        "seeds": [group.a_host(name) for name in ("planted", "fossilized", "culled")],
        "took": duration(group.wall_s) if group.wall_s else "",
    }


def _run(group: RunGroup, run: GroupedRun, tint: str, folder: Path) -> dict[str, Any]:
    report = run.folder / REPORT_FILE
    last = int(run.history.epochs[-1]) if run.history.records else 0
    scores = [score for score in run.final(f"test_{group.score.name}") if score is not None]
    return {
        "group": group.label,
        "tint": tint,
        "folder": str(run.folder),
        "report": Path(os.path.relpath(report, folder)).as_posix() if report.exists() else "",
        "seed": run.seed,
        "status": run.history.status,
        "epochs": f"{last}" if last == run.history.max_epochs else f"{last} of {run.history.max_epochs}",
        "hosts": len(run.hosts),
        "score": f"{sum(scores) / len(scores):.1f}%" if scores else "",
    }


def _pictures(comparison: Comparison, main: Measure) -> dict[str, str]:
    """SVG by name; a picture that would show nothing is not there."""
    width = 360 if len(comparison.groups) <= MOST_BESIDE else 1100
    found = {"spread": figures.spread(comparison, main, width), "bought": figures.bought(comparison, main)}
    if comparison.last_epoch > 0:
        found |= {
            "score": figures.score(comparison),
            "difference": figures.difference(comparison),
            "parameters": figures.parameters(comparison),
            "in_place": figures.in_place(comparison),
        }
    found["returns"] = figures.returns(comparison)
    return {name: picture for name, picture in found.items() if picture}

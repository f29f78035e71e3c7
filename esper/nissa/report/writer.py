"""report.html: one file that shows a whole run, made from its run directory alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper.files.records import REPORT_FILE
from esper.leyline.controls import FINAL, FINAL_EPOCHS
from esper.nissa.palette import STAGE_LOOKS, stage_look
from esper.nissa.record_view import score_of
from esper.nissa.report import figures, learning_figures, seed_figures
from esper.nissa.report.decisions import decisions, gate_totals
from esper.nissa.report.history import RunHistory, read_run
from esper.nissa.report.outcomes import seed_groups
from esper.nissa.report.page import render_page, write_page
from esper.nissa.report.plots import ticks
from esper.nissa.report.run_facts import facts, why_nothing_was_planted
from esper.nissa.report.side_by_side import notes, side_by_side
from esper.nissa.report.timeline import seed_stories, segments
from esper.nissa.statistics import Interval, mean_interval, paired_difference
from esper.nissa.tracker import DiagnosticTracker, seeds_of_record

FINAL_TITLES = {FINAL: "final networks, from scratch", FINAL_EPOCHS: "the same, for as many epochs"}


def write_report(run_dir: Path | str) -> Path:
    """Write report.html into a run directory, finished or not, and return its path.

    Raises:
        RunError: the folder holds nothing that a run writes.
    """
    run_dir = Path(run_dir)
    path = run_dir / REPORT_FILE
    write_page(path, render(read_run(run_dir)))
    return path


def render(history: RunHistory) -> str:
    """The page as text. Everything that comes from the run is escaped by the template."""
    timelines = {(member, slot): segments(history, member, slot) for member in history.grown for slot in history.slots}
    stories = seed_stories(history.events)
    scores = final_scores(history)
    sizes = history.series(history.grown, "parameter_count")  # [M, T]
    return render_page(
        "nissa/report/report.html.j2",
        history=history,
        run=history.run,
        facts=facts(history),
        why_nothing=why_nothing_was_planted(history),
        beside=beside_scores(history),
        finals=final_cards(history),
        side_by_side=side_by_side(summary) if (summary := history.run.get("summary") or {}).get("grown") else None,
        notes=notes(summary) if summary.get("grown") else [],
        scores=scores,
        timelines=timelines,
        sizes=[float(sizes[:, 0].mean()), float(sizes[:, -1].mean())] if sizes.size else [0.0, 0.0],
        last_scores={member: score_of(row) for member, row in history.last.items()},
        score=history.score,
        epoch_ticks=ticks(0, max(history.max_epochs, 1), 8, whole=True),
        looks=STAGE_LOOKS,
        stage_look=stage_look,
        blueprints=seed_figures.blueprint_colours(timelines),
        pictures=_pictures(history, timelines, scores),
        troubles=_troubles(history),
        stories=stories,
        groups=seed_groups(stories, history.slots),
        gates=gate_totals(history.events),
        decisions=decisions(history.events),
        diagnostics=_diagnostics(history),
    )


@dataclass(slots=True)
class FinalScores:
    """The scores that a run is judged by, member by member, and their intervals (percent and points)."""

    what: str  # "test accuracy", or the last validation score of a run that has not been tested
    labels: list[str]
    grown: list[float | None]
    twin: list[float | None] | None
    grown_mean: Interval
    twin_mean: Interval | None
    difference: Interval | None
    within: tuple[float, float]


def final_scores(history: RunHistory) -> FinalScores | None:
    """Test scores of the run's summary; without one, validation scores of the last epoch recorded."""
    summary, kind = history.run.get("summary") or {}, history.score
    if summary.get("grown", {}).get(f"test_{kind.name}"):
        what = f"test {kind.title}"
        grown = summary["grown"][f"test_{kind.name}"]
        twin = (summary.get("twin") or {}).get(f"test_{kind.name}") or None
    elif history.records:
        what = f"validation {kind.title}, epoch {history.epochs[-1]}"
        last = {member: score_of(row) for member, row in history.last.items()}
        grown = [last[member] for member in history.grown]
        twin = [last.get(history.twins[member]) for member in history.grown if member in history.twins] or None
    else:
        return None
    is_paired = twin is not None and len(twin) == len(grown)
    return FinalScores(
        what=what,
        labels=[str(member) for member in history.grown] or [str(index) for index in range(len(grown))],
        grown=grown,
        twin=twin,
        grown_mean=mean_interval(grown, within=kind.within),
        twin_mean=mean_interval(twin, within=kind.within) if twin else None,
        difference=paired_difference(grown, twin) if is_paired and twin is not None else None,
        within=kind.within,
    )


def beside_scores(history: RunHistory) -> dict[str, dict[str, Interval]]:
    """What is measured on the test split beside the score: title -> of "grown", "twin" and "difference"."""
    summary = history.run.get("summary") or {}
    found: dict[str, dict[str, Interval]] = {}
    for title, name in {"test RMSE": "test_rmse", "test bits per byte": "test_bits_per_byte"}.items():
        grown, twin = ((summary.get(who) or {}).get(name) or [] for who in ("grown", "twin"))
        intervals = {"grown": mean_interval(grown), "twin": mean_interval(twin)}
        if len(grown) == len(twin):
            intervals["difference"] = paired_difference(grown, twin)
        if known := {who: interval for who, interval in intervals.items() if interval.mean is not None}:
            found[title] = known
    return found


@dataclass(slots=True)
class FinalCard:
    """What members have grown into, trained from scratch (percent), and how far the grown are ahead of it (points)."""

    title: str
    mean: Interval
    difference: Interval


def final_cards(history: RunHistory) -> list[FinalCard]:
    """Of a finished run's final networks, judged as in `final_scores`."""
    summary, kind = history.run.get("summary") or {}, history.score
    key, found = f"test_{kind.name}", []
    for control, title in FINAL_TITLES.items():
        grown, final = ((summary.get(who) or {}).get(key) or [] for who in ("grown", control))
        if final and len(final) == len(grown):
            interval = mean_interval(final, within=kind.within)
            found.append(FinalCard(title, interval, paired_difference(grown, final)))
    return [card for card in found if card.mean.mean is not None]


def _pictures(history: RunHistory, timelines: seed_figures.Timelines, scores: FinalScores | None) -> dict[str, str]:
    """SVG by name; a picture that would show nothing is not there."""
    found: dict[str, str] = {}
    if len(history.updates) > 1:
        found |= {"returns": learning_figures.returns(history), "learner": learning_figures.diagnostics(history)}
    if len(history.records) < 2 or not history.grown:  # the untrained host alone is a point, no curve
        return {name: picture for name, picture in found.items() if picture}
    found["score"] = figures.score(history)
    found["pairs"] = _pairs(scores) if scores else ""
    has_seeds = any(timelines.values())
    if history.twins:
        found["difference"] = figures.difference(history, 530 if has_seeds else 1100)
    if has_seeds:
        found["occupancy"] = seed_figures.occupancy(history, timelines, 530 if history.twins else 1100)
        found["contribution"] = seed_figures.contribution(history, timelines)
        found["alpha"] = seed_figures.alpha(history, timelines)
    found["choices"] = learning_figures.choices(history)
    found["parameters"] = figures.size(history, "parameter_count", "parameters")
    found["flops"] = figures.size(history, "flops_per_sample", "FLOPs a sample, forward")
    found["throughput"] = figures.throughput(history)
    found["time"] = figures.time_shares(history)
    return {name: picture for name, picture in found.items() if picture}


def _pairs(scores: FinalScores) -> str:
    """The picture of members beside their twins, those left out for which something was not measured."""
    twins = scores.twin if scores.difference and scores.twin else scores.grown
    rows = [
        (label, mine, other)
        for label, mine, other in zip(scores.labels, scores.grown, twins, strict=False)
        if mine is not None and other is not None
    ]
    if not rows:
        return ""
    labels, grown, twin = [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    return figures.pairs(labels, grown, twin if scores.difference else None, f"{scores.what}, %", scores.within)


def _troubles(history: RunHistory) -> list[dict[str, Any]]:
    """Rollbacks, retirements and refused actions."""
    kinds = {"governor_rollback": "rolled back", "member_retired": "retired", "action_refused": "refused"}
    return [event | {"kind": kinds[event["type"]]} for event in history.events if event.get("type") in kinds]


def _diagnostics(history: RunHistory) -> list[str]:
    tracker = DiagnosticTracker()
    for record in history.records:
        for telemetry, loss in seeds_of_record(record):
            tracker.record(telemetry, loss)
    return tracker.diagnostics()

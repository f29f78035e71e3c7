"""`esper compare`: what is a group, what pairs, and what the page shows."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from esper.cli import main
from esper.errors import RunError
from esper.study.compare import figures
from esper.study.compare.comparison import Comparison
from esper.study.compare.groups import read_groups, seeds
from esper.study.compare.page import default_path, render
from tests.study.run_folders import make_run


def compared(*folders: Path) -> Comparison:
    return Comparison(read_groups([str(folder) for folder in folders]))


def sweep(root: Path, policies: dict[str, float], numbers: range, **changes) -> list[Path]:
    """A run for each policy and seed; policies: what each is better by."""
    return [
        make_run(
            root / f"{policy}_{seed}",
            seed=seed,
            policy=policy,
            accuracy=[70 + better + seed, 71 + better - seed],
            **changes,
        )
        for policy, better in policies.items()
        for seed in numbers
    ]


def test_regressions_are_compared_by_r_squared(tmp_path):
    comparison = compared(*sweep(tmp_path, {"static": 0.0, "ppo": 5.0}, range(3), score="r2"))
    assert [measure.name for measure in comparison.measures[:3]] == ["test_r2", "val_r2", "twin/gain"]
    assert comparison.difference(comparison.groups[1], comparison.measures[0]).interval.mean == pytest.approx(5.0)
    page = render(comparison, tmp_path)
    assert "Validation R-squared, means" in page and "test R-squared" in page and "ccuracy, " not in page


def test_controls_stand_beside_their_groups(tmp_path, capsys):
    folders = sweep(tmp_path, {"static": 0.0, "ppo": 5.0}, range(3), final=True)
    comparison = compared(*folders)
    names = [measure.name for measure in comparison.measures]
    assert names[2:4] == ["twin/gain", "final/gain"]
    assert comparison.mean(comparison.groups[1], comparison.measures[3]).mean == pytest.approx(-1.0)
    for group in comparison.groups:
        controls = comparison.controls(group)
        assert list(controls) == ["static twin", "final"]
        final = dict(zip(names, controls["final"], strict=True))
        grown = comparison.mean(group, comparison.measures[0]).mean
        assert final["test_accuracy"].mean == pytest.approx(grown + 1) and final["parameters"].mean == 2100
        assert final["val_accuracy"] is None, "the curve's epoch is not theirs"
    assert main(["compare", *map(str, folders)]) == 0
    shown = capsys.readouterr().out
    assert "over final" in shown and shown.count("  final ") == 2
    assert render(comparison, tmp_path).count(">final<") == 2


def test_runs_that_differ_in_the_seed_alone_are_one_group(tmp_path):
    comparison = compared(*sweep(tmp_path, {"static": 0.0, "ppo": 5.0}, range(3)))
    assert [(group.label, len(group.runs)) for group in comparison.groups] == [("static", 3), ("ppo", 3)]
    assert comparison.unit == "seeds"
    main_measure = comparison.measures[0]
    assert main_measure.name == "test_accuracy"
    difference = comparison.difference(comparison.groups[1], main_measure)
    assert difference.is_paired
    assert difference.excludes_zero
    assert (difference.interval.mean, difference.interval.low, difference.interval.n) == (5.0, 5.0, 3)
    assert comparison.mean(comparison.groups[0], main_measure).mean == 70.5


def test_hosts_are_not_pooled_where_a_group_has_several_seeds(tmp_path):
    few = sweep(tmp_path, {"static": 0.0}, range(2))
    comparison = compared(*few, *sweep(tmp_path, {"ppo": 5.0}, range(3)), *sweep(tmp_path, {"iql": 1.0}, range(1)))
    assert comparison.unit == "seeds"
    means = [comparison.mean(group, comparison.measures[0]) for group in comparison.groups]
    assert [mean.n for mean in means] == [2, 3, 1]
    assert [mean.low is None for mean in means] == [True, False, True]
    assert "With fewer than three there is no interval." in render(comparison, tmp_path)


def test_labels_say_what_differs_the_policy_first(tmp_path):
    options = {"task": "digits", "host": "cnn", "telemetry": "plain", "debug": "smoke"}
    load = {"policy": {"name": "ppo", "load": "outputs/x/2026_aa11/agent_epoch_9"}, "telemetry": {"name": "plain"}}
    first = make_run(tmp_path / "a", config={"epochs": 4, "engine": {"members": 8}})
    second = make_run(tmp_path / "b", policy="ppo", options=options | {"policy": "ppo"}, config=load)
    third = make_run(tmp_path / "c", policy="ppo", config={"policy": {"name": "ppo", "load": None}})
    assert [group.label for group in compared(first, second, third).groups] == [
        "heuristic, epochs 4, members 8",
        "ppo, epochs 3, load agent_epoch_9, members 2",
        "ppo, epochs 3, load null, members 2",
    ]


def test_runs_that_trained_as_one_program_share_its_time(tmp_path):
    folders = sweep(tmp_path, {"static": 0.0, "ppo": 1.0}, range(2), together=4, wall_s=8.0)
    assert [group.wall_s for group in compared(*folders).groups] == [4.0, 4.0]


def test_where_nothing_but_the_seed_differs_each_run_is_a_group(tmp_path):
    comparison = compared(*sweep(tmp_path, {"static": 0.0}, range(2)))
    assert [group.label for group in comparison.groups] == ["seed 0", "seed 1"]
    assert comparison.unit == "hosts"
    assert not comparison.difference(comparison.groups[1], comparison.measures[0]).is_paired


def test_two_runs_of_one_seed_pair_host_by_host(tmp_path):
    first = make_run(tmp_path / "a", policy="static", accuracy=[70.0, 75.0, 80.0])
    second = make_run(tmp_path / "b", policy="ppo", accuracy=[71.0, 77.0, 83.0])
    comparison = compared(first, second)
    difference = comparison.difference(comparison.groups[1], comparison.measures[0])
    assert difference.is_paired
    assert difference.interval.mean == pytest.approx(2.0)
    assert difference.interval.low == pytest.approx(2 - 4.303 / np.sqrt(3), abs=1e-3)


@pytest.mark.parametrize("change", [{"task": {"name": "text"}}, {"host": {"name": "wide"}}, {"batch_size": 32}])
def test_hosts_that_began_otherwise_do_not_pair(tmp_path, change):
    first = make_run(tmp_path / "a", accuracy=[70.0, 75.0, 80.0])
    second = make_run(tmp_path / "b", accuracy=[71.0, 77.0, 83.0], config=change)
    comparison = compared(first, second)
    difference = comparison.difference(comparison.groups[1], comparison.measures[0])
    assert not difference.is_paired
    assert difference.interval.mean == pytest.approx(2.0)
    assert difference.interval.low < 2 - 4.303 / np.sqrt(3)


def test_unfinished_runs_are_compared_by_the_last_epoch_that_all_have(tmp_path):
    first = make_run(tmp_path / "a", policy="static", accuracy=[70.0, 70.0])
    second = make_run(tmp_path / "b", policy="ppo", status="running", epochs=2, accuracy=[80.0, 90.0])
    comparison = compared(first, second)
    assert comparison.last_epoch == 2
    assert comparison.measures[0].name == "val_accuracy"
    assert comparison.mean(comparison.groups[1], comparison.measures[0]).mean == 85.0
    assert comparison.mean(comparison.groups[0], comparison.measures[0]).mean == pytest.approx(50.0)


def test_of_runs_of_the_same_the_newest_finished_one_counts(tmp_path):
    make_run(tmp_path / "old", age_s=300)
    make_run(tmp_path / "new", age_s=200)
    make_run(tmp_path / "broken", age_s=100, status="failed")
    make_run(tmp_path / "other", policy="ppo")
    make_run(tmp_path / "empty", policy="iql", status="failed", epochs=-1)
    given = read_groups([str(tmp_path)])
    assert sorted(group.runs[0].folder.name for group in given.groups) == ["new", "other"]
    assert len(given.left_out) == 3


def test_a_sweep_is_compared_in_its_own_order_without_replaced_attempts(tmp_path):
    jobs = {"0aaaaaaaaaaa": 0.3, "0bbbbbbbbbbb": 0.02, "0ccccccccccc": 0.1}
    for job, rate in jobs.items():
        make_run(tmp_path / "outputs/x/sweep-01" / job, config={"optimizer": {"learning_rate": rate}})
    make_run(tmp_path / "outputs/x/sweep-01/0aaaaaaaaaaa.1", config={"optimizer": {"learning_rate": 9.0}})
    order = ["0bbbbbbbbbbb", "0ccccccccccc", "0aaaaaaaaaaa"]
    (tmp_path / "outputs/x/sweep-01/sweep.json").write_text(json.dumps({"jobs": {job: [] for job in order}}))
    for argument in (str(tmp_path / "outputs/x/sweep-01"), "sweep-01"):
        given = read_groups([argument], tmp_path / "outputs")
        assert [group.label for group in given.groups] == [f"learning_rate {rate}" for rate in (0.02, 0.1, 0.3)]
        assert given.differences() == {"optimizer.learning_rate": [0.02, 0.1, 0.3]}


def test_settings_of_an_option_s_own_are_told_from_those_that_differ(tmp_path):
    first = make_run(tmp_path / "a", config={"policy": {"name": "static"}, "epochs": 3})
    second = make_run(tmp_path / "b", policy="ppo", config={"policy": {"name": "ppo", "gamma": 1.0}, "epochs": 4})
    given = read_groups([str(first), str(second)])
    assert given.differences() == {"epochs": [3, 4], "policy.name": ["static", "ppo"], "policy.gamma": [..., 1.0]}
    assert [key for key in given.differences() if given.is_own(key)] == ["policy.gamma"]


def test_the_command_prints_and_writes_the_page(tmp_path, capsys):
    folders = sweep(tmp_path / "runs", {"static": 0.0, "ppo": 5.0}, range(3))
    (folders[0] / "report.html").touch()
    assert main(["compare", *map(str, folders)]) == 0
    output = capsys.readouterr().out
    assert re.search(r"policy\.name +static +ppo", output)
    assert re.search(r"static +3 +70\.5%", output)
    assert re.search(r"difference, paired +\+5\.0 \[\+5\.0, \+5\.0\]", output)
    page = Path(output.strip().rpartition("page  ")[2])
    assert page.parent == tmp_path / "runs"
    text = page.read_text()
    assert "<title>ppo against static · Esper</title>" in text
    assert text.count("<svg") == 5
    assert 'href="static_0/report.html"' in text
    assert not re.search(r"(src|href)=\"(http|//)", text)
    main(["compare", *map(str, folders)])
    assert [file.name for file in page.parent.glob("compare_*")] == [page.name]


BAND = re.compile(r'fill-opacity="0\.15"')
CASES = {  # seeds of each group -> what is said of intervals and of bands, and how many bands are drawn
    (2, 2): ("without intervals, which take three seeds", "without bands, which take three seeds", 0),
    (2, 3): ("with 95% intervals from three seeds on", "with 95% bands from three seeds on", 1),
    (3, 3): ("with 95% intervals", "with 95% bands", 2),
}


@pytest.mark.parametrize("numbers", CASES, ids=str)
def test_intervals_and_bands_are_told_of_where_they_are(tmp_path, capsys, numbers):
    intervals, bands, drawn = CASES[numbers]
    folders = [
        run
        for (policy, better), count in zip({"static": 0.0, "ppo": 5.0}.items(), numbers, strict=True)
        for run in sweep(tmp_path, {policy: better}, range(count))
    ]
    assert main(["compare", *map(str, folders)]) == 0
    assert f"means over seeds, {intervals}; differences" in capsys.readouterr().out
    comparison = compared(*folders)
    page = render(comparison, tmp_path)
    assert f"Validation accuracy, means {bands}." in page and f"above them, the mean {intervals}." in page
    for picture in (figures.score, figures.parameters, figures.in_place):
        assert len(BAND.findall(picture(comparison))) == drawn
    assert ("95%" in page) == (drawn > 0)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_wraps_figures_and_cuts_none(tmp_path, capsys, monkeypatch, width):
    for name, value in {"COLUMNS": str(width), "FORCE_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    assert main(["compare", *map(str, sweep(tmp_path, {"static": 0.0, "ppo": 5.0}, range(3)))]) == 0
    output = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert "…" not in output and "\\" not in output
    assert {"70.5%", "[70.5,", "70.5]", "+5.0", "[+5.0,", "+5.0]"} <= set(output.split())


def test_the_page_goes_where_it_is_wanted(tmp_path, capsys):
    folders = sweep(tmp_path, {"static": 0.0, "ppo": 5.0}, range(1))
    assert main(["compare", *map(str, folders), "--page", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").exists()
    assert main(["compare", *map(str, folders), "--page", str(tmp_path / "none/page.html")]) == 2
    assert "--page FILE" in capsys.readouterr().err


def test_everything_from_a_run_is_escaped(tmp_path):
    evil = "<script>x</script>"
    first = make_run(tmp_path / "a", policy=evil, config={"policy": {"name": evil}, "<b>": 1})
    page = render(compared(first, make_run(tmp_path / "b<i>")), tmp_path)
    assert "<script" not in page
    assert "b<i>" not in page
    assert "<b>" not in page.replace("<td><b>", "")


def test_many_groups_still_make_a_page(tmp_path):
    for number in range(20):
        config = {"optimizer": {"learning_rate": number / 10}}
        make_run(tmp_path / f"{number:02}", config=config, accuracy=[70.0 + number, 71.0])
    comparison = compared(tmp_path)
    assert len(comparison.groups) == 20
    page = render(comparison, tmp_path)
    assert "Curves are drawn of 8 configurations" in page
    assert default_path(comparison).parent == tmp_path


@pytest.mark.parametrize("status", ["finished", "failed"])
def test_one_run_is_nothing_to_compare(tmp_path, status):
    make_run(tmp_path / "a", status=status, epochs=3 if status == "finished" else -1)
    with pytest.raises(RunError, match="give two runs or more"):
        read_groups([str(tmp_path)])


def test_seeds_as_people_write_them():
    assert [seeds(given) for given in ([3], [2, 0, 1], [0, 1], [5, 0, 2], [1, 1])] == [
        "3",
        "0 to 2",
        "0, 1",
        "0, 2, 5",
        "1",
    ]

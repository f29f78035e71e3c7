"""`esper runs`, as a user sees it."""

import json
from pathlib import Path

import pytest

from esper.checkpoint import RunLock
from esper.cli import main
from esper.sweep.jobs import JobFile
from tests.study.run_folders import make_run


@pytest.fixture
def root(tmp_path):
    for seed in range(3):
        make_run(tmp_path / f"digits_heuristic/2026-11-20_19-51-1{seed}_fbca524{seed}", seed=seed, age_s=seed)
    make_run(tmp_path / "bad/x", status="failed", policy="ppo", error="Error: [red]no\nspace", age_s=100)
    return tmp_path


def test_a_pipe_gets_the_whole_table_and_nothing_else(root, capsys):
    assert main(["runs", "--root", str(root)]) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert lines[0].split()[:4] == ["run", "status", "progress", "task"]
    assert len(lines) == 5
    run = "digits_heuristic/2026-11-20_19-51-10_fbca5240"
    assert lines[1].split()[:8] == [run, "finished", "3/3", "digits", "cnn", "heuristic", "0", "81.0%"]
    assert "+5.5 ±1.5" in lines[1]
    assert "\x1b" not in output.out
    assert "4 runs: 3 finished, 1 failed" in output.err
    assert f"bad/x: Error: [red]no space  → esper resume {root}/bad/x" in output.err


def test_jobs_of_a_sweep_go_on_together(tmp_path, capsys):
    sweep = tmp_path / "digits/sweep-01"
    for number in range(4):
        make_run(sweep / f"{number}23456789ab", status="interrupted")
    (sweep / "sweep.json").write_text(json.dumps({"arguments": ["-m", "seed=0,1,2,3", "rerun=none"]}))
    main(["runs", "--root", str(tmp_path)])
    error = capsys.readouterr().err
    assert "digits/sweep-01: 4 interrupted  → python -m esper.run -m seed=0,1,2,3\n" in error
    assert "esper resume" not in error
    job = JobFile(sweep / "423456789abc")
    job.begin([])
    job.end("failed", error="no such slot")
    main(["runs", "--root", str(tmp_path)])
    error = capsys.readouterr().err
    assert "4 interrupted, 1 failed, one of them: no such slot  →" in error
    assert "seed=0,1,2,3 rerun=failed\n" in error


def test_filter_sort_limit_and_further_columns(root, capsys):
    arguments = ["--filter", "status=finished", "seed>0", "--sort", "seed", "--columns", "optimizer.learning_rate"]
    assert main(["runs", "--root", str(root), *arguments, "--limit", "1"]) == 0
    output = capsys.readouterr()
    header, line = output.out.splitlines()
    assert header.split()[-1] == "optimizer.learning_rate"
    assert line.split()[-1] == "0.05"
    assert "51-12" in line
    assert "1 of 2 runs: 2 finished; to see all: --limit 0" in output.err


@pytest.mark.parametrize(
    ("names", "seeds"),
    [
        (["sweep-0754"], {0, 1}),
        (["0754"], {0, 1}),
        (["{root}/digits/sweep-0754"], {0, 1}),
        (["0aaaaaaaaaaa", "--filter", "seed=0"], {0}),
        (["sweep-0754", "apart", "--filter", "seed>0"], {1, 7}),
        (["apart", "{root}/digits/sweep-0754/0bbbbbbbbbbb", "apart"], {1, 7}),
        (["{elsewhere}"], {9}),
    ],
)
def test_runs_and_sweeps_may_be_named(tmp_path, capsys, names, seeds):
    root, elsewhere = tmp_path / "outputs", tmp_path / "elsewhere"
    for seed, job in enumerate(("0aaaaaaaaaaa", "0bbbbbbbbbbb")):
        make_run(root / "digits/sweep-0754" / job, seed=seed)
    (root / "digits/sweep-0754/sweep.json").write_text('{"jobs": {}}')
    make_run(root / "digits/apart", seed=7)
    make_run(elsewhere, seed=9)
    given = [name.format(root=root, elsewhere=elsewhere) for name in names]
    assert main(["runs", *given, "--root", str(root), "--json"]) == 0
    assert {row["seed"] for row in json.loads(capsys.readouterr().out)} == seeds
    assert main(["runs", "nowhere", "--root", str(root)]) == 2
    assert "nowhere: no such run" in capsys.readouterr().err


def test_json_has_everything(root, capsys):
    assert main(["runs", "--root", str(root), "--json", "--sort", "seed", "--columns", "engine.members"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["seed"] for row in rows] == [2, 1, 0, 0]
    assert rows[0]["test_accuracy"] == 81.0
    assert rows[0]["engine.members"] == 2
    assert Path(rows[0]["path"]).is_dir()


def test_a_run_under_way_says_how_far_it_is(root, capsys):
    folder = make_run(root / "now", status="running", epochs=1)
    with RunLock(folder):
        main(["runs", "--root", str(root), "--filter", "status=running"])
    output = capsys.readouterr()
    assert output.out.splitlines()[1].split()[:3] == ["now", "running", "1/3"]
    assert "~81.0%" in output.out
    assert output.out.splitlines()[1].endswith("ago")
    assert "not tested yet" in output.err


@pytest.mark.parametrize("arguments", [[], ["--filter", "status=queued"]])
def test_nothing_to_show_is_said(tmp_path, root, arguments, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["runs", "--root", str(root if arguments else empty), *arguments]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert ("none of 4 runs: status=queued" if arguments else "to start one: python -m esper.run") in output.err


def test_mistakes(root, capsys):
    for arguments in (["--limit", "-1"], ["--filter", "x"], ["--sort", "sed"], ["--root", "none"]):
        assert main(["runs", "--root", str(root), *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert len(error.splitlines()) <= 2

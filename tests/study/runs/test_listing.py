"""The table of runs: it fits a terminal, and says how long ago."""

import pytest
from rich.cells import cell_len

from esper.study.runs.index import read_index
from esper.study.runs.listing import ago, runs_table, shortened
from esper.study.runs.query import Table
from tests.study.run_folders import make_run


@pytest.fixture
def root(tmp_path):
    for seed in range(3):
        make_run(tmp_path / f"digits_heuristic/2026-11-20_19-51-1{seed}_fbca524{seed}", seed=seed, age_s=seed)
    make_run(tmp_path / "bad/x", status="failed", policy="ppo", error="Error: [red]no\nspace", age_s=100)
    return tmp_path


@pytest.mark.parametrize("width", [50, 60, 80, 100, 120, 160, 200])
def test_the_table_fits_the_terminal(root, width):
    make_run(root / "now", status="running", epochs=1, policy="reinforce")
    rows = read_index(root).rows
    table, common = runs_table(Table(rows), rows, [], width)
    from rich.console import Console

    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().splitlines()
    assert len(lines) == 1 + len(rows)
    assert all(cell_len(line) <= width for line in lines)
    assert "finished" in lines[1]
    assert all("81.0%" in line for line in lines[1:] if "failed" not in line)
    assert not any("…" in line[30:] for line in lines)  # paths may be shortened, figures not
    assert ("task digits" in common) == (width <= 120)


def test_paths_keep_their_end():
    assert shortened("digits_heuristic/2026-11-20_19-51-17_fbca5242", 24) == "digits_heur…-17_fbca5242"
    assert shortened("short", 24) == "short"


def test_ago():
    from datetime import UTC, datetime, timedelta

    def since(seconds: float) -> str:
        return ago((datetime.now(UTC) - timedelta(seconds=seconds)).isoformat())

    assert [since(seconds) for seconds in (5, 100, 4000, 8000, 90000, 200000)] == [
        "5 s", "2 min", "67 min", "2 h", "25 h", "2 d",
    ]  # fmt: skip
    assert ago(None) == ""

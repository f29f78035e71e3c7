import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from esper.errors import RunError
from esper.nissa.report.history import read_run


def test_a_run_reads_back(make_run: Callable[..., Path]) -> None:
    history = read_run(make_run(members=3, epochs=6, rollback=None))
    assert history.epochs.tolist() == list(range(7))
    assert history.grown == [0, 1, 2] and history.twins == {0: 3, 1: 4, 2: 5}
    assert history.slots == ["early", "mid", "late"]
    assert history.max_epochs == 6 and history.status == "finished"
    losses = history.series([0, 4], "train_loss")
    assert losses.shape == (2, 7)
    assert np.isnan(losses[:, 0]).all() and np.isfinite(losses[:, 1:]).all()
    assert history.slot_series(0, "early", "stage")[0] == "DORMANT"


def test_a_killed_run_reads_as_far_as_it_goes(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=1, epochs=9, status="running", last_epoch=4, rollback=None)
    metrics = run_dir / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-40])
    (run_dir / "config.yaml").unlink()
    history = read_run(run_dir)
    assert history.epochs.tolist() == [0, 1, 2, 3]
    assert history.unreadable_lines == 1 and history.config_text == "" and history.max_epochs == 9


def test_an_epoch_that_was_lived_twice_counts_as_lived_last(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(members=1, epochs=3, rollback=None)
    lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "metrics.jsonl").write_text("".join(lines[:3]) + lines[1].replace('"wall_s": ', '"wall_s": 9'))
    history = read_run(run_dir)
    assert history.epochs.tolist() == [0, 1, 2]
    assert history.epoch_series("wall_s")[1] > 90


def test_a_folder_that_is_no_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"not a run directory.*run\.json"):
        read_run(tmp_path)


def test_a_line_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    lines = [{"update": 2, "return_mean": 1.0}, {"update": 1}, {"update": 2, "return_mean": 3.0}]
    (tmp_path / "learning.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    history = read_run(tmp_path)
    assert history.update_series("update").tolist() == [1, 2]
    assert history.update_series("return_mean").tolist()[1] == 3.0

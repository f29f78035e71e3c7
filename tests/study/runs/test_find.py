"""A run by its folder, or by part of its path."""

import pytest

from esper.errors import RunError
from esper.study.runs.find import find_run
from esper.sweep.jobs import JobFile
from tests.study.run_folders import make_run


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in ("digits_ppo/2026_aa11", "digits_ppo/2026_aa22", "sweep/aa1", "sweep/aa11bb"):
        make_run(tmp_path / "outputs" / run)
    return tmp_path / "outputs"


@pytest.mark.parametrize(
    ("text", "run"),
    [
        ("outputs/digits_ppo/2026_aa11", "digits_ppo/2026_aa11"),
        ("outputs/digits_ppo/2026_aa11/", "digits_ppo/2026_aa11"),
        ("digits_ppo/2026_aa11", "digits_ppo/2026_aa11"),
        ("outputs/sweep/aa1", "sweep/aa1"),
        ("aa22", "digits_ppo/2026_aa22"),
        ("aa1", "sweep/aa1"),  # a whole name, though others begin so
        ("11bb", "sweep/aa11bb"),
    ],
)
def test_what_is_meant(root, text, run):
    assert find_run(text).resolve() == root / run


def test_a_folder_elsewhere_is_a_run_all_the_same(root, tmp_path):
    assert find_run(str(make_run(tmp_path / "elsewhere/a"))) == tmp_path / "elsewhere/a"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026", "2 runs in outputs have that in their path: digits_ppo/2026_aa11, digits_ppo/2026_aa22\n"),
        ("2026_ab11", "did you mean 2026_aa11"),
        ("zzz", "no such run"),
        ("", "an empty name means no run"),
        ("outputs", "all runs lie there"),
    ],
)
def test_what_is_not_clear_is_said(root, text, expected):
    with pytest.raises(RunError) as raised:
        find_run(text)
    assert expected in str(raised.value)
    assert len(str(raised.value).splitlines()) == 2


def test_a_folder_that_is_no_run_is_told_what_it_is(root):
    (root / "half/norunjson").mkdir(parents=True)
    (root / "half/norunjson/config.yaml").touch()
    job = JobFile(root / "sweep-01/0123456789ab")
    job.begin([])
    job.end("failed", error="no such slot")
    for text, expected in {
        "half/norunjson": "outputs/half/norunjson: it has no run.json",
        "outputs/half/norunjson": "outputs/half/norunjson: it has no run.json",
        "outputs/digits_ppo": "2 runs lie there: outputs/digits_ppo/2026_aa11, outputs/digits_ppo/2026_aa22",
        "digits_ppo": "2 runs lie there",
        "456789": "failed before it was a run: no such slot",
        "sweep-01/0123456789ab": "failed before it was a run: no such slot",
    }.items():
        with pytest.raises(RunError) as raised:
            find_run(text)
        assert expected in str(raised.value)
        assert len(str(raised.value).splitlines()) == 2


def test_without_any_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="expected the folder of a run"):
        find_run("aa")

"""Whose folder it is."""

import json

import pytest

from esper.sweep import SweepError
from esper.sweep.folder import SweepFolder


def identity(**changes):
    return {"id": "12", "base": {"epochs": 3, "host": {"name": "cnn"}}, "swept": ["seed"]} | changes


def test_a_sweep_comes_back_and_adds_jobs(tmp_path):
    with SweepFolder(tmp_path / "s", identity()) as folder:
        folder.note({"a": ["seed=1"]}, ["-m", "seed=1"])
    with SweepFolder(tmp_path / "s", identity()) as folder:
        folder.note({"b": ["seed=2"]}, ["-m", "seed=2"])
    record = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert record["jobs"] == {"a": ["seed=1"], "b": ["seed=2"]}
    assert record["arguments"] == ["-m", "seed=2"]


@pytest.mark.parametrize(
    ("other", "wanted"),
    [
        ({"base": {"epochs": 4, "host": {"name": "cnn"}}}, "epochs is 3 there, and 4 here"),
        ({"base": {"epochs": 3, "host": {"name": "mlp"}}}, 'host.name is "cnn" there, and "mlp" here'),
        ({"base": {"epochs": 3, "host": {}}}, 'host.name is "cnn" there, and missing here'),
        ({"swept": ["epochs", "seed"]}, "it goes through seed, and this one through epochs, seed"),
    ],
)
def test_another_sweep_is_refused_by_the_first_thing_that_differs(tmp_path, other, wanted):
    with SweepFolder(tmp_path, identity()) as folder:
        folder.note({}, [])
    with pytest.raises(SweepError) as caught, SweepFolder(tmp_path, identity(id="34", **other)):
        pass
    assert wanted in str(caught.value)
    with SweepFolder(tmp_path, identity()):  # and the refusal left no lock behind
        pass


@pytest.mark.parametrize("sign", ["job.json", "own.lock"])
def test_the_folder_of_a_single_job_is_refused_and_left_as_it_is(tmp_path, sign):
    (tmp_path / sign).write_text("{}")
    with pytest.raises(SweepError, match=f"a single job, as its {sign} says\n") as caught:
        SweepFolder(tmp_path, identity()).__enter__()
    assert len(str(caught.value).splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir()] == [sign]


def test_a_second_process_is_refused_by_the_name_of_the_first(tmp_path):
    with (
        SweepFolder(tmp_path, identity()),
        pytest.raises(SweepError, match=r"process \d+ on \S+ since"),
        SweepFolder(tmp_path, identity()),
    ):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "12"}'])
def test_a_record_that_cannot_be_read_is_written_anew(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with SweepFolder(tmp_path, identity()) as folder:
        folder.note({"a": []}, [])
    assert json.loads((tmp_path / "sweep.json").read_text())["jobs"] == {"a": []}

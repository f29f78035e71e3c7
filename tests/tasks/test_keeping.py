"""Inputs on the device, in the host's memory and on disk: the same run."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from esper.builders.population import build_growth
from esper.config import compose
from esper.engine.epoch import EpochRunner
from esper.errors import ConfigError, TaskError
from esper.leyline import WAIT, Action, Operation
from esper.tasks.building import build_task
from esper.tasks.keeping import inputs_of

PLACES = ("auto", "device", "host", "disk")
SMALL = ["engine.members=2", "engine.threads=1", "epochs=3", "host.channels=[3,4]", "slots=early", "batch_size=16"]

DRAWN = (
    "task=digits",
    "task=pysource host=transformer task.train_bytes=4000 task.val_bytes=500 task.test_bytes=500",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 2, 8, 8)).astype(np.float32)
    path = tmp_path_factory.mktemp("data") / "numbers.npz"
    np.savez(path, x=x, y=30 + 4 * np.stack([x.mean((1, 2, 3)), x[:, 0].max((1, 2))], 1))
    return path


def settings(data, keep, *more):
    return compose([*SMALL, "task=arrays", f"task.path={data}", "task.loss=huber", f"task.keep={keep}", *more])


def lived(config):
    """What is reported of every epoch, the final scores and all that is kept."""
    growth = build_growth(config).growth
    epochs = EpochRunner([growth])
    told = [repr(epochs.reports())]
    for number in range(3):
        act = Action(Operation.GERMINATE, "early", "conv_light", "linear") if number == 0 else WAIT
        told.append(repr(epochs.step([[act] + [WAIT] * (len(growth.member_ids) - 1)])[0][0]))
    (scores,) = epochs.test()
    return told, [scores.loss.tolist(), scores.score.tolist(), scores.rmse.tolist()], growth.state()[0]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fused", "sequential"])
def test_a_run_is_the_same_bit_for_bit_wherever_its_inputs_are_kept(data, engine):
    runs = [lived(settings(data, keep, f"engine={engine}", "engine.memory_format=contiguous")) for keep in PLACES[1:]]
    for told, scores, tensors in runs[1:]:
        assert told == runs[0][0] and scores == runs[0][1]
        assert all(torch.equal(tensor, runs[0][2][name]) for name, tensor in tensors.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", ["task=digits", "task=pysource task.train_bytes=4000 task.val_bytes=500 task.test_bytes=500"]
)
def test_examples_that_are_drawn_anew_are_the_same(task):
    config = [
        compose([*task.split(), f"task.keep={keep}", *(["host=transformer"] if "py" in task else [])])
        for keep in PLACES
    ]
    tasks = [build_task(one.task) for one in config]
    drawn = [one.epoch_data(1, torch.Generator().manual_seed(3)) for one in tasks]
    for one, parts in zip(tasks, drawn, strict=True):
        assert all(torch.equal(part, other) for part, other in zip(parts, drawn[0], strict=True))
        assert all(torch.equal(x, inputs_of(tasks[0])[name]) for name, x in inputs_of(one).items())


def test_mapped_inputs_take_no_memory_of_their_own(data):
    task = build_task(settings(data, "disk").task)
    maps = Path("/proc/self/smaps")
    if not maps.exists():
        pytest.skip("the system does not tell")
    places = [x.data_ptr() for x in inputs_of(task).values()]
    ranges = [line.split() for line in maps.read_text().splitlines() if "-" in line.split()[0]]
    for place in places:
        (found,) = [row for row in ranges if int(row[0].split("-")[0], 16) <= place < int(row[0].split("-")[1], 16)]
        assert "(deleted)" in found, "a file's pages, which go with the process"


def test_a_disk_that_is_full_is_told(data):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    config = settings(data, "disk").task
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(TaskError, match=r"bytes of inputs cannot be written to .*\n  set TMPDIR"):
            build_task(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_place_that_is_none_is_told(data):
    with pytest.raises(ConfigError, match=r"task\.keep=drive"):
        settings(data, "drive")

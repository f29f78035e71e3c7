"""The regression that is there at once."""

import numpy as np
import pytest
import torch
from sklearn import datasets

from esper.config import compose
from esper.errors import ConfigError, TaskError
from esper.tasks import build_task
from esper.tasks.bundled import read_bundled
from esper.tasks.settings import DiabetesConfig


def test_every_patient_is_in_one_split_and_the_targets_are_those_of_scikit_learn():
    task, bunch = build_task(DiabetesConfig()), datasets.load_diabetes(scaled=False)
    sizes = [len(x) for x in (task.train_x, task.val_x, task.test_x)]
    assert sum(sizes) == 442 and min(sizes) >= 80 and task.input_shape == (10,) and task.loss == "mse"
    targets = torch.cat([task.train_y, task.val_y, task.test_y])[:, 0] * task.target_std + task.target_mean
    assert sorted(targets.tolist()) == pytest.approx(sorted(bunch.target.tolist()), rel=1e-4)
    expected = torch.tensor(bunch.data, dtype=torch.float64)
    nearest = torch.linalg.lstsq(task.train_x.double(), task.train_y.double()).solution  # what a line explains of it
    found = 1 - (task.test_x.double() @ nearest - task.test_y).square().mean() / task.test_y.double().var()
    assert 0.3 < found < 0.6 and expected.shape == (442, 10)
    assert task.train_x.mean(0).abs().max() < 1e-5 and (task.train_x.std(0) - 1).abs().max() < 0.01


def test_the_options_on_the_command_line():
    task = compose(["experiment=regression", "task.loss=huber"]).task
    assert build_task(task).loss == "huber"
    with pytest.raises(ConfigError, match="host=cnn: takes images, and task=diabetes gives vectors; choose host=mlp"):
        compose(["task=diabetes"])
    with pytest.raises(ConfigError, match=r"task.loss=cross_entropy: not known.*\n.* may be: mse, huber"):
        DiabetesConfig(loss="cross_entropy")


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("none.csv.gz", (1,), r"task=mine needs scikit-learn \(.*none.csv.gz.*pip install"),
        ("diabetes_target.csv.gz", (441,), r"diabetes_target.csv.gz: holds \[442\] numbers; run: pip install"),
        ("iris.csv", (150, 5), r"task=mine needs scikit-learn \(Not a gzipped file"),
    ],
)
def test_what_is_not_as_it_was_bundled_is_told(name, shape, said):
    with pytest.raises(TaskError, match=said):
        read_bundled("mine", name, shape, np.float64)

import time

import pytest
import torch
from sklearn import datasets

from esper.errors import ConfigError, TaskError
from esper.tasks import DigitsConfig, build_task
from esper.tasks.digits import load_digits
from esper.tasks.task import named_generator


@pytest.fixture(scope="module")
def task():
    return build_task(DigitsConfig())


def stream(seed=0):
    return named_generator(seed, "epochs")


def test_default_task_is_16x16_distorted_and_leaves_whole_batches(task):
    assert task.input_shape == (1, 16, 16) and task.num_outputs == 10 and task.inputs == "images"
    assert task.train_x.shape == (1088, 1, 8, 8)
    assert task.val_x.shape == (359 * 4, 1, 16, 16) and task.test_x.shape == (350 * 4, 1, 16, 16)
    assert task.train_y.shape == (1088,) and task.train_y.dtype == torch.int64


def test_inputs_are_standardised(task):
    for images in (task.epoch_data(1, stream())[0], task.val_x, task.test_x):
        assert images.dtype == torch.float32
        assert images.mean().item() == pytest.approx(0.0, abs=0.05)
        assert images.std().item() == pytest.approx(1.0, abs=0.05)


def test_splits_share_no_image():
    plain = build_task(DigitsConfig(distortion="none"))
    rows = [{tuple(row) for row in x.flatten(1).tolist()} for x in (plain.train_x, plain.val_x, plain.test_x)]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


def test_copies_repeat_the_whole_set_each_distorted_its_own_way(task):
    copies = task.val_x.view(4, 359, 1, 16, 16)
    labels = task.val_y.view(4, 359)
    assert torch.equal(labels[0], labels[3])
    assert not torch.equal(copies[0], copies[1])
    same = (copies[0] - copies[1]).square().mean()
    other = (copies[0] - copies[1].roll(1, 0)).square().mean()
    assert same < other  # still the same digit


def test_epoch_data_follow_from_the_generator_state_alone(task):
    generator = stream(3)
    task.epoch_data(1, generator)
    state = generator.get_state()
    second, labels = task.epoch_data(2, generator)
    assert labels is task.train_y
    resumed = torch.Generator()
    resumed.set_state(state)
    assert torch.equal(second, task.epoch_data(7, resumed)[0])
    assert not torch.equal(second, task.epoch_data(7, resumed)[0])


def test_evaluation_images_depend_on_the_split_seed_and_not_on_the_run(task):
    again = build_task(DigitsConfig(), seed=99)
    assert torch.equal(task.val_x, again.val_x) and torch.equal(task.test_x, again.test_x)
    other = build_task(DigitsConfig(split_seed=1))
    assert not torch.equal(task.val_y, other.val_y)


def test_split_seed_none_follows_the_run():
    settings = DigitsConfig(split_seed=None, distortion="none")
    first, second = build_task(settings, seed=1), build_task(settings, seed=2)
    assert not torch.equal(first.val_y, second.val_y)
    assert torch.equal(first.val_y, build_task(settings, seed=1).val_y)


def test_plain_digits_stay_8x8_and_undistorted():
    plain = build_task(DigitsConfig(distortion="none"))
    assert plain.input_shape == (1, 8, 8) and plain.val_x.shape == (359, 1, 8, 8)
    first, labels = plain.epoch_data(1, stream())
    assert first is plain.epoch_data(2, stream())[0]
    assert labels is plain.train_y and plain.epoch_size == len(labels)
    assert first.shape == (1088, 1, 8, 8) and first.std().item() == pytest.approx(1.0, abs=0.01)
    assert len(first.unique()) == 17  # the ink's 17 levels, moved and stretched


def test_double_precision_holds_the_same_data(task):
    double = build_task(DigitsConfig(), dtype=torch.float64)
    assert double.val_x.dtype == torch.float64
    assert torch.equal(double.val_x, task.val_x.double())
    assert torch.equal(double.epoch_data(1, stream())[0], task.epoch_data(1, stream())[0].double())


def test_the_bundled_file_holds_what_scikit_learn_gives():
    images, labels = load_digits()
    bunch = datasets.load_digits()
    assert torch.equal(images.squeeze(1), torch.tensor(bunch.images, dtype=torch.float32) / 16)
    assert torch.equal(labels, torch.tensor(bunch.target))


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("esper.tasks.digits.BUNDLED_FILE", "none.csv.gz")
    with pytest.raises(TaskError, match=r"needs scikit-learn \(.*none.csv.gz.*pip install"):
        load_digits()


def test_labels_belong_to_the_images():
    images, labels = load_digits()
    assert images.shape == (1797, 1, 8, 8) and images.min() == 0 and images.max() == 1
    means = torch.stack([images[labels == c].mean(0).flatten() for c in range(10)])
    nearest = torch.cdist(images.flatten(1), means).argmin(1)
    assert (nearest == labels).float().mean() > 0.85
    plain = build_task(DigitsConfig(distortion="none"))
    means = torch.stack([plain.train_x[plain.train_y == c].mean(0).flatten() for c in range(10)])
    for x, y in ((plain.val_x, plain.val_y), (plain.test_x, plain.test_y)):
        assert (torch.cdist(x.flatten(1), means).argmin(1) == y).float().mean() > 0.8


@pytest.mark.alone
def test_an_epoch_s_images_take_milliseconds(task):
    generator = stream()
    times = []
    for epoch in range(10):
        start = time.perf_counter()
        task.epoch_data(epoch, generator)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02


def test_unknown_task_name_lists_what_there_is():
    with pytest.raises(ConfigError, match=r"cifar100, corpus, custom, diabetes, digits, .*; did you mean digits"):
        build_task(DigitsConfig(name="digitz"))

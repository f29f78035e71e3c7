"""MNIST and Fashion-MNIST from small files in the published format."""

import gzip
import hashlib

import pytest
import torch

from esper.errors import ConfigError, TaskError
from esper.tasks import build_task
from esper.tasks.published.idx import FILES, MOST_EXAMPLES, read_idx
from esper.tasks.settings import FashionMnistConfig, MnistConfig
from esper.tasks.task import named_generator

COUNTS = {"train": 40, "t10k": 20}


def idx(values, kind=8):
    head = bytes((0, 0, kind, values.ndim)) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return head + values.numpy().tobytes()


def contents():
    """Name -> what the file unpacks to, of few examples."""
    draw = named_generator(0, "idx")
    files = {}
    for name in FILES:
        count = COUNTS[name.partition("-")[0]]
        images = torch.randint(0, 256, (count, 28, 28), generator=draw, dtype=torch.uint8)
        labels = (torch.arange(count) % 10).to(torch.uint8)
        files[name] = idx(images if "images" in name else labels)
    return files


def settings_of(folder, files, config=MnistConfig, **values):
    mirror = folder / "mirror"
    mirror.mkdir()
    for name, data in files.items():
        (mirror / name).write_bytes(gzip.compress(data))
    md5 = [hashlib.md5((mirror / name).read_bytes()).hexdigest() for name in FILES]
    return config(url=mirror.as_uri(), md5=md5, data_dir=str(folder / "data"), val_fraction=0.25, **values)


@pytest.mark.parametrize("config", [MnistConfig, FashionMnistConfig])
def test_builds_a_task_from_the_published_format(config, tmp_path):
    settings = settings_of(tmp_path, contents(), config, distortion="none")
    task = build_task(settings)
    assert (task.num_outputs, task.input_shape) == (10, (1, 28, 28))
    assert (len(task.train_y), len(task.val_y), len(task.test_y)) == (30, 10, 20)
    assert torch.equal(task.test_y, torch.arange(20) % 10)
    assert torch.allclose(task.train_x.mean(), torch.zeros(()), atol=1e-5)
    raw = read_idx(tmp_path / "data" / settings.name / FILES[2], (28, 28)).float()
    order = raw.flatten().argsort()
    assert (task.test_x.flatten()[order].diff() >= 0).all()  # the same images, moved and stretched alike
    assert sorted(file.name for file in (tmp_path / "data" / settings.name).iterdir()) == sorted(FILES)


def test_a_digit_is_shifted_and_never_mirrored(tmp_path):
    files = contents()
    left = torch.zeros(40, 28, 28, dtype=torch.uint8)
    left[:, :, :8] = 255
    files[FILES[0]] = idx(left)
    settings = settings_of(tmp_path, files)
    x, _ = build_task(settings).epoch_data(1, named_generator(0, "epochs"))
    assert (x[..., :6].mean((1, 2, 3)) > x[..., 14:].mean((1, 2, 3))).all()
    assert not torch.equal(x[0], x[1]) or not torch.equal(x[1], x[2])


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (FILES[0], lambda data: b"", "train-images.* begins with , expected 00000803"),
        (FILES[0], lambda data: b"\0\0\x0d\x03" + data[4:], "begins with 00000d03, expected 00000803"),
        (FILES[0], lambda data: data[:-1], r"holds 31,375 bytes for a shape of \[40, 28, 28\]"),
        (FILES[0], lambda data: data + b"\0", r"holds 31,377 bytes"),
        (FILES[0], lambda data: data[:8] + b"\0\0\0\x1b" + data[12:], r"shape of \[40, 27, 28\]"),
        (FILES[0], lambda data: data[:4] + b"\xff" * 4 + data[8:], r"shape of \[4294967295, 28, 28\]"),
        (FILES[0], lambda data: b"\0" * (MOST_EXAMPLES * 784 + 99), "begins with 00000000"),
        (
            FILES[1],
            lambda data: b"\0\0\x08\x01\0\0\0\x27" + data[9:],
            "labels-idx1.* holds 39 labels up to 9, expected 40",
        ),
        (FILES[3], lambda data: data[:-1] + b"\x0a", "t10k-labels.* up to 10, expected 20 up to 9"),
    ],
)
def test_malformed_content_is_refused(name, change, said, tmp_path):
    files = contents()
    files[name] = change(files[name])
    with pytest.raises(TaskError, match=rf"{said}.*rm "):
        build_task(settings_of(tmp_path, files))


@pytest.mark.parametrize("data", [b"", b"no gzip", b"\x1f\x8b\x08\0cut"])
def test_garbage_is_refused(data, tmp_path):
    (tmp_path / "file.gz").write_bytes(data)
    with pytest.raises(TaskError, match=r"file.gz (cannot be read|begins with)"):
        read_idx(tmp_path / "file.gz", ())


def test_four_checksums_are_asked_for():
    with pytest.raises(ConfigError, match=r"task.md5=\[a\]: expected four"):
        MnistConfig(md5=["a"])

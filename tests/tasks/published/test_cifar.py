import hashlib
import io
import tarfile

import pytest
import torch

from esper.errors import TaskError
from esper.tasks import build_task
from esper.tasks.published.cifar import CIFAR10, CIFAR100, read_archive
from esper.tasks.published.download import fetch
from esper.tasks.settings import Cifar10Config, Cifar100Config
from esper.tasks.task import named_generator

RECORDS_PER_FILE = 20
TRAIN_FILES, TEST_FILES = CIFAR10.train_files, CIFAR10.test_files
MOST_FILE_BYTES = 30_730_000


def write_archive(path, change=None, archive=CIFAR10):
    """A small archive in the published format; returns its images and labels, file by file."""
    generator = named_generator(0, "archive")
    content = {}
    for name in archive.train_files + archive.test_files:
        images = torch.randint(0, 256, (RECORDS_PER_FILE, 3, 32, 32), generator=generator, dtype=torch.uint8)
        images[:, 0] //= 2  # channels of unlike brightness
        labels = torch.arange(RECORDS_PER_FILE) % 10
        content[name] = (images, labels)
    coarse = torch.full((RECORDS_PER_FILE, archive.label_bytes - 1), 19)  # of CIFAR-100: a superclass
    files = {
        name: torch.cat((coarse, labels[:, None], images.flatten(1)), dim=1).to(torch.uint8).numpy().tobytes()
        for name, (images, labels) in content.items()
    }
    files["batches.meta.txt"] = b"airplane\nautomobile\n"
    if change is not None:
        change(files)
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def fetch_archive(settings):
    return fetch(settings.url, settings.md5, settings.data_dir, CIFAR10.name, "cifar10")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "mirror.tar.gz"
    content = write_archive(path)
    settings = Cifar10Config(
        url=path.as_uri(), md5=md5(path), data_dir=str(tmp_path / "data"), val_fraction=0.2, shift_pixels=2
    )
    return path, content, settings


def test_builds_a_task_from_the_published_format(source):
    _, content, settings = source
    task = build_task(settings)
    assert task.name == "cifar10" and task.num_outputs == 10 and task.input_shape == (3, 32, 32)
    assert len(task.train_y) == 80 and len(task.val_y) == 20 and len(task.test_y) == RECORDS_PER_FILE
    images = torch.cat([content[name][0] for name in TRAIN_FILES])
    assert {tuple(image) for image in task.train_x.flatten(1).tolist()} < {
        tuple(image) for image in images.flatten(1).tolist()
    }
    test_images, test_labels = content["test_batch.bin"]
    assert torch.equal(task.test_y, test_labels)
    mean = task.train_x.float().mean((0, 2, 3), keepdim=True)
    spread = task.train_x.float().std((0, 2, 3), correction=0, keepdim=True)
    assert torch.allclose(task.test_x, (test_images.float() - mean) / spread, atol=1e-4)
    assert torch.bincount(task.val_y).tolist() == [2] * 10


def test_cifar100_is_read_by_its_second_label(tmp_path):
    path = tmp_path / "mirror.tar.gz"
    content = write_archive(path, archive=CIFAR100)
    settings = Cifar100Config(url=path.as_uri(), md5=md5(path), data_dir=str(tmp_path), val_fraction=0.5)
    task = build_task(settings)
    assert task.name == "cifar100" and task.num_outputs == 100 and task.input_shape == (3, 32, 32)
    assert len(task.train_y) == len(task.val_y) == 10
    assert torch.equal(task.test_y, content["test.bin"][1])
    (train, _), (test, labels) = read_archive(tmp_path / CIFAR100.name, CIFAR100)
    assert torch.equal(train, content["train.bin"][0]) and torch.equal(test, content["test.bin"][0])
    assert torch.equal(labels, content["test.bin"][1])


def test_training_images_are_shifted_and_mirrored_anew(source):
    task = build_task(source[2])
    generator = named_generator(0, "epochs")
    (first, labels), (second, _) = task.epoch_data(1, generator), task.epoch_data(2, generator)
    assert labels is task.train_y
    assert first.shape == (80, 3, 32, 32) and first.dtype == torch.float32
    assert not torch.equal(first, second)
    assert first.isfinite().all()


def test_without_distortion_the_same_standardised_images_each_epoch(source):
    settings = source[2]
    settings.distortion = "none"
    task = build_task(settings)
    first, labels = task.epoch_data(1, named_generator(0, "epochs"))
    assert first is task.epoch_data(2, named_generator(1, "epochs"))[0]
    assert labels is task.train_y
    assert torch.allclose(first.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(first.std((0, 2, 3)), torch.ones(3), atol=1e-3)


def test_downloads_once_and_leaves_nothing_else_behind(source):
    path, _, settings = source
    archive = fetch_archive(settings)
    path.unlink()
    assert fetch_archive(settings) == archive
    assert [entry.name for entry in archive.parent.iterdir()] == [CIFAR10.name]


def test_a_wrong_download_never_gets_the_archive_s_name(source, tmp_path):
    settings = source[2]
    settings.md5 = "0" * 32
    with pytest.raises(TaskError, match=r"not the expected file.*task\.url"):
        fetch_archive(settings)
    assert list((tmp_path / "data").iterdir()) == []


def test_an_altered_archive_is_named_with_the_command_that_mends_it(source):
    settings = source[2]
    archive = fetch_archive(settings)
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(TaskError, match=f"altered or cut short.*rm {archive}"):
        build_task(settings)


@pytest.mark.parametrize(
    "url", ["file:///nowhere/cifar.tar.gz", "http://127.0.0.1:9/cifar.tar.gz", "nonsense", "http://[bad"]
)
def test_an_unreachable_source_says_where_to_put_the_file(tmp_path, url):
    with pytest.raises(TaskError, match=r"cannot fetch .*task\.data_dir"):
        fetch_archive(Cifar10Config(url=url, data_dir=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_that_is_a_file_is_a_task_error(source, tmp_path):
    settings = source[2]
    blocker = tmp_path / "blocker"
    blocker.write_text("")
    settings.data_dir = str(blocker / "data")
    with pytest.raises(TaskError, match=r"task\.data_dir"):
        fetch_archive(settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.pop("data_batch_3.bin"), "lacks data_batch_3.bin"),
        (lambda files: files.update({"data_batch_2.bin": files["data_batch_2.bin"][:-1]}), "multiple of 3073"),
        (lambda files: files.update({"test_batch.bin": b""}), "multiple of 3073"),
        (lambda files: files.update({"test_batch.bin": b"\x0b" + files["test_batch.bin"][1:]}), "label 11"),
    ],
)
def test_malformed_content_is_refused(tmp_path, change, message):
    path = tmp_path / "bad.tar.gz"
    write_archive(path, change)
    with pytest.raises(TaskError, match=message):
        read_archive(path, CIFAR10)


@pytest.mark.parametrize("data", [b"", b"not a gzip file", b"\x1f\x8b\x08\x00truncated"])
def test_garbage_is_refused(tmp_path, data):
    path = tmp_path / "garbage.tar.gz"
    path.write_bytes(data)
    with pytest.raises(TaskError, match="cannot be read"):
        read_archive(path, CIFAR10)


def test_a_truncated_archive_is_refused(source):
    path = source[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(TaskError, match="cannot be read"):
        read_archive(path, CIFAR10)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, "large"])
@pytest.mark.parametrize("target", ["test_batch.bin", "gone", "/etc/passwd"])
def test_a_member_that_is_no_plain_file_is_refused(tmp_path, kind, target):
    path = tmp_path / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("test_batch.bin")
        info.linkname = target
        if kind == "large":
            info.size = MOST_FILE_BYTES + 1
            tar.fileobj.write(info.tobuf())
        else:
            info.type = kind
            tar.addfile(info)
    with pytest.raises(TaskError, match=r"test_batch.bin in .* is (no plain file|of 30,730,001 bytes)"):
        read_archive(path, CIFAR10)

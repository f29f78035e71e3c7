import itertools
import math
import sysconfig
from pathlib import Path

import pytest
import torch

from esper.errors import ConfigError, TaskError
from esper.tasks import PysourceConfig, TextConfig, build_task
from esper.tasks.bigram import BITS_PER_NAT, Bigram
from esper.tasks.task import named_generator
from esper.tasks.text.pysource import FILE_BYTES, list_sources, read_splits
from esper.tasks.text.tokenizer import get_tokenizer
from esper.tasks.text.training import train_tokenizer

SMALL = {"train_bytes": 20_000, "val_bytes": 5000, "test_bytes": 5000, "epoch_windows": 40}


@pytest.fixture(scope="module")
def task():
    return build_task(PysourceConfig(**SMALL))


@pytest.fixture
def corpus(tmp_path):
    """A file whose every four bytes are a number of their own, so that no span occurs twice."""
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"".join(number.to_bytes(4, "big") for number in range(2500)))
    return path


def text_of(x, y):
    """Windows that follow each other, as the text they were cut from."""
    return bytes([*x.flatten().tolist(), int(y[-1, -1])])


def library(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n" + "x = 1\n" * 40)
    return folder


def test_the_default_task_is_a_thousand_windows_of_python_an_epoch():
    task = build_task(PysourceConfig())
    assert (task.inputs, task.num_outputs, task.input_shape, task.epoch_size) == ("tokens", 256, (64,), 1024)
    x, y = task.epoch_data(1, named_generator(0, "epochs"))
    assert x.shape == y.shape == (1024, 64) and x.dtype == y.dtype == torch.int64
    assert task.train_x.shape == (8191, 64) and task.val_x.shape == task.test_x.shape == (511, 64)
    for inputs in (task.train_x, task.val_x, task.test_x):
        assert b"import " in bytes(inputs.flatten().tolist())


def test_a_label_is_the_byte_after_its_input(task):
    pairs = [(task.train_x, task.train_y), (task.val_x, task.val_y), (task.test_x, task.test_y)]
    for x, y in [*pairs, task.epoch_data(1, named_generator(0, "epochs"))]:
        assert torch.equal(x[:, 1:], y[:, :-1])
    for x, y in pairs:  # whose windows follow each other without a gap
        assert torch.equal(x[1:, 0], y[:-1, -1])


def test_an_epochs_windows_lie_anywhere_in_the_training_text_and_follow_the_generator_alone(task):
    generator = named_generator(0, "epochs")
    state = generator.get_state()
    first, again = (task.epoch_data(epoch, generator)[0] for epoch in (1, 2))
    assert first.shape == (40, 64)
    assert not torch.equal(first, again)
    assert torch.equal(task.epoch_data(9, generator.set_state(state))[0], first)
    text = text_of(task.train_x, task.train_y)
    places = [text.find(bytes(window)) for window in first.tolist()]
    assert min(places) >= 0
    assert len({place % 64 for place in places}) > 10


def test_no_file_is_in_two_splits_and_none_fills_one(tmp_path):
    root = library(tmp_path, [f"pack{i % 3}/module{i}.py" for i in range(30)])
    settings = PysourceConfig(train_bytes=3000, val_bytes=700, test_bytes=900)
    splits = read_splits(settings, 0, root)
    assert [len(text) for text in splits] == [3000, 700, 900]
    heads = [{line for line in text.split(b"\n") if line.startswith(b"# pack")} for text in splits]
    assert all(heads) and not any(a & b for a, b in itertools.combinations(heads, 2))
    assert read_splits(settings, 0, root) == splits
    assert read_splits(settings, 1, root)[1] != splits[1]
    (root / "long.py").write_text("y" * 10 * FILE_BYTES)
    settings = PysourceConfig(train_bytes=FILE_BYTES + 3000, val_bytes=700, test_bytes=900)
    assert sum(text.count(b"y") for text in read_splits(settings, 0, root)) <= FILE_BYTES + 100


def test_the_sources_are_the_librarys_own_in_alphabetical_order(tmp_path):
    kept = ["a.py", "json/decoder.py", "z/deep/er.py"]
    others = ["test/test_a.py", "json/tests/t.py", "site-packages/numpy.py", "encodings/cp037.py", "notes.txt"]
    root = library(tmp_path, [*kept, *others])
    assert [path.as_posix() for path in list_sources(root)] == kept
    installed = [path.as_posix() for path in list_sources(Path(sysconfig.get_path("stdlib")))]
    assert {"ast.py", "json/decoder.py"} <= set(installed)
    assert not [name for name in installed if name.startswith(("test/", "site-packages/"))]


def test_a_library_that_is_too_small_or_unreadable_says_so(tmp_path):
    root = library(tmp_path, ["a.py", "b.py"])
    with pytest.raises(TaskError, match=r"task\.train_bytes=3000.*another task"):
        read_splits(PysourceConfig(train_bytes=3000, val_bytes=100, test_bytes=100), 0, root)
    with pytest.raises(TaskError, match=r"task\.test_bytes"):
        read_splits(PysourceConfig(), 0, tmp_path / "nowhere")
    (root / "c.py").symlink_to(root / "gone.py")
    with pytest.raises(TaskError, match=r"cannot read .*c\.py"):
        read_splits(PysourceConfig(train_bytes=3000, val_bytes=100, test_bytes=100), 0, root)


def test_a_file_of_ones_own_is_cut_into_three_spans(corpus):
    settings = TextConfig(path=str(corpus), train_bytes=4000, val_bytes=1000, test_bytes=1000, block_size=10)
    task = build_task(settings)
    text = corpus.read_bytes()
    assert text_of(task.train_x, task.train_y) == text[:3991]  # whole windows, and the byte after the last
    assert text_of(task.val_x, task.val_y) == text[4000:4991]
    assert text_of(task.test_x, task.test_y) == text[5000:5991]


def test_a_file_smaller_than_the_splits_is_divided_in_their_proportions(corpus):
    task = build_task(TextConfig(path=str(corpus), train_bytes=60_000, val_bytes=20_000, test_bytes=20_000))
    lengths = [len(text_of(x, y)) for x, y in ((task.train_x, task.train_y), (task.val_x, task.val_y))]
    assert lengths == [5953, 1985]  # of 6,000 and 2,000 bytes
    assert task.epoch_data(1, named_generator(0, "epochs"))[0].shape == (1024, 64)


def heads_of(task):
    pairs = [(task.train_x, task.train_y), (task.val_x, task.val_y), (task.test_x, task.test_y)]
    return [{line for line in text_of(x, y).split(b"\n") if line.endswith(b"note.txt")} for x, y in pairs]


def test_of_a_folder_or_several_files_each_is_in_one_split(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(30):
        body = torch.randint(97, 123, (300,), generator=named_generator(number, "body")).tolist()
        (folder / f"{number}").write_bytes(f"\n# {number:02} note.txt\n".encode() + bytes(body))
    sizes = {"train_bytes": 5000, "val_bytes": 1000, "test_bytes": 1000, "block_size": 10}
    of_folder = build_task(TextConfig(path=str(folder), **sizes))
    heads = heads_of(of_folder)
    assert all(heads) and not any(a & b for a, b in itertools.combinations(heads, 2))
    of_files = build_task(TextConfig(path=[str(folder / str(number)) for number in range(30)], **sizes))
    assert torch.equal(of_files.test_x, of_folder.test_x)  # names decide, not how they are given
    assert heads_of(build_task(TextConfig(path=str(folder), split_seed=1, **sizes)))[2] != heads[2]
    assert torch.equal(build_task(TextConfig(path=str(folder), split_seed=None, **sizes)).test_x, of_folder.test_x)


def test_the_bytes_tokenizer_reads_what_is_read_without_and_has_specials(corpus):
    plain, with_specials = (build_task(TextConfig(path=str(corpus), tokenizer=name)) for name in (None, "bytes"))
    assert (plain.num_outputs, with_specials.num_outputs) == (256, 264)
    assert torch.equal(plain.test_x, with_specials.test_x) and torch.equal(plain.train_y, with_specials.train_y)
    epochs = [task.epoch_data(1, named_generator(0, "epochs"))[0] for task in (plain, with_specials)]
    assert torch.equal(*epochs)
    assert (plain.tokenizer_sha256, with_specials.tokenizer_sha256) == (None, get_tokenizer("bytes").sha256)
    loss = torch.tensor([1.0, 2.0])
    assert plain.bits_per_byte(loss) == with_specials.bits_per_byte(loss) == (loss / math.log(2)).tolist()


def test_bits_per_byte_count_bytes_whatever_the_tokens(tmp_path):
    path, file = tmp_path / "text.txt", tmp_path / "tokenizer.json"
    path.write_text("the cat sat on the mat; the other cat sat on the other mat\n" * 500)
    file.write_bytes(train_tokenizer([str(path)], 300)[0])
    task = build_task(TextConfig(path=str(path), tokenizer=str(file), block_size=16))
    tokenizer = get_tokenizer(str(file))
    assert (task.num_outputs, task.tokenizer_sha256) == (tokenizer.vocab_size, tokenizer.sha256)
    text = tokenizer.decode(task.test_y.flatten().tolist())
    assert task.bytes_per_label == pytest.approx(len(text) / task.test_y.numel()) and task.bytes_per_label > 2
    (bits,) = task.bits_per_byte(torch.tensor([math.log(2)]))  # a bit a token
    assert bits == pytest.approx(task.test_y.numel() / len(text))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"path": ["a", "a"]}, r"task\.path=\[a,a\]: a is given twice"),
        ({"path": ["a/b", "a"]}, r"a/b lies inside a"),
        ({"path": ["a", ""]}, r"task=text needs a file"),
        ({"path": []}, r"task=text needs a file"),
        ({"path": 3}, r"task=text needs a file"),
        ({"path": "a", "tokenizer": ""}, r"task\.tokenizer=: expected null, bytes"),
    ],
    ids=str,
)
def test_a_wrong_path_or_tokenizer_is_named(values, said):
    with pytest.raises(ConfigError, match=said):
        TextConfig(**values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"0 bytes to make a training split of"),
        (b"short", r"task\.block_size \+ 1 = 65"),
        (b"x" * 700, r"38 bytes to make a validation split of"),
    ],
)
def test_a_corpus_that_will_not_do_says_why(tmp_path, content, message):
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    with pytest.raises(TaskError, match=message):
        build_task(TextConfig(path=str(path)))


@pytest.mark.parametrize("path", ["/dev/null", "nul\0byte", "nowhere/corpus.txt", "", None])
def test_what_is_no_file_is_bad_input(path):
    with pytest.raises(ConfigError, match=r"task\.path.*experiment=language task=text task\.path=FILE") as caught:
        build_task(TextConfig(path=path))
    assert caught.value.__cause__ is None  # no failure of the disk, which a later attempt might not meet


@pytest.mark.parametrize(
    "values",
    [{"block_size": 1}, {"epoch_windows": 0}, {"val_bytes": 64}, {"train_bytes": 0}, {"test_bytes": -1}],
    ids=str,
)
def test_a_wrong_value_is_named(values):
    with pytest.raises(ConfigError, match=f"task.{next(iter(values))}="):
        PysourceConfig(**values)


def test_a_bigram_counts_pairs_and_smooths_by_one():
    x, y = torch.tensor([[0, 0, 0, 1]]), torch.tensor([[1, 1, 2, 0]])
    bigram = Bigram(x, y, vocab_size=3)
    expected = -(math.log2(3 / 6) + math.log2(1 / 3)) / 2  # 2 + 1 of 3 + 3; 0 + 1 of 0 + 3
    assert bigram.bits_per_token(torch.tensor([0, 2]), torch.tensor([1, 0])) == pytest.approx(expected)
    assert bigram.accuracy(torch.tensor([[0, 0]]), torch.tensor([[1, 2]])) == 50.0
    assert math.log(2) * BITS_PER_NAT == pytest.approx(1.0)


def test_a_bigram_of_python_beats_even_odds_by_far():
    task = build_task(PysourceConfig())
    bigram = Bigram(task.train_x, task.train_y, task.num_outputs)
    assert 3.0 < bigram.bits_per_token(task.train_x, task.train_y) < 4.2
    assert 3.0 < bigram.bits_per_token(task.test_x, task.test_y) < 4.5
    assert bigram.accuracy(task.test_x, task.test_y) > 20.0

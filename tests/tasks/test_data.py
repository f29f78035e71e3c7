"""Data of one's own become a task with three disjoint splits, or are refused with the reason."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import esper
from esper.errors import ConfigError, TaskError
from esper.tasks.data import Data, build_from_data

DRAW = np.random.default_rng(0)
X = DRAW.normal(3.0, 2.0, (60, 4)).astype(np.float32)
Y = np.arange(60) % 3
IMAGES = DRAW.integers(0, 256, (60, 2, 5, 6), dtype=np.uint8)


def built(name="mine", seed=0, **given):
    return build_from_data(Data(**given), name, torch.device("cpu"), torch.float32, seed)


class Own(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield 0, 0


def test_data_are_exported():
    assert esper.Data is Data


# ---- splits


def rows(x):
    return {tuple(row) for row in x.flatten(1).tolist()}


@pytest.mark.parametrize(
    ("given", "sizes", "said"),
    [
        ({}, (36, 12, 12), "36 training, 12 validation, 12 test; validation and test kept apart"),
        ({"test": (X[:9] + 99, Y[:9])}, (48, 12, 9), "validation kept apart"),
        ({"val": (X[:9] + 99, Y[:9])}, (48, 9, 12), "test kept apart"),
        ({"val": (X[:9] + 99, Y[:9]), "test": (X[:6] - 99, Y[:6])}, (60, 9, 6), ""),
    ],
)
def test_what_is_not_given_is_split_off_and_said(given, sizes, said):
    task = built(train=(X, Y), **given)
    assert (len(task.train_y), len(task.val_y), len(task.test_y)) == sizes
    splits = [rows(x) for x in (task.train_x, task.val_x, task.test_x)]
    assert len(set.union(*splits)) == sum(sizes)
    assert all(torch.bincount(y).unique().numel() == 1 for y in (task.train_y, task.val_y))  # as many of each class
    heard = "".join(task.notes)
    assert said in heard and bool(heard) == bool(said)


def test_the_split_follows_its_seed():
    first, again, other = (built(train=(X, Y), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.val_x, again.val_x)
    assert rows(first.val_x) != rows(other.val_x)


def test_examples_that_occur_in_two_splits_are_told():
    task = built(train=(X[:40], Y[:40]), val=(X[38:50], Y[38:50]), test=(X[50:], Y[50:]))
    assert "2 of 12 val examples stand in train" in task.notes[0]


# ---- layouts


@pytest.mark.parametrize(
    ("x", "layout", "shape"),
    [
        (X, "auto", (4,)),
        (IMAGES, "auto", (2, 5, 6)),
        (IMAGES, "nhwc", (6, 2, 5)),
        (np.zeros((60, 8, 8, 3)), "auto", (3, 8, 8)),
        (np.zeros((60, 3, 8, 3)), "auto", (3, 8, 3)),
        (np.zeros((60, 8, 8)), "auto", (1, 8, 8)),
        (np.zeros((60, 8, 9), np.uint8), "auto", (1, 8, 9)),
        (np.zeros((60, 8, 9)), "auto", (8, 9)),
        (np.zeros((60, 8, 9)), "nhw", (1, 8, 9)),
        (np.zeros((60, 8, 8)), "ntf", (8, 8)),
        (torch.zeros(60, 4, dtype=torch.bfloat16), "auto", (4,)),
        (torch.zeros(60, 4, requires_grad=True), "auto", (4,)),
        (np.zeros((60, 4), ">f8"), "auto", (4,)),
        (np.zeros((60, 4), np.uint16), "auto", (4,)),
        (torch.zeros(60, 4, dtype=torch.float8_e4m3fn), "auto", (4,)),
    ],
)
def test_the_shape_tells_what_inputs_are(x, layout, shape):
    assert built(train=(x, Y), layout=layout).input_shape == shape


def test_channels_that_come_last_are_put_first():
    task = built(train=(IMAGES.transpose(0, 2, 3, 1)[..., :1], Y))
    assert torch.equal(task.train_x, built(train=(IMAGES[:, :1], Y)).train_x)


def test_tokens_stay_what_they_are():
    tokens = torch.arange(240).view(60, 4) % 11
    task = built(train=(tokens, tokens.roll(-1, 1)))
    assert task.train_x.dtype == torch.int64 and task.num_outputs == 11 and task.input_shape == (4,)
    assert rows(task.train_x) | rows(task.val_x) | rows(task.test_x) == rows(tokens)


def test_whole_numbers_to_predict_are_no_tokens():
    tokens = torch.arange(240).view(60, 4) % 11
    task = built(train=(tokens, tokens.roll(-1, 1)), loss="mse")
    assert task.inputs == "vectors" and task.num_outputs == 4 and task.train_y.shape == (36, 4)


# ---- standardising


@pytest.mark.parametrize(
    "x", [X, IMAGES, X.reshape(60, 2, 2) * 3, X.astype(np.float64) + 1e9], ids=lambda x: x.dtype.str
)
def test_inputs_are_standardised_by_the_training_split(x):
    task = built(train=(x, Y), test=(x[:9].max() - x[:9], Y[:9]), layout="ntf" if x.ndim == 3 else "auto")
    axes = (0, 2, 3) if x.ndim == 4 else tuple(range(x.ndim - 1))
    assert torch.allclose(task.train_x.mean(axes), torch.zeros(1), atol=1e-5)
    assert torch.allclose(task.train_x.std(axes, correction=0), torch.ones(1), atol=1e-4)
    assert abs(task.test_x.mean()) > 1e-3


def test_a_constant_feature_becomes_0():
    x = X.copy()
    x[:, 1] = 5.0
    assert built(train=(x, Y)).train_x[:, 1].abs().max() == 0


def test_inputs_can_be_left_as_they_are():
    task = built(train=(X, Y), standardize=False)
    assert rows(task.train_x) <= rows(torch.from_numpy(X))


def test_what_was_given_is_not_written_to():
    for given in (X, X.astype(np.float64), IMAGES):
        x = torch.from_numpy(given.copy())
        for standardize in (True, False):
            build_from_data(Data(train=(x, Y), standardize=standardize), "mine", torch.device("cpu"), torch.float64, 0)
        assert np.array_equal(x.numpy(), given)


# ---- labels


@pytest.mark.parametrize(
    ("y", "given", "count", "names"),
    [
        (Y, {}, 3, ()),
        (Y.astype(np.uint8), {}, 3, ()),
        (Y[:, None], {}, 3, ()),
        (Y > 0, {}, 2, ()),
        (Y + 1, {}, 3, ("1", "2", "3")),
        (Y * 5 - 5, {}, 3, ("-5", "0", "5")),
        (np.array(["cat", "ant", "bee"])[Y], {}, 3, ("ant", "bee", "cat")),
        (np.array(["cat", "ant", "bee"], object)[Y], {}, 3, ("ant", "bee", "cat")),
        (np.array([b"x", b"y", b"z"])[Y], {}, 3, ("x", "y", "z")),
        (Y, {"num_outputs": 5}, 5, ()),
        (Y, {"class_names": ("c", "a", "b", "d")}, 4, ("c", "a", "b", "d")),
        (np.array(["c", "a", "b"])[Y], {"class_names": ("c", "a", "b")}, 3, ("c", "a", "b")),
        (torch.from_numpy(Y), {}, 3, ()),
        (Y.tolist(), {}, 3, ()),
        (Y.astype(np.float32), {}, 3, ()),
        (Y.astype(object), {}, 3, ()),
        (np.array([b"x", b"y"], object)[Y % 2], {}, 2, ("x", "y")),
        (np.array(["x", "yy"], np.dtypes.StringDType())[Y % 2], {}, 2, ("x", "yy")),
        (Y, {"num_outputs": np.int64(5)}, 5, ()),
        (Y, {"class_names": np.array(["c", "a", "b"])}, 3, ("c", "a", "b")),
    ],
)
def test_labels_become_classes_from_0_on(y, given, count, names):
    x = np.stack([Y * 10.0, np.arange(60.0)], 1)
    task = built(train=(x, y), **given, standardize=False)
    assert (task.num_outputs, task.class_names) == (count, names)
    flat = np.asarray(y).reshape(-1)
    order = list(given.get("class_names", ())) if flat.dtype.kind == "U" else []
    assert type(task.num_outputs) is int
    known = order or (sorted(set(flat.tolist())) if not given else list(range(count)))
    expected = torch.tensor([known.index(flat[int(row)]) for row in task.train_x[:, 1]])
    assert torch.equal(task.train_y, expected)


# ---- sources


def test_datasets_are_the_arrays_that_they_hold():
    pair = built(train=(X, Y))
    of_tensors = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    of_arrays = Own([(row, int(label)) for row, label in zip(X, Y, strict=True)])
    of_names = Own([(row, "abc"[label] * (1 + label)) for row, label in zip(X, Y, strict=True)])
    for source in (of_tensors, of_arrays, of_names):
        task = built(train=source)
        assert torch.equal(task.train_x, pair.train_x) and torch.equal(task.val_y, pair.val_y)
    assert task.class_names == ("a", "bb", "ccc")


@pytest.mark.parametrize(
    ("x", "same"),
    [
        (np.asfortranarray(X), X),
        (np.broadcast_to(X[:, :1], (60, 3)), np.repeat(X[:, :1], 3, axis=1)),
        (X[::-1][::-1], X),
        (X.astype(">f4"), X),
        (X.astype(object), X.astype(np.float64)),
        (Y.astype(np.uint64)[:, None] + np.uint64(2**63 + 2**60), Y[:, None] + 2.0**63 + 2.0**60),
        (torch.from_numpy(X.T.copy()).T, X),
    ],
)
def test_inputs_may_lie_in_memory_in_any_way(x, same):
    assert torch.equal(built(train=(x, Y)).train_x, built(train=(same, Y)).train_x)


@pytest.mark.parametrize(
    ("values", "loss"),
    [
        ([0, *np.linspace(0.1, 0.9, 59)], "mse"),
        ([np.uint8(1), *range(300, 359)], "mse"),
        ([np.uint8(0), *[300, 301] * 29, 0], "cross_entropy"),
    ],
)
def test_the_first_example_of_a_dataset_does_not_cut_the_others(values, loss):
    rows_of = [([0, 0], values[0]), *zip(X[1:, :2].tolist(), values[1:], strict=True)]
    expected = built(train=(np.array([x for x, _ in rows_of]), np.array(values)), loss=loss)
    task = built(train=Own(rows_of), loss=loss)
    assert torch.equal(task.train_x, expected.train_x) and torch.equal(task.train_y, expected.train_y)
    assert task.class_names == expected.class_names


def test_an_image_with_a_palette_is_its_colours():
    colours = [Image.fromarray(image) for image in DRAW.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)]
    indexed = [image.convert("P") for image in colours]
    expected = built(train=Own([(image.convert("RGB"), n % 2) for n, image in enumerate(indexed)]))
    assert torch.equal(built(train=Own([(image, n % 2) for n, image in enumerate(indexed)])).train_x, expected.train_x)


@pytest.mark.parametrize("count", [30, 600])
def test_examples_that_repeat_everywhere_are_no_overlap(count):
    x = np.random.default_rng(1).integers(0, 3, (count, 2)).astype(float)
    y = (x[:, 0] > 0).astype(int)
    third = count // 3
    task = built(train=(x[third:], y[third:]), test=(x[:third], y[:third]))
    assert f"of {third} test examples stand in train" in "".join(task.notes)


# ---- bad input

HOLED = X.copy()
HOLED[3, 1] = np.nan
TARGETS = X[:, 0]
NEGATIVE = Y[:, None] - np.ones((1, 2), int)
TOKENS = np.arange(240).reshape(60, 4) % 11
LETTERS = np.array(["a", "b", "c"])
BROKEN = type("Broken", (Own,), {"__getitem__": lambda self, index: 1 / 0})
LEAVING = type("Leaving", (Own,), {"__getitem__": lambda self, index: sys.exit(3)})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": 5}, r"train: expected \(x, y\), .* and this is a int"),
        ({"train": [(X[0], 1)] * 3}, "train: .*a list of 3"),
        ({"train": (X, Y[:-1])}, r"train: x \[60, 4\] and y \[59\]; expected a label for each"),
        ({"train": (X[:0], Y[:0])}, "train: .*holds no example"),
        ({"train": (X, Y), "test": (X[:0], Y[:0])}, "test: .*holds no example"),
        ({"train": (X[:, 0], Y)}, r"train x: \[60\]; expected images"),
        ({"train": (X, Y), "layout": "nchw"}, r"train x: \[60, 4\] is not \[N, C, H, W\]; see layout=nchw"),
        ({"train": (X.astype(str), Y)}, "train x: holds <U.* values; expected numbers"),
        ({"train": (X.astype(complex), Y)}, "train x: holds complex"),
        ({"train": ([[1.0, 2.0], [3.0]], [0, 1])}, "train x: examples of unlike sizes"),
        ({"train": (np.array([X[0], X[1, :2]], object), Y[:2])}, r"train x: \[2\]|holds objects"),
        ({"train": (HOLED, Y)}, "train x: example 3 holds NaN"),
        ({"train": (np.where(X > 4, np.inf, X), Y)}, "train x: example .* holds NaN or infinity"),
        ({"train": (X.astype(float) * 1e300, Y), "standardize": False}, "too large for float32"),
        ({"train": (X, Y), "test": (X[:5, :2], Y[:5])}, r"test x: examples of \[2\], and of train \[4\]"),
        ({"train": (X, Y), "test": (X, Y)}, "test x: 60 of its 60 examples stand in train"),
        ({"train": (X, Y), "val": (X[:9] + 50, Y[:9]), "test": (X[:9] + 50, Y[:9])}, "test x: 9 .* stand in val"),
        ({"train": (X, TARGETS)}, "train y: holds float32 values; .*\n.*another loss, such as mse"),
        ({"train": (X, np.eye(3)[Y])}, r"train y: \[60, 3\]; .* one-hot rows: y.argmax\(1\)"),
        ({"train": (X, [None] * 60)}, "train y: holds objects"),
        ({"train": (X, Y * 0)}, "all training labels are 0"),
        ({"train": (X, np.arange(60))}, "class .* has no training example\n.*such as mse"),
        ({"train": (X, Y), "test": (X[:5] + 99, Y[:5] + 3)}, "test y: label 3 has no training example"),
        ({"train": (X, Y), "test": (X[:5] + 99, Y[:5].astype(str))}, "text in one split and numbers in another"),
        ({"train": (X, Y), "num_outputs": 2}, "train y: label 2: expected 0 to 1"),
        ({"train": (X, Y - 1), "num_outputs": 3}, "train y: label -1: expected 0 to 2"),
        ({"train": (X[:6], Y[:6]), "num_outputs": 10}, "10 classes, and 6 training examples"),
        ({"train": (X, np.array(["cat", "dog", "dgo"])[Y]), "class_names": ("cat", "dog")}, "dgo: .*mean dog"),
        (
            {"train": (X, LETTERS[Y]), "num_outputs": 2},
            r"num_outputs=2: there are 3 classes, \[a,b,c\]",
        ),
        ({"train": (X[:2], Y[:2])}, "2 examples leave an empty split"),
        (
            {"train": (Y[:, None] - np.ones((1, 2), int), Y[:, None] - np.ones((1, 2), int))},
            "tokens: -1: expected 0 to",
        ),
        (
            {"train": (TOKENS, TOKENS), "test": (TOKENS, TOKENS[:, 0])},
            r"y: \[60, 4\]; expected a label for each example",
        ),
        ({"train": DataLoader(TensorDataset(torch.zeros(2)))}, "a DataLoader; .*loader.dataset"),
        ({"train": Endless()}, "train: expected .*Endless"),
        ({"train": Own([])}, "train: holds no example"),
        ({"train": Own([X[0]] * 3)}, "train: example 0 is a numpy.ndarray; expected a pair"),
        ({"train": Own([(X[0], 0), (X[0, :2], 1)])}, r"train: example 1 is \[2\], and the first \[4\]"),
        (
            {"train": BROKEN([1])},
            r"example 0 failed in \S+test_data.py, line \d+: ZeroDivisionError",
        ),
        ({"train": (X, Y), "loss": "mae"}, "loss=mae: not known; did you mean mse"),
        ({"train": (X, Y), "layout": "nhcw"}, "layout=nhcw: not known; did you mean nhw|nchw"),
        ({"train": (X, Y), "class_names": ("a", "a", "b")}, "class_names=.* each once"),
        ({"train": (X, Y), "class_names": ("a", "b", "c"), "num_outputs": 4}, "num_outputs=4: expected 3"),
        ({"train": (X, Y), "num_outputs": 0}, "num_outputs=0"),
        ({"train": (X, Y), "num_outputs": 3.0}, "num_outputs=3.0: expected a whole number"),
        ({"train": (X, Y), "class_names": "abc"}, r"class_names=abc: expected a list, as in \[abc\]"),
        ({"train": (X, Y), "notes": "ab"}, "notes=ab: expected a list"),
        ({"train": None, "test": (X, Y)}, "train=null: expected examples to train on"),
        ({"train": (torch.eye(60).to_sparse(), Y)}, r"train x: is no array \(.*to_dense"),
        ({"train": (torch.zeros(60, 4, device="meta"), Y)}, r"train x: is no array \(.*meta tensor"),
        ({"train": (np.ma.masked_less(X, 0), Y)}, "train x: holds masked values"),
        ({"train": Own([(X[0], 0), (X[1], "b")])}, "train y: holds objects of several kinds"),
        ({"train": Own([(X[0], "a"), (X[1], 1)])}, "train y: holds objects of several kinds"),
        ({"train": LEAVING([1])}, r"train: example 0 failed in \S+, line \d+: SystemExit: 3"),
        ({"train": (X.astype(float) * 1e200, Y)}, "train x: its numbers lie too far apart"),
        ({"train": (TOKENS * 10**12, TOKENS)}, "tokens: 10000000000000: expected 0 to 999999"),
        ({"train": (X, Y * 1e300), "loss": "mse"}, "train split's targets cannot be standardised"),
        ({"train": (X, Y * 5e-324), "loss": "mse"}, "train split's targets cannot be standardised"),
        (
            {"train": (X, TARGETS), "test": (X[:9] + 9, TARGETS[:9] * np.float64(1e300)), "loss": "mse"},
            "test split's targets cannot be standardised",
        ),
    ],
)
def test_what_makes_no_task_is_refused(given, said):
    with pytest.raises((TaskError, ConfigError), match=said) as refused:
        built(**given)
    assert str(refused.value).count("\n") <= 1


# ---- the fingerprint


def test_the_fingerprint_is_of_all_that_was_given():
    y = Y.copy()
    y[:2] = y[1::-1]
    x = X.copy()
    x[5, 2] += 1e-3
    given = [
        {"train": (X, Y)},
        {"train": (x, Y)},
        {"train": (X, y)},
        {"train": (X[::-1].copy(), Y[::-1].copy())},
        {"train": (X[:50], Y[:50]), "test": (X[50:], Y[50:])},
        {"train": (X[:50], Y[:50]), "val": (X[50:], Y[50:])},
    ]
    found = [built(**one).data_sha256 for one in given]
    assert len(set(found)) == len(given)
    assert built(train=(X, Y), seed=1, standardize=False).data_sha256 == found[0]

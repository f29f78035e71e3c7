"""Tables become tasks; what is wrong is told with row and column."""

import csv
import os

import numpy as np
import pytest
import torch

from esper.errors import ConfigError, TaskError
from esper.tasks import build_task
from esper.tasks.own.table import encode, parse
from esper.tasks.settings import TableConfig
from tests.own_data import CLASSES, csv_file

ROWS = 30


def built(path, target="kind", **values):
    return build_task(TableConfig(path=str(path), target=target, **values))


def table(folder, text, name="own.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def numbered(row="{n},{n2},{kind}", head="a,b,kind", joined="\n"):
    lines = [row.format(n=n, n2=n * n % 7, kind="xy"[n % 2], mixed=n if n % 5 else "") for n in range(ROWS)]
    return joined.join([head, *lines]) + joined


def test_a_table_becomes_vectors_and_classes(tmp_path):
    task = built(csv_file(tmp_path / "own.csv"))
    assert (task.inputs, task.input_shape, task.class_names) == ("vectors", (4,), CLASSES)
    assert "36 training, 12 validation, 12 test; validation and test kept apart" in task.notes[0]
    assert torch.allclose(task.train_x[:, :2].mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(task.train_x[:, :2].std(0, correction=0), torch.ones(2), atol=1e-5)
    for x in (task.train_x, task.val_x, task.test_x):
        assert (x[:, 2:].sum(1) == 1).all() and set(x[:, 2:].unique().tolist()) == {0, 1}
    assert task.train_x[task.train_y == 2].mean(0)[0] > task.train_x[task.train_y == 0].mean(0)[0]


TRAIN = np.array([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("values", "encoded"),
    [
        (["1", "3", "1", "3", "7"], [[-1], [1], [-1], [1], [5]]),
        (["2", "2", "2", "2", "5"], [[0], [0], [0], [0], [3]]),
        (["1", "", "3", "NA", "nan"], [[-1, 0], [0, 1], [1, 0], [0, 1], [0, 1]]),
        (["a", "b", "a", "b", "b"], [[1, 0], [0, 1], [1, 0], [0, 1], [0, 1]]),
        (["a", "b", "", "b", "c"], [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]]),
        (["1", "x", "1", "x", "x"], [[1, 0], [0, 1], [1, 0], [0, 1], [0, 1]]),
        (["", "", "", "", "4"], [[0, 1], [0, 1], [0, 1], [0, 1], [4, 0]]),
        (["1", "-NaN", "3", "+nan", "1"], [[-1, 0], [0, 1], [1, 0], [0, 1], [-1, 0]]),
        (["1_0", "1_1", "1_0", "1_1", "1_1"], [[1, 0], [0, 1], [1, 0], [0, 1], [0, 1]]),
        ([" 1e3", "-1e3 ", "1E3", "-1000.0", "0"], [[1], [-1], [1], [-1], [0]]),
    ],
)
def test_the_training_rows_decide_how_a_column_is_encoded(values, encoded):
    assert encode(parse("own", values), TRAIN, "own.csv").tolist() == encoded


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        (("yes", "no"), ("no", "yes")),
        (("0", "1"), ()),
        (("10", "9"), ("9", "10")),
        (("1.0", "2.0"), ("1", "2")),
        (("a", "1"), ("1", "a")),
    ],
)
def test_what_the_target_column_holds_are_classes(kinds, names, tmp_path):
    text = "a,kind\n" + "".join(f"{n},{kinds[n % 2]}\n" for n in range(ROWS))
    task = built(table(tmp_path, text))
    assert task.class_names == names and task.num_outputs == 2


@pytest.mark.parametrize(
    "text",
    [
        numbered(),
        numbered("{n};{n2};{kind}", "a;b;kind"),
        numbered("{n}\t{n2}\t{kind}", "a\tb\tkind"),
        numbered(joined="\r\n"),
        numbered('"{n}",{n2},"{kind}"', '"a", b ,kind'),
        "\ufeff" + numbered(),
        numbered() + "\n\n",
        numbered('"{n}","{n2}",{kind}', '"a","b;c;d;e",kind'),
    ],
)
def test_csv_of_any_make_is_read(text, tmp_path):
    expected = built(table(tmp_path, numbered(), "plain.csv"))
    assert torch.equal(built(table(tmp_path, text)).train_x, expected.train_x)
    assert built(table(tmp_path, text), drop=["a"]).input_shape == (1,)


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_a_column_of_numbers_can_be_predicted(loss, tmp_path):
    task = built(table(tmp_path, numbered()), target="b", loss=loss)
    assert (task.loss, task.num_outputs, task.input_shape, task.class_names) == (loss, 1, (3,), ())
    assert task.train_y.shape == (18, 1) and abs(float(task.train_y.mean())) < 1e-6
    every = torch.cat([task.train_y, task.val_y, task.test_y]) * task.target_std + task.target_mean
    assert sorted(every.flatten().round().long().tolist()) == sorted(n * n % 7 for n in range(ROWS))


def test_rows_may_be_alike(tmp_path):
    text = "a,b,kind\n" + "".join(f"{n % 3},{n % 2},{'xy'[n % 2]}\n" for n in range(60))
    task = built(table(tmp_path, text))
    assert "60 training" not in task.notes[0] and "stand in train" in "".join(task.notes)


def test_what_csv_was_told_of_long_fields_is_kept(tmp_path):
    before = csv.field_size_limit(77)
    try:
        built(table(tmp_path, numbered()))
        assert csv.field_size_limit() == 77
    finally:
        csv.field_size_limit(before)


def test_columns_can_be_left_out(tmp_path):
    path = table(tmp_path, numbered())
    assert built(path, drop=["b"]).input_shape == (1,)


def test_parquet_is_the_same_table(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = table(tmp_path, numbered("{n},{mixed},{kind}"))
    columns = {
        "a": [float(n) for n in range(ROWS)],
        "b": [n if n % 5 else None for n in range(ROWS)],
        "kind": ["xy"[n % 2] for n in range(ROWS)],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "own.parquet")
    assert torch.equal(built(tmp_path / "own.parquet").train_x, built(path).train_x)
    late = pyarrow.table({"kind": columns["kind"], "when": pyarrow.array([2**40] * ROWS, pyarrow.timestamp("s"))})
    whole = (tmp_path / "own.parquet").read_bytes()
    for content in (b"PAR1 and no more", whole[:150] + b"\0" * 9 + whole[159:], late):
        if isinstance(content, bytes):
            (tmp_path / "own.parquet").write_bytes(content)
        else:
            parquet.write_table(content, tmp_path / "own.parquet")
        with pytest.raises(TaskError, match=r"own.parquet: cannot be read [^\n]*$"):
            built(tmp_path / "own.parquet")


UNLIKE = "".join(f"{n},t{n},{n % 2}\n" for n in range(300))


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_a_column_of_numbers_is_predicted(tmp_path, loss):
    task = built(table(tmp_path, numbered()), target="b", loss=loss)
    given = sorted(float(line.split(",")[1]) for line in numbered().splitlines()[1:])
    held = torch.cat([task.train_y, task.val_y, task.test_y]).double() * task.target_std + task.target_mean
    assert sorted(held.flatten().tolist()) == pytest.approx(given, abs=1e-5)
    assert (task.loss, task.num_outputs, task.is_regression) == (loss, 1, True)


@pytest.mark.parametrize(
    ("text", "values", "said"),
    [
        (None, {}, r"task.path=.*own.csv: cannot be read \(No such file"),
        ("", {}, "holds no row"),
        ("a,kind\n", {}, "holds no row"),
        (os.mkfifo, {}, "own.csv: cannot be read .it is a FIFO; expected a file"),
        (numbered().encode("utf-16"), {}, "cannot be read .it is no UTF-8"),
        (
            numbered(),
            {"target": "knid"},
            r"target=knid: .* no such column; did you mean kind\?\n  columns: \[a,b,kind",
        ),
        (numbered(), {"drop": ["c", "d"]}, "task.drop=c: .* no such column"),
        (numbered(), {"drop": ["a", "b"]}, "no column is left to predict kind by"),
        (numbered(head="a,a,kind"), {}, "the first line names a twice"),
        (numbered(head="a,,kind"), {}, "the first line gives column 2 no name"),
        (numbered() + "1,2\n", {}, "line 32 has 2 fields, and the first line names 3"),
        (numbered() + '1,"2,x\n', {}, "line 32: unexpected end of data"),
        (numbered() + "1,2,\n", {}, "row 31 has no kind, which is to be predicted"),
        (numbered() + "1,inf,x\n", {}, "row 31, column b: inf is beyond all bounds"),
        (numbered() + f"1,{10**400},x\n", {}, r"row 31, column b: 10+\.\.\. is beyond all bounds"),
        ("n,id,kind\n" + UNLIKE, {}, r"column id has \d+ different texts, .*\n  .*'task.drop=\[id\]'"),
        (
            "a,b\n" + "".join(f"{n},5\n" for n in range(30)),
            {"target": "b", "loss": "mse"},
            "target 0 is the same in all 18",
        ),
        (numbered("{n},5,{kind}"), {"target": "b", "loss": "mse"}, "target 0 is the same in all 18 examples"),
        (numbered(), {"loss": "mse"}, "row 1, column kind: x is no number to predict"),
        ("a,kind\n" + "".join(f"{n},{n / 2}\n" for n in range(9)), {}, "train y: holds float64 values"),
        ("a,kind\n1,x\n2,y\n", {}, "2 examples leave an empty split"),
        ("a,kind\n" + "1,x\n" * 9, {}, "all training labels are x"),
    ],
)
def test_what_makes_no_task_is_refused(tmp_path, text, values, said):
    path = tmp_path / "own.csv"
    if callable(text):
        text(path)
    elif text is not None:
        table(tmp_path, text)
    with pytest.raises((TaskError, ConfigError), match=said) as refused:
        built(path, **values)
    assert str(refused.value).count("\n") <= 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"target": "kind"}, "task.path: task=table needs data of yours, as in: .*task.target=COLUMN"),
        ({"path": "x"}, "task.target=null: expected the column to predict"),
        ({"path": "x", "target": "kind", "loss": "hubert"}, "task.loss=hubert: not known; did you mean huber"),
    ],
)
def test_a_wrong_value_is_named(values, said):
    with pytest.raises(ConfigError, match=said):
        TableConfig(**values)

"""What a function of one's own gives becomes a task, or is refused with its name."""

import numpy as np
import pytest
import torch
from PIL import Image

from esper.errors import ConfigError, EsperError
from esper.tasks import build_task
from esper.tasks.building import build_task as build
from esper.tasks.settings import TASKS, CustomTaskConfig, DigitsConfig
from tests.own_data import CLASSES, pictures


def built(function, **values):
    return build_task(CustomTaskConfig(factory=f"tests.own_data:{function}", **values))


@pytest.mark.parametrize(
    ("function", "sizes", "names"),
    [
        ("data", (36, 12, 12), CLASSES),
        ("pair", (36, 12, 12), ()),
        ("datasets", (32, 8, 20), ()),
        ("by_name", (32, 8, 20), ()),
    ],
)
def test_data_pairs_and_datasets_are_taken(function, sizes, names):
    task = built(function)
    assert (len(task.train_y), len(task.val_y), len(task.test_y)) == sizes
    assert task.class_names == names and task.input_shape == (3, 8, 8) and task.num_outputs == 3


def test_more_classes_than_there_are_can_be_asked_for():
    assert built("pair", num_outputs=5).num_outputs == 5


def test_numbers_to_predict_can_be_asked_for():
    task = built("numbers", loss="huber")
    assert (task.loss, task.num_outputs, task.inputs) == ("huber", 1, "vectors")


@pytest.mark.parametrize(
    ("function", "values", "said"),
    [
        ("nothing", {}, "tests.own_data:nothing: expected esper.Data, .* and it gave NoneType"),
        ("broken", {}, r"task.factory=tests.own_data:broken failed in \S+, line \d+: ZeroDivisionError"),
        ("refused", {}, "task.factory=tests.own_data:refused: loss=mes: not known; did you mean mse"),
        ("of_what", {}, "is called with no arguments .*'kind'"),
        ("strange", {}, "a dict of train, trian; expected train, val, test"),
        ("only_test", {}, "a dict of test; expected train, val, test"),
        ("dtaa", {}, "task.factory=.*has no attribute 'dtaa'; it is looked up from where the run starts"),
        ("numbers", {}, "task=custom: train y: holds float32 values"),
        ("numbers", {"loss": "mse", "num_outputs": 2}, "targets and outputs are not equally many: 1, 2"),
    ],
)
def test_what_goes_wrong_in_it_is_said_in_a_line(function, values, said):
    with pytest.raises(EsperError, match=said) as refused:
        built(function, **values)
    assert str(refused.value).count("\n") <= 1


@pytest.mark.parametrize("factory", ["", "module", "a b:c", None])
def test_a_name_that_is_none_is_refused(factory):
    with pytest.raises(ConfigError, match=r"task.factory=.*expected package.module:function"):
        CustomTaskConfig(factory=factory)


def test_a_builder_that_gives_no_data_is_named(monkeypatch):
    monkeypatch.setattr(TASKS, "parts", dict(TASKS.parts))
    del TASKS.parts["digits"]
    TASKS.register("digits", DigitsConfig)(lambda settings: "nothing")
    with pytest.raises(ConfigError, match=r"task=digits: tests.*lambda.* gave builtins.str; expected esper.Data"):
        build(DigitsConfig())


# ---- Hugging Face datasets


@pytest.fixture(scope="module")
def hugging_face():
    return pytest.importorskip("datasets")


@pytest.mark.slow
def test_hugging_face_datasets_are_taken(hugging_face, monkeypatch):
    images, y = pictures()
    label = hugging_face.ClassLabel(names=CLASSES)
    kinds = {"image": hugging_face.Image(), "number": hugging_face.Value("int32"), "label": label}
    rows = {"image": [Image.fromarray(image) for image in images], "number": list(range(60)), "label": y.tolist()}
    whole = hugging_face.Dataset.from_dict(rows, features=hugging_face.Features(kinds))
    split = hugging_face.DatasetDict({"train": whole.select(range(40)), "test": whole.select(range(40, 60))})
    plain = built("datasets")
    for given in (split, (split["train"], split["test"])):
        monkeypatch.setattr("tests.own_data.nothing", lambda given=given: given)
        task = built("nothing")
        assert task.class_names == CLASSES
        assert torch.equal(task.train_x, plain.train_x) and torch.equal(task.test_y, plain.test_y)


def test_columns_of_numbers_are_vectors(hugging_face, monkeypatch):
    x, y = np.arange(60.0), np.arange(60) % 3
    for columns, said in (
        ({"a": x, "b": x * 2, "label": y}, ""),
        ({"a": x, "b": [str(n) for n in x], "label": y}, r"columns \[a,b,label\]: which of them is the input"),
        ({"a": x, "kind": y}, r"columns \[a,kind\]; expected one called label, .*\n.*rename_column"),
    ):
        whole = hugging_face.Dataset.from_dict(columns)
        monkeypatch.setattr("tests.own_data.nothing", lambda whole=whole: whole)
        if said:
            with pytest.raises(EsperError, match=said):
                built("nothing")
        else:
            assert built("nothing").input_shape == (2,)

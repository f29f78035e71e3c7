import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from esper.checkpoint import Checkpoint, fingerprint, read_bundle, write_bundle
from esper.checkpoint import bundle as bundle_module
from esper.checkpoint.bundle import bundle_paths
from esper.errors import CheckpointError


def example(number: int = 3) -> Checkpoint:
    weight = torch.full((4, 5), float(number))
    return Checkpoint(
        tensors={"host.w": weight, "head.w": weight, "step": torch.tensor(number)},
        kind="growth",
        epoch=number,
        state={"members": [{"alpha": 0.1 + number, "stage": 4}]},
        config={"host": {"channels": [4, 8]}, "seed": 3},
        growth_log=[{"epoch": 2, "slot": "mid", "blueprint": "conv_light"}],
        seed_states={"0.mid": {"seed_id": "s0", "stage": 4}},
        metrics={"val_accuracy": 71.5, "val_loss": None},
        metadata={"note": "höher"},
    )


def seal(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a sidecar and give it a checksum that fits, as only a program would."""
    sidecar = json.loads(path.read_text())
    del sidecar["self_sha256"]
    change(sidecar)
    sidecar["self_sha256"] = fingerprint(sidecar)
    path.write_text(json.dumps(sidecar))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    write_bundle(tmp_path / "c", example())
    return bundle_paths(tmp_path / "c")


def test_everything_comes_back(saved: tuple[Path, Path]) -> None:
    written, read = example(), read_bundle(saved[0])
    for name in ("kind", "epoch", "state", "config", "growth_log", "seed_states", "metrics", "metadata"):
        assert getattr(read, name) == getattr(written, name), name
    assert read.path == saved[0]
    assert read.tensors.keys() == written.tensors.keys()
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in written.tensors.items())
    assert read.tensors["host.w"] is read.tensors["head.w"]


def test_the_sidecar_says_what_the_files_are(saved: tuple[Path, Path]) -> None:
    sidecar = json.loads(saved[1].read_text())
    assert sidecar["schema"] == 1
    assert sidecar["aliases"] == {"head.w": "host.w"}
    assert sidecar["config_sha256"] == fingerprint(sidecar["config"])
    assert sidecar["tensors_sha256"] == hashlib.sha256(saved[0].read_bytes()).hexdigest()
    assert sidecar["versions"]["torch"] == torch.__version__
    assert sidecar["versions"].keys() == {"esper", "python", "safetensors", "torch"}
    checksum = sidecar.pop("self_sha256")
    assert checksum == fingerprint(sidecar)


def test_the_same_checkpoint_is_the_same_bytes(saved: tuple[Path, Path], tmp_path: Path) -> None:
    write_bundle(tmp_path / "again", example())
    assert [path.read_bytes() for path in bundle_paths(tmp_path / "again")] == [path.read_bytes() for path in saved]


@pytest.mark.parametrize("name", ["c", "c.safetensors", "c.json", "c.pt"])
def test_any_of_its_names_will_do(saved: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    assert read_bundle(str(tmp_path / name)).epoch == 3


def test_loading_then_overwriting_the_file_leaves_what_was_loaded(saved: tuple[Path, Path]) -> None:
    read = read_bundle(saved[0])
    size = saved[0].stat().st_size
    with open(saved[0], "r+b") as file:
        file.write(b"\xff" * size)
    assert torch.equal(read.tensors["host.w"], torch.full((4, 5), 3.0))


def test_a_template_is_compared_strictly(saved: tuple[Path, Path]) -> None:
    template = dict(example(9).tensors)
    assert read_bundle(saved[0], expected=template).epoch == 3
    with pytest.raises(CheckpointError, match=r"c\.safetensors belongs to another .*'step' is not expected"):
        read_bundle(saved[0], expected={name: tensor for name, tensor in template.items() if name != "step"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"lr": [float("nan")]}}, r"config\['lr'\]\[0\] is nan"),
        ({"state": {"a": (1,)}}, r"state\['a'\] is a tuple"),
        ({"metrics": {"loss": float("inf")}}, r"metrics\['loss'\] is inf"),
        ({"metrics": {"loss": "low"}}, r"metrics\['loss'\] is a str"),
        ({"growth_log": [{"x": torch.zeros(1)}]}, r"growth_log\[0\]\['x'\] is a torch.Tensor"),
        ({"epoch": -1}, "epoch is an integer from 0 on"),
        ({"epoch": 1.0}, "epoch is an integer from 0 on"),
    ],
)
def test_what_cannot_be_kept_is_named_and_nothing_is_written(
    saved: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=message):
        write_bundle(tmp_path / "c", Checkpoint(tensors={"w": torch.zeros(3)}, **changes))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def flip(path: Path, index: int) -> None:
    data = bytearray(path.read_bytes())
    data[index] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("which", [0, 1])
def test_every_flipped_bit_is_noticed(saved: tuple[Path, Path], which: int) -> None:
    good = saved[which].read_bytes()
    meaningful = json.loads(saved[1].read_text())
    for index in range(0, len(good), 7):
        flip(saved[which], index)
        try:
            read = read_bundle(saved[0])
        except CheckpointError as error:
            assert saved[which].name in str(error)
        else:  # white space between the fields
            assert which == 1
            assert json.loads(saved[1].read_text()) == meaningful
            assert read.epoch == 3
        saved[which].write_bytes(good)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_was_cut_short_is_refused(saved: tuple[Path, Path], which: int, share: float) -> None:
    data = saved[which].read_bytes()
    saved[which].write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=rf"{saved[which].name} is .*cut short"):
        read_bundle(saved[0])


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_is_gone_is_named(saved: tuple[Path, Path], which: int) -> None:
    saved[which].unlink()
    with pytest.raises(CheckpointError, match=rf"{saved[which].name} is missing"):
        read_bundle(saved[0])


def test_files_of_two_checkpoints_do_not_mix(saved: tuple[Path, Path], tmp_path: Path) -> None:
    write_bundle(tmp_path / "other", example(4))
    bundle_paths(tmp_path / "other")[0].replace(saved[0])
    with pytest.raises(CheckpointError, match=r"c\.safetensors is altered"):
        read_bundle(saved[0])


@pytest.mark.parametrize(("old", "new"), [('"seed":3', '"seed":4'), ("71.5", "91.5"), ('"epoch": 3', '"epoch": 4')])
def test_an_edited_number_is_noticed(saved: tuple[Path, Path], old: str, new: str) -> None:
    text = saved[1].read_text()
    assert old in text
    saved[1].write_text(text.replace(old, new))
    with pytest.raises(CheckpointError, match="does not match its own checksum"):
        read_bundle(saved[0])


def test_reformatting_the_sidecar_is_no_damage(saved: tuple[Path, Path]) -> None:
    saved[1].write_text(json.dumps(json.loads(saved[1].read_text()), indent=4))
    assert read_bundle(saved[0]).metadata == {"note": "höher"}


def test_another_schema_is_refused_by_number(saved: tuple[Path, Path]) -> None:
    seal(saved[1], lambda sidecar: sidecar.update(schema=2))
    with pytest.raises(CheckpointError, match="has schema 2; this version of esper reads 1"):
        read_bundle(saved[0])


@pytest.mark.parametrize("value", ["1e400", "NaN", "[" * 500 + "]" * 500])
def test_a_sidecar_with_what_json_cannot_hold_is_refused(saved: tuple[Path, Path], value: str) -> None:
    saved[1].write_text(saved[1].read_text().replace("71.5", value))
    with pytest.raises(CheckpointError, match=r"c\.json is altered"):
        read_bundle(saved[0])


@pytest.mark.parametrize("name", ["kind", "epoch", "config", "growth_log", "aliases", "metrics", "tensors_sha256"])
@pytest.mark.parametrize("value", [..., 1.5])
def test_a_field_that_is_missing_or_wrong_is_named(saved: tuple[Path, Path], name: str, value: Any) -> None:
    seal(saved[1], lambda sidecar: sidecar.pop(name) if value is ... else sidecar.update({name: value}))
    with pytest.raises(CheckpointError, match=f"'{name}' is missing or of the wrong type"):
        read_bundle(saved[0])


class Killed(BaseException):
    """Stands for SIGKILL between two steps of a writer."""


def write_until(path: Path, number: int, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overwrite a checkpoint, stopping dead before this step (3 files are written; 3: before the clean-up)."""
    steps = iter(range(10))
    write, unlink = bundle_module.write_atomic, Path.unlink

    def step_on() -> None:
        if next(steps) == step:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(bundle_module, "write_atomic", lambda *args: (step_on(), write(*args)))
        patch.setattr(Path, "unlink", lambda *args, **options: (step_on(), unlink(*args, **options)))
        write_bundle(path, example(number))


@pytest.mark.parametrize("first_step", range(4))
@pytest.mark.parametrize("second_step", range(4))
def test_two_killed_overwrites_in_a_row_leave_a_sound_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_step: int, second_step: int
) -> None:
    path = tmp_path / "best"
    write_bundle(path, example(0))
    for number, step in ((1, first_step), (2, second_step)):
        write_until(path, number, step, monkeypatch)
        read = read_bundle(path)
        assert read.epoch in range(number + 1)
        assert read.tensors["step"] == read.epoch
        if step >= 2:
            assert read.epoch == number
    write_bundle(path, example(3))
    assert read_bundle(path).epoch == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.json", "best.safetensors"]


def read_any(folder: Path) -> Checkpoint | None:
    try:
        return read_bundle(folder / "c")
    except CheckpointError as error:
        assert str(error)
        return None


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    write_bundle(folder / "pristine", example())
    return folder


def make_pristine(folder: Path) -> None:
    for pristine, path in zip(bundle_paths(folder / "pristine"), bundle_paths(folder / "c"), strict=True):
        shutil.copyfile(pristine, path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(tensors=st.binary(max_size=200), sidecar=st.binary(max_size=200) | json_values.map(json.dumps).map(str.encode))
@settings(max_examples=150, deadline=None)
def test_arbitrary_files_are_refused(scratch: Path, tensors: bytes, sidecar: bytes) -> None:
    (scratch / "c.safetensors").write_bytes(tensors)
    (scratch / "c.json").write_bytes(sidecar)
    assert read_any(scratch) is None


WORDS = ["w", "__metadata__", "dtype", "shape", "data_offsets", "F32"]
any_header = st.recursive(
    st.sampled_from(WORDS) | st.integers(-1, 2**63) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
    max_leaves=6,
)
dtypes = st.sampled_from(["F32", "F64", "BF16", "I64", "BOOL", "F4", "F6_E2M3", "F8_E8M0", "C64", "U8"])


@st.composite
def near_misses(draw: st.DrawFn) -> tuple[Any, bytes]:
    """The header and the body of a file with one tensor, right or a little wrong."""
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = math.prod(shape) * draw(st.sampled_from([1, 2, 4, 8])) + draw(st.sampled_from([0, 0, 0, 1]))
    header = {"w": {"dtype": draw(dtypes), "shape": shape, "data_offsets": [0, size]}}
    return header, bytes(size + draw(st.sampled_from([0, 0, 0, 1])))


@pytest.mark.slow
@given(
    file=near_misses() | st.tuples(any_header, st.binary(max_size=24)),
    aliases=st.just({}) | st.dictionaries(st.sampled_from("wxy"), st.sampled_from(["w", "x", 3]), max_size=2),
    wrong_length=st.sampled_from([0, 0, 0, 1, -1]),
)
@settings(max_examples=200, deadline=None)
def test_files_that_fit_each_other_but_no_checkpoint_are_refused_or_sound(
    scratch: Path, file: tuple[Any, bytes], aliases: dict[str, Any], wrong_length: int
) -> None:
    make_pristine(scratch)
    text = json.dumps(file[0]).encode()
    data = (len(text) + wrong_length).to_bytes(8, "little") + text + file[1]
    (scratch / "c.safetensors").write_bytes(data)
    fitting = {"tensors_sha256": hashlib.sha256(data).hexdigest(), "tensors_bytes": len(data), "aliases": aliases}
    seal(scratch / "c.json", lambda sidecar: sidecar.update(fitting))
    if (read := read_any(scratch)) is not None:
        assert all(tensor.count_nonzero() == 0 for tensor in read.tensors.values() if file[1] == bytes(len(file[1])))
        event("sound")


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_damaged_checkpoint_is_refused_or_unchanged(scratch: Path, data: st.DataObject) -> None:
    make_pristine(scratch)
    path = data.draw(st.sampled_from(bundle_paths(scratch / "c")))
    content = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(content)))
    content[start : start + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
    path.write_bytes(content)
    if (read := read_any(scratch)) is not None:
        assert (read.epoch, read.state, read.metrics) == (3, example().state, example().metrics)
        assert torch.equal(read.tensors["host.w"], torch.full((4, 5), 3.0))

import errno
import hashlib
import json
import math
import os
import sys
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from esper.checkpoint import load_checkpoint, migrate_torch_checkpoint, read_bundle, save_checkpoint
from esper.checkpoint.convert import convert_all, write_torch
from esper.cli.audit_examples import generate, seed_checkpoint
from esper.errors import CheckpointError
from esper.kasmina import CNNHost, MorphogeneticModel
from esper.leyline import SeedStage
from tests.checkpoint.evil import evil_files


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("count", torch.tensor(3))


@dataclass
class Note:
    text: str


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def saved(value: Any, path: Path, legacy: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def digests(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model", None])
def test_a_model_comes_back_exactly(tmp_path: Path, key: str | None, legacy: bool) -> None:
    model, loaded = network(), network()
    state = model.state_dict()
    others = {"epoch": 7, "config": {"width": 4, "rates": (0.1, 0.2)}}
    source = saved(state if key is None else {key: state, **others}, tmp_path / "old.pt", legacy)
    before = digests(tmp_path)
    path = migrate_torch_checkpoint(source, tmp_path / "new" / "net")
    assert path == tmp_path / "new" / "net.safetensors"
    sidecar = load_checkpoint(loaded, path)
    assert same(model, loaded)
    assert sidecar["metadata"] == ({} if key is None else {"epoch": 7, "config": {"width": 4, "rates": [0.1, 0.2]}})
    assert sidecar["epoch"] == (None if key is None else 7)
    assert sorted(file.name for file in path.parent.iterdir()) == ["net.json", "net.safetensors"]
    assert digests(tmp_path).items() >= before.items()


def test_tied_bf16_and_strided_tensors_come_back(tmp_path: Path) -> None:
    model, loaded = Tied().bfloat16(), Tied().bfloat16()
    state = model.state_dict() | {"turned": torch.arange(6.0).view(2, 3).T, "none": torch.empty(0, 2)}
    source = saved({"state_dict": state}, tmp_path / "old.pt")
    read = read_bundle(migrate_torch_checkpoint(source, tmp_path / "new"))
    assert read.sidecar["aliases"] == {"head.weight": "embed.weight"}
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in state.items())
    assert all(read.tensors[name].dtype == tensor.dtype for name, tensor in state.items())
    load_checkpoint(loaded, migrate_torch_checkpoint(saved(model.state_dict(), source), tmp_path / "tied"))
    assert loaded.head.weight is loaded.embed.weight
    assert same(model, loaded)


def test_tensors_that_are_not_the_model_s_are_kept_beside_it(tmp_path: Path) -> None:
    model, loaded = network(), network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    payload = {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "rng": [torch.ones(3)],
    }
    path = migrate_torch_checkpoint(saved(payload, tmp_path / "old.pt"), tmp_path / "new.v1")
    load_checkpoint(loaded, path)
    assert same(model, loaded)
    rest, metadata = read_bundle(tmp_path / "new.v1.rest").tensors, read_bundle(path).metadata
    assert metadata["optimizer_state_dict"]["param_groups"][0]["lr"] == 0.01
    assert metadata["rng"] == [{"tensor": "rng.0"}]
    for index, state in optimizer.state_dict()["state"].items():
        for name, tensor in state.items():
            reference = metadata["optimizer_state_dict"]["state"][str(index)][name]
            assert torch.equal(rest[reference["tensor"]], tensor)


def test_a_file_without_a_model_keeps_its_tensors_by_their_paths(tmp_path: Path) -> None:
    q = network().state_dict()
    source = saved({"gamma": 0.99, "q_network": q, "stages": {30, 4, 17}, "dtype": torch.bfloat16}, tmp_path / "iql.pt")
    read = read_bundle(migrate_torch_checkpoint(source, tmp_path / "new"))
    assert torch.equal(read.tensors["q_network.0.weight"], q["0.weight"])
    assert read.metadata["gamma"] == 0.99
    assert read.metadata["q_network"]["0.weight"] == {"tensor": "q_network.0.weight"}
    assert read.metadata["stages"] == [4, 17, 30]
    assert read.metadata["dtype"] == "torch.bfloat16"


def test_a_growing_model_comes_back_with_its_seed(tmp_path: Path) -> None:
    payload = seed_checkpoint(SeedStage.BLENDING)
    model = MorphogeneticModel(CNNHost(channels=(4, 8, 8)), slots=("mid",))
    source = write_torch(payload, tmp_path / "old.pt")
    load_checkpoint(model, migrate_torch_checkpoint(source, tmp_path / "new"))
    slot = model.slots["mid"]
    assert slot.stage is SeedStage.BLENDING
    assert slot.state is not None
    assert slot.state.to_dict() == payload["seed_states"]["mid"]
    written, read = payload["model_state_dict"], model.state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in written.items() if isinstance(tensor, torch.Tensor))


def test_a_model_that_is_given_must_fit_and_gets_the_weights(tmp_path: Path) -> None:
    model, loaded = network(), network()
    source = saved({"state_dict": model.state_dict()}, tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=r"old\.pt cannot be converted.*another architecture"):
        migrate_torch_checkpoint(source, tmp_path / "new", nn.Sequential(nn.Linear(3, 5)))
    assert [file.name for file in tmp_path.iterdir()] == ["old.pt"]
    migrate_torch_checkpoint(source, tmp_path / "new", loaded)
    assert same(model, loaded)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ([1, 2], "it holds a list; expected a dictionary"),
        ({"a": {"b": b"bytes"}}, r"a\.b is a bytes"),
        ({"a": [1, 2j]}, r"a\.1 is a complex"),
        ({"a": [1, 2j], "b": {"c": b"x"}}, r"a\.1 is a complex, .*; b\.c is a bytes, which .* to keep\."),
        ({"a": {"float": "inf"}}, "a is a dictionary that would be read back as a number"),
        ({"a": list(range(9)), "b": [b"x"] * 25}, r"b\.0 is a bytes.*; b\.19 is a bytes.*; and 5 more\."),
        ({5.0: 1}, "the file has a key that is a float"),
        ({"a": {(1, 2): 3}}, "a has a key that is a tuple"),
        ({"a": {1: 2, "1": 3}}, "a has two keys that are the same as text"),
        ({"a": {"b.c": torch.ones(1), "b": {"c": torch.ones(1)}}}, r"a\.b\.c is the place of two tensors"),
        ({"state_dict": {"w": torch.ones(2).to_sparse()}}, "'w' .*cannot be stored"),
        ({"state_dict": {"w": torch.ones(2), "_extra_state": [torch.ones(1)]}}, r"_extra_state\.0 is a torch\.Tensor"),
        ({"w": torch.empty(2, device="meta")}, "'w' has no values"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(tmp_path: Path, payload: Any, message: str) -> None:
    source = saved(payload, tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=rf"old\.pt cannot be converted: .*{message}"):
        migrate_torch_checkpoint(source, tmp_path / "new")
    assert [file.name for file in tmp_path.iterdir()] == ["old.pt"]


def test_numbers_that_are_not_finite_come_back(tmp_path: Path) -> None:
    model = network()
    others = {"best": math.inf, "worst": [-math.inf, {"loss": math.nan}], "word": "inf"}
    path = migrate_torch_checkpoint(saved({"model": model.state_dict(), **others}, tmp_path / "old.pt"), tmp_path / "n")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    written = json.loads((tmp_path / "n.json").read_text(), parse_constant=refuse)["metadata"]
    spelled = {"float": "inf"}, [{"float": "-inf"}, {"loss": {"float": "nan"}}], "inf"
    assert tuple(written.values()) == spelled
    read = load_checkpoint(network(), path)["metadata"]
    assert repr(read) == repr(others) == repr(read_bundle(path).metadata)
    assert repr(load_checkpoint(network(), save_checkpoint(model, tmp_path / "again", metadata=read))["metadata"]) == (
        repr(others)
    )


@pytest.mark.parametrize("where", ["main", "rest"])
def test_both_files_are_written_or_none(tmp_path: Path, where: str) -> None:
    bad = {"bad": torch.eye(2).to_sparse()}
    payload = {
        "model": network().state_dict() | (bad if where == "main" else {}),
        "optimizer": {"moment": torch.ones(2)} | (bad if where == "rest" else {}),
    }
    with pytest.raises(CheckpointError, match=r"bad'.*cannot be stored"):
        migrate_torch_checkpoint(saved(payload, tmp_path / "old.pt"), tmp_path / "new" / "n")
    assert not (tmp_path / "new").exists()


def test_tensors_of_any_strides_are_converted(tmp_path: Path) -> None:
    whole = torch.randn(1, 5)
    state = {"whole": whole, "column": whole[:, 0], "spread": whole[0, 1::5], "wide": whole.t().expand(5, 3)}
    read = read_bundle(migrate_torch_checkpoint(saved({"model": state}, tmp_path / "old.pt"), tmp_path / "new"))
    assert read.sidecar["aliases"] == {}
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in state.items())


class Leaving:
    """Unpickling it ends the program."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (0,)


@dataclass
class Stubborn:
    """What a trusted file may bring: an object whose own code fails."""

    value: int = 0

    def to_dict(self) -> Any:
        raise ZeroDivisionError("no\ndictionary")


def test_whatever_a_trusted_file_does_the_others_are_converted(tmp_path: Path) -> None:
    old = tmp_path / "old"
    saved({"a": Leaving()}, old / "a.pt")
    saved({"b": Stubborn()}, old / "b.pt")
    good = saved({"w": torch.ones(2)}, old / "c.pt")
    done = dict(convert_all([old], tmp_path / "new", trust=True))
    assert "a.pt cannot be loaded: SystemExit" in str(done[old / "a.pt"])
    assert "b.pt cannot be converted: ZeroDivisionError: no" in str(done[old / "b.pt"])
    assert done[good] == tmp_path / "new" / "c.safetensors"


def test_links_and_what_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, elsewhere = tmp_path / "old", tmp_path / "elsewhere"
    good = saved({"w": torch.ones(2)}, old / "run_2" / "good.pt")
    saved({"w": torch.ones(2)}, elsewhere / "far.pt")
    (old / "latest").symlink_to("run_2")  # what it leads to is converted where it is
    (old / "run_2" / "up").symlink_to("..")
    (old / "last.pt").symlink_to("run_2/good.pt")
    (old / "gone.pt").symlink_to("run_1/good.pt")
    (old / "away").symlink_to(elsewhere)
    os.mkfifo(old / "pipe.pt")
    (old / "shut").mkdir()
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "shut":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    new = old / "new"  # inside what is converted
    done = {str(file.relative_to(old)): str(result) for file, result in convert_all([old], new)}
    assert done == {
        "last.pt": str(new / "last.safetensors"),
        "run_2/good.pt": str(new / "run_2/good.safetensors"),
        "gone.pt": f"{old}/gone.pt cannot be read: No such file or directory.",
        "pipe.pt": f"{old}/pipe.pt is a pipe or a device: name a torch file.",
        "away": f"{old}/away is a link to another folder: name that folder itself.",
        "shut": f"{old}/shut cannot be read: Permission denied.",
    }
    assert good.is_file()


def test_a_folder_without_torch_files_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    ((_, error),) = convert_all([tmp_path], tmp_path / "new")
    assert "expected a torch file, or a folder with .pt, .pth, .ckpt files in it" in str(error)


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append({"self": endless})
    with pytest.raises(CheckpointError, match=r"converted: a contains itself, at a\.0\.self\."):
        migrate_torch_checkpoint(saved({"a": endless}, tmp_path / "old.pt"), tmp_path / "new")
    deep: list[Any] = []
    for _ in range(70):
        deep = [deep]
    with pytest.raises(CheckpointError, match="nested deeper than 60 levels"):
        migrate_torch_checkpoint(saved({"a": deep}, tmp_path / "old.pt"), tmp_path / "new")


def test_a_trusted_file_s_objects_become_plain(tmp_path: Path) -> None:
    now = datetime(2025, 1, 2, tzinfo=UTC)
    payload = {
        "now": now,
        "stage": SeedStage.BLENDING,
        "recent": deque([(1, now)]),
        "note": Note("x"),
        "score": np.float64(0.5),
        "ordered": OrderedDict(a=None),
        "folder": Path("runs") / "1",
        "scores": np.arange(3.0),
    }
    source = saved(payload, tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=r"asks for datetime\.datetime.*\n.*--trust"):
        migrate_torch_checkpoint(source, tmp_path / "new")
    read = read_bundle(migrate_torch_checkpoint(source, tmp_path / "new", trust=True))
    metadata = read.metadata
    assert read.tensors["scores"].tolist() == [0.0, 1.0, 2.0]
    at = now.isoformat()
    assert metadata == {
        "now": at,
        "stage": 4,
        "recent": [[1, at]],
        "note": {"text": "x"},
        "score": 0.5,
        "ordered": {"a": None},
        "folder": "runs/1",
        "scores": {"tensor": "scores"},
    }


def test_a_trusted_file_may_be_a_whole_network(tmp_path: Path) -> None:
    model, loaded = network(), network()
    source = saved(model, tmp_path / "old.pt")
    load_checkpoint(loaded, migrate_torch_checkpoint(source, tmp_path / "new", trust=True))
    assert same(model, loaded)
    source = saved({"model": model, "names": np.array(["a"])}, tmp_path / "both.pt")
    with pytest.raises(CheckpointError, match="names is an array of <U1, which no tensor holds"):
        migrate_torch_checkpoint(source, tmp_path / "new", trust=True)


def test_what_is_called_model_is_one_when_it_holds_tensors(tmp_path: Path) -> None:
    settings = {"model": {"width": 4}, "state_dict": network().state_dict()}
    path = migrate_torch_checkpoint(saved(settings, tmp_path / "old.pt"), tmp_path / "new")
    assert load_checkpoint(network(), path)["metadata"] == {"model": {"width": 4}}


def test_an_object_without_a_plain_form_is_named(tmp_path: Path) -> None:
    source = saved({"a": [range(2)]}, tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=r"a\.0 is a range, which is neither a plain value nor a tensor"):
        migrate_torch_checkpoint(source, tmp_path / "new", trust=True)


def test_no_malicious_file_runs_unless_trusted(tmp_path: Path) -> None:
    files, proof = evil_files(tmp_path)
    for path in files.values():
        with pytest.raises(CheckpointError, match=r"system"):
            migrate_torch_checkpoint(path, tmp_path / "new" / path.stem)
    assert not proof.exists()
    assert not (tmp_path / "new").exists()
    migrate_torch_checkpoint(files["weights"], tmp_path / "new" / "weights", trust=True)
    assert proof.exists()


def test_a_trusted_file_that_fails_is_an_error_in_words(tmp_path: Path) -> None:
    data = saved({"a": Note("x")}, tmp_path / "f.pt", legacy=True).read_bytes()
    (tmp_path / "f.pt").write_bytes(data.replace(f"c{Note.__module__}\n".encode(), b"cno_such_module\n"))
    with pytest.raises(
        CheckpointError, match=r"ModuleNotFoundError: No module named 'no_such_module'; put the folder .* on PYTHONPATH"
    ):
        migrate_torch_checkpoint(tmp_path / "f.pt", tmp_path / "new", trust=True)
    (tmp_path / "f.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    with pytest.raises(CheckpointError, match="safetensors file already"):
        migrate_torch_checkpoint(tmp_path / "f.safetensors", tmp_path / "new")
    with pytest.raises(CheckpointError, match="is a folder"):
        migrate_torch_checkpoint(tmp_path, tmp_path / "new")
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        migrate_torch_checkpoint(tmp_path / "missing.pt", tmp_path / "new")


def test_a_tree_keeps_its_folders_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for name in ("a.pt", "runs/1/agent_2.5.pth", "runs/2/agent.ckpt"):
        saved({"state_dict": network().state_dict(), "epoch": 1}, old / name)
    generate("legacy", old / "runs")
    (old / "notes.txt").write_text("not a checkpoint")
    before = digests(old)
    done = dict(convert_all([old], new))
    assert len(done) == 4
    assert "datetime.datetime" in str(done.pop(old / "runs/esper_legacy_checkpoint.pt"))
    stems = ("a", "runs/1/agent_2.5", "runs/2/agent")
    assert set(done.values()) == {new / f"{stem}.safetensors" for stem in stems}
    assert sorted(str(file.relative_to(new)) for file in new.rglob("*.*") if file.is_file()) == sorted(
        f"{stem}.{suffix}" for stem in stems for suffix in ("safetensors", "json")
    )
    assert all(json.loads((new / f"{stem}.json").read_text())["epoch"] == 1 for stem in stems)
    assert digests(old) == before


def test_nothing_is_overwritten_and_the_others_go_on(tmp_path: Path) -> None:
    first, second = (saved({"w": torch.ones(1)}, tmp_path / folder / "a.pt") for folder in ("x", "y"))
    kept, good = saved({}, tmp_path / "z" / "a.rest.pt"), saved({"w": torch.ones(1)}, tmp_path / "z" / "good.pt")
    missing, new = tmp_path / "missing.pt", tmp_path / "new"
    (new / "there").mkdir(parents=True)
    (new / "there.json").write_text("mine")
    there = saved({}, tmp_path / "there.pt")
    before = digests(new)
    done = dict(convert_all([first, second, missing, kept, there, good], new))
    refused = {file: str(result) for file, result in done.items() if isinstance(result, CheckpointError)}
    assert {file: result for file, result in done.items() if isinstance(result, Path)} == {
        first: new / "a.safetensors",
        good: new / "good.safetensors",
    }
    for file, message in {
        second: f"{second} would become {new}/a.safetensors, as a.pt does",
        missing: f"{missing}: No such file or directory; expected a torch file, or a folder with",
        kept: f"{kept}: names ending in .rest are kept",
        there: f"{there} is not converted: {new}/there.json exists already",
    }.items():
        assert message in refused.pop(file)
    assert not refused
    assert digests(new).items() >= before.items()
    before = digests(tmp_path)
    assert "exists already" in str(dict(convert_all([second], new))[second])
    with pytest.raises(CheckpointError, match=r"good\.pt is a file: the last argument is the folder"):
        list(convert_all([first], good))
    assert digests(tmp_path) == before


def test_a_torch_file_is_written_only_when_it_would_load(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"would refuse root\['a'\]\[0\]: Enum SeedStage → int \(and 1 more\)"):
        write_torch({"a": [SeedStage.BLENDING], "b": SeedStage.CULLED}, tmp_path / "f.pt")
    assert not list(tmp_path.iterdir())
    path = write_torch({"w": torch.ones(2), "epoch": 3}, tmp_path / "f.pt")
    assert torch.load(path, weights_only=True)["epoch"] == 3

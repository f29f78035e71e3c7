"""Files are named for what they are, by both commands and whatever their names, and none is run."""

import bz2
import gzip
import io
import lzma
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from esper.checkpoint import read_bundle
from esper.checkpoint.legacy.file_kind import text_kind
from esper.cli import main
from tests.checkpoint.evil import Touch

WEIGHTS = {"w": torch.ones(2)}


def packed(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def archive(*names: str, content: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, content)
    return buffer.getvalue()


def tar(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def torch_tar(value: Any) -> bytes:
    """A file of the first layout that torch had, without tensors."""
    parts = {"storages": [0, []], "tensors": [0], "pickle": [value], "sys_info": [{}]}
    return tar(**{name: b"".join(pickle.dumps(each, 2) for each in values) for name, values in parts.items()})


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(2))
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(2))
    return buffer.getvalue()


def script() -> bytes:
    return torch.jit.script(nn.Linear(1, 1)).save_to_buffer() or b""


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
ANNEX = b"/annex/objects/SHA256E-s9--4d7a2146.pt\n"
DAMAGED = "is not a sound torch checkpoint: it is "
KINDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", f"{DAMAGED}empty"),
    "tar": (lambda: torch_tar({"epoch": 1}), "is a torch file of the tar layout, the first that torch had"),
    "another tar": (lambda: tar(a=b"1", b=b"2"), f"{DAMAGED}a tar archive that torch did not write"),
    "cut tar": (lambda: tar(a=bytes(2000))[:700], f"{DAMAGED}a tar archive that"),
    "pointer": (lambda: POINTER, f"{DAMAGED}a Git LFS pointer, not the file it stands for: `git lfs pull`"),
    "annex": (lambda: ANNEX, f"{DAMAGED}a git-annex pointer"),
    "TorchScript": (script, "is a TorchScript archive: export the module's state_dict() with torch.save"),
    "safetensors": (lambda: safetensors.torch.save(WEIGHTS), "is a safetensors file already"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(90), f"{DAMAGED}an HDF5 file"),
    "HDF5, later": (lambda: bytes(512) + b"\x89HDF\r\n\x1a\n" + bytes(90), f"{DAMAGED}an HDF5 file"),
    "npy": (npy, f"{DAMAGED}a NumPy array"),
    "npz": (npz, f"{DAMAGED}a NumPy archive"),
    "keras": (lambda: archive("config.json", "model.weights.h5"), f"{DAMAGED}a Keras model"),
    "package": (lambda: archive("p/m.pkl", "p/.data/extern_modules"), f"{DAMAGED}a torch.package archive"),
    "export": (lambda: archive("e/models/model.json", "e/archive_format"), f"{DAMAGED}a program that torch.export"),
    "another zip": (lambda: archive("word/document.xml"), f"{DAMAGED}a zip archive that torch.save did not write"),
    "empty zip": (archive, f"{DAMAGED}an empty zip archive"),
    "cut zip": (lambda: packed(WEIGHTS)[:-40], f"{DAMAGED}a zip archive that is cut short or damaged"),
    "gzip": (lambda: gzip.compress(packed(WEIGHTS)), f"{DAMAGED}compressed by gzip"),
    "bzip2": (lambda: bz2.compress(packed(WEIGHTS)), f"{DAMAGED}compressed by bzip2"),
    "xz": (lambda: lzma.compress(packed(WEIGHTS)), f"{DAMAGED}compressed by xz"),
    "GGUF": (lambda: b"GGUF\x03" + bytes(90), f"{DAMAGED}a GGUF file"),
    "SQLite": (lambda: b"SQLite format 3\0" + bytes(90), f"{DAMAGED}an SQLite database"),
    "JSON": (lambda: b' {"epoch": 1}', f"{DAMAGED}JSON text"),
    "HTML": (lambda: b"\n<!DOCTYPE html><p>404", f"{DAMAGED}a web page (HTML)"),
    "text": (lambda: "Größe: 3\n".encode() * 900, f"{DAMAGED}text"),
    "zeros": (lambda: bytes(9000), f"{DAMAGED}neither a zip archive nor a pickle"),
    "random": (lambda: b"\xd3" + random.Random(0).randbytes(9000), f"{DAMAGED}neither a zip archive nor a pickle"),
    "cut pickle": (
        lambda: pickle.dumps([1, 2])[:-1],
        "is not a sound torch checkpoint: its pickle is damaged or cut short",
    ),
    "cut legacy": (
        lambda: packed(WEIGHTS, _use_new_zipfile_serialization=False)[:60],
        "is not a sound torch checkpoint: its pickle is damaged or cut short",
    ),
}


@pytest.mark.sampled(30)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ""])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_named_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, suffix: str
) -> None:
    build, said = KINDS[kind]
    path, new = tmp_path / f"file{suffix}", tmp_path / "new"
    path.write_bytes(build())
    for arguments in (["audit", path], ["audit", "--iterative", path], ["convert", path, new]):
        assert main([str(each) for each in arguments]) == 2
        out, error = capsys.readouterr()
        assert error.startswith(f"error: {path} {said}")
        assert (out, error.count("\n")) == ("", 1)
    assert not new.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_is_named_with_its_protocol(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: int
) -> None:
    path, proof = tmp_path / "file.pt", tmp_path / "proof"
    kind = f"a plain pickle of protocol {protocol if protocol > 1 else '0 or 1'}, not written by torch.save"
    for value, asked in (({"epoch": 1}, ""), (Touch(proof), "; it asks for posix.system")):
        path.write_bytes(pickle.dumps(value, protocol))
        assert main(["audit", str(path)]) == 0
        output = capsys.readouterr().out
        assert output.startswith(f"Audit of {path} ({kind})\n")
        assert f"\n  FAILED: {kind}, which torch.load cannot read\n" in output
        for trust in ([], ["--trust"]):  # torch would run it and then refuse it
            assert main(["convert", *trust, str(path), str(tmp_path / "new")]) == 2
            error = capsys.readouterr().err
            assert error.startswith(f"error: {path} is {kind}{asked}. If you made it: ")
            assert error.count("\n") == 1
    assert not proof.exists()


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("is_zip", [True, False])
def test_what_torch_wrote_is_told_from_plain_pickles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: int, is_zip: bool
) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(packed(WEIGHTS, _use_new_zipfile_serialization=is_zip, pickle_protocol=protocol))
    assert main(["audit", str(path)]) == 0
    assert f"({'zip' if is_zip else 'legacy'} layout)" in capsys.readouterr().out
    path = path.rename(tmp_path / "file.safetensors")  # torch.load would take it for one
    is_read = protocol <= 3
    assert main(["audit", str(path)]) == 0
    newer = f"its pickle is of protocol {protocol}, and such a load knows none after 3"
    assert ("SUCCESS" if is_read else f"FAILED: UnpicklingError: {newer}") in capsys.readouterr().out
    assert main(["convert", str(path), str(tmp_path / "new")]) == (0 if is_read else 2)
    assert is_read or f"error: {path} is not loaded: {newer}." in capsys.readouterr().err
    assert main(["convert", "--trust", str(path), str(tmp_path / "trusted")]) == 0
    assert torch.equal(read_bundle(tmp_path / "trusted" / "file.safetensors.safetensors").tensors["w"], WEIGHTS["w"])


def test_what_only_trust_reads_is_read_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "first.pt").write_bytes(torch_tar({"epoch": 1}))
    (tmp_path / "script.pt").write_bytes(script())
    assert main(["convert", "--trust", *map(str, sorted(tmp_path.glob("*.pt"))), str(tmp_path / "new")]) == 0
    assert sorted(path.name for path in (tmp_path / "new").glob("*.safetensors")) == [
        "first.safetensors",
        "script.safetensors",
    ]
    assert "weight" in safetensors.torch.load_file(tmp_path / "new" / "script.safetensors")


def test_a_tar_of_torch_runs_only_when_trusted(tmp_path: Path) -> None:
    proof, path = tmp_path / "proof", tmp_path / "evil.pt"
    path.write_bytes(torch_tar({"hook": Touch(proof)}))
    for arguments in (["audit", path], ["audit", "--iterative", path], ["convert", path, tmp_path / "new"]):
        assert main([str(each) for each in arguments]) == 2
    assert not proof.exists()
    main(["convert", "--trust", str(path), str(tmp_path / "new")])
    assert proof.exists()


def test_text_that_is_cut_in_a_character_is_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x" + "ü" * 4000)
    assert text_kind(tmp_path / "text") == "text"
    (tmp_path / "text").write_bytes(b"\x1b[2J steered")
    assert text_kind(tmp_path / "text") is None


@pytest.mark.parametrize("name", ["two\nlines.pt", "esc\x1b[2J.pt", "\udcff.pt", "x" * 240 + ".pt", " .pt", "-- .pt"])
def test_odd_names_are_shown_as_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    good, bad = tmp_path / "old" / "good" / name, tmp_path / "old" / "bad" / name
    for path, content in ((good, packed(WEIGHTS)), (bad, b"\xd3")):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    assert main(["audit", str(good)]) == 0
    assert main(["audit", "--iterative", str(good)]) == 0
    assert main(["audit", str(bad)]) == 2
    assert "\x1b" not in "".join(capsys.readouterr())
    assert main(["convert", str(tmp_path / "old"), str(tmp_path / "new")]) == 2
    out, error = capsys.readouterr()
    is_long = len(name) > 200  # the temporary file beside it would have a name that is too long
    assert (out.count("\n"), error.count("\n")) == ((0, 2) if is_long else (1, 1))
    assert "\x1b" not in out + error and "\udcff" not in out + error


def test_damage_anywhere_is_answered_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(0)
    sources = [packed({"model": nn.Linear(2, 2).state_dict(), "a": [1.5, {"b": (None, "c")}]})]
    sources += [packed(WEIGHTS, _use_new_zipfile_serialization=False), torch_tar({"a": 1}), npz(), pickle.dumps([{}])]
    old = tmp_path / "old"
    old.mkdir()
    for index in range(60):
        data = bytearray(sources[index % len(sources)])
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        (old / f"{index}.pt").write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])
    (old / "zz.pt").write_bytes(packed(WEIGHTS))
    for path in sorted(old.iterdir()):
        assert main(["audit", str(path)]) in (0, 2)
    assert main(["convert", str(old), str(tmp_path / "new")]) == 2
    out, error = capsys.readouterr()
    assert "zz.safetensors" in out
    assert "Traceback" not in error
    assert error.count("error: ") + out.count(" → ") >= len(list(old.iterdir()))

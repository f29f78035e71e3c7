"""The compiled kernels: where the library comes from, whose it may be, and whether it is the one that is meant."""

import ctypes
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from esper.engine.kernels import compiler, native
from esper.engine.kernels.block import BlockSpec, BlockTensors, block
from esper.errors import CheckpointError, EngineError

OTHER_USER = 12345


@pytest.fixture(scope="module")
def built():
    """A compiled library, as a file."""
    library, reason = native.load()
    if library is None:
        pytest.skip(reason)
    return Path(library._name)


@pytest.fixture
def place(built, tmp_path, monkeypatch):
    """Empty folders for the cache and for temporary files, and a compiler (`fake`) that logs its calls."""
    for name in ("cache", "temporary"):
        (tmp_path / name).mkdir()
    shutil.copy(built, tmp_path / "built.so")
    script = tmp_path / "fake"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nsleep 0\nfor last; do :; done\ncp {tmp_path}/built.so "$last"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compiler.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("CXX", str(script))
    native.load.cache_clear()
    yield tmp_path
    native.load.cache_clear()


def loaded() -> Path:
    native.load.cache_clear()
    library, reason = native.load()
    assert library is not None, reason
    return Path(library._name)


def why_not() -> str:
    native.load.cache_clear()
    library, reason = native.load()
    assert library is None and "\n" not in reason
    return reason


def calls(place: Path) -> int:
    log = place / "calls"
    return len(log.read_text().splitlines()) if log.exists() else 0


COMPILING = 2  # calls: to an object, to a library


def test_a_library_is_compiled_once_and_kept_for_oneself_alone(place):
    first = loaded()
    assert first.parent == place / "cache" / "esper" and calls(place) == COMPILING
    assert loaded() == first and calls(place) == COMPILING
    assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700 and not list((place / "temporary").glob("esper-*/*"))


def test_a_library_is_kept_whatever_the_umask(place):
    before = os.umask(0o002)
    try:
        first = loaded()
    finally:
        os.umask(before)
    assert loaded() == first and calls(place) == COMPILING


# ---- which compiler


@pytest.mark.parametrize("command", ["env MODE=1 {}", "{} -O1 -DNAME='a b'", "'{}'"])
def test_a_compiler_may_have_arguments(place, monkeypatch, command):
    monkeypatch.setenv("CXX", command.format(place / "fake"))
    loaded()
    assert calls(place) == COMPILING
    if "-D" in command:
        assert all(line.startswith("-O1 -DNAME=a b ") for line in (place / "calls").read_text().splitlines())


@pytest.mark.slow
def test_no_argument_makes_the_kernels_forget_what_is_no_number(place, monkeypatch):
    monkeypatch.setenv("CXX", "env LANG=C g++ -Ofast -ffast-math")
    loaded()
    x = torch.tensor([0.0, float("nan"), 0.0, 0.0]).view(1, 1, 2, 2, 1)
    assert block(BlockSpec(relu=True, pool=True), x, BlockTensors(), False).isnan().all()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("g++ 'unfinished", "CXX is no command"),
        ("/nowhere/g++ -O2", "/nowhere/g++ could not compile the kernels"),
        ("sh -c 'echo cc1plus: No space left on device >&2; exit 1'", "No space left on device"),
        ("sh -c 'exec sleep 30'", "could not compile the kernels within 0.2 s"),
        ("true", "could not be compiled and loaded"),  # says that it did, and wrote nothing
        ("sh -c 'for last; do :; done; echo nonsense > $last' -", "could not be compiled and loaded"),
    ],
)
def test_a_compiler_that_fails_is_told_in_a_line(place, monkeypatch, command, said):
    if "sleep" in command:
        monkeypatch.setattr(compiler, "_LIMIT_S", 0.2)
    monkeypatch.setenv("CXX", command)
    assert said in why_not()
    assert not list((place / "temporary").glob("esper-*/*"))


# ---- several processes

LOAD = "from esper.engine.kernels import native; library, reason = native.load(); print(reason)"


def start() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", LOAD], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_of_many_processes_one_compiles(place):
    script = place / "fake"
    script.write_text(script.read_text().replace("sleep 0", "sleep 0.3"))  # so that they meet
    processes = [start() for _ in range(4)]
    assert [process.communicate(timeout=120)[0] for process in processes] == ["native kernels\n"] * 4
    assert calls(place) == COMPILING


@pytest.mark.slow
def test_a_process_that_is_killed_compiling_keeps_nobody_waiting(place, monkeypatch):
    monkeypatch.setattr(compiler, "_LIMIT_S", 60)
    script = place / "fake"
    quick = script.read_text()
    script.write_text(quick.replace("sleep 0", "exec sleep 60"))
    first = start()
    while not calls(place):
        assert first.poll() is None
        time.sleep(0.02)
    script.write_text(quick)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    began = time.monotonic()
    loaded()
    assert time.monotonic() - began < 30


def test_a_process_that_hangs_compiling_is_not_waited_for_longer_than_compiling_may_take(place, monkeypatch):
    with compiler._locked([place]):
        monkeypatch.setattr(compiler, "_LIMIT_S", 1)
        with compiler._locked([place]) as folder:
            assert folder == place


def test_children_forked_meanwhile_do_not_keep_the_lock(place, monkeypatch):
    with compiler._locked([place]):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    try:
        began = time.monotonic()
        with compiler._locked([place]):
            assert time.monotonic() - began < 5
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# ---- what is in the folder


def rewritten(path: Path, content: bytes) -> None:
    """The same name with other content; the old file, which is loaded, stays as it was."""
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o700)


def cut(path: Path) -> None:
    content = path.read_bytes()
    rewritten(path, content[: len(content) // 2])


def altered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    rewritten(path, bytes(content))


def linked(path: Path) -> None:
    """A symbolic link to what was here."""
    elsewhere = path.with_name(f"elsewhere-{path.name}")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def anothers(path: Path) -> None:
    os.chown(path, OTHER_USER, -1)


SPOILED_FILES = {
    "cut": cut,
    "emptied": lambda path: rewritten(path, b""),
    "altered": altered,
    "another user's": anothers,
    "writable for the group": lambda path: path.chmod(0o770),
    "writable for all": lambda path: path.chmod(0o707),
    "a symbolic link": linked,
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("name", SPOILED_FILES)
def test_a_library_that_is_not_whole_and_ours_is_not_loaded(place, name):
    if name == "another user's" and os.getuid():
        pytest.skip("only root gives files away")
    library = loaded()
    SPOILED_FILES[name](library)
    again = loaded()
    assert calls(place) == 2 * COMPILING
    found = again.lstat()
    assert stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    assert again.read_bytes() == (place / "built.so").read_bytes()
    assert loaded().exists() == again.exists()


def test_a_folder_in_the_place_of_the_library_is_left_alone(place):
    library = loaded()
    library.unlink()
    library.mkdir()
    assert loaded().parent.parent == place / "temporary" and library.is_dir()


SPOILED_FOLDERS = {
    "another user's": anothers,
    "writable for the group": lambda path: path.chmod(0o770),
    "writable for all": lambda path: path.chmod(0o1777),
    "a symbolic link": linked,
    "a file": lambda path: (shutil.rmtree(path), path.write_text("")),
}


@pytest.mark.parametrize("name", SPOILED_FOLDERS)
@pytest.mark.parametrize("is_fallback", [False, True])
def test_a_folder_that_is_not_ours_alone_is_not_used(place, name, is_fallback):
    if name == "another user's" and os.getuid():
        pytest.skip("only root gives folders away")
    if is_fallback:
        (place / "cache" / "esper").write_text("no folder")
    folder = loaded().parent
    assert folder == (place / "temporary" / f"esper-{os.getuid()}" if is_fallback else place / "cache" / "esper")
    SPOILED_FOLDERS[name](folder)
    again = loaded()
    assert calls(place) == 2 * COMPILING
    assert again.parent != folder and again.parent.resolve() != folder.resolve()
    if is_fallback:  # a fresh one, which is gone once the library is loaded
        assert again.parent.parent == place / "temporary" and not again.parent.exists()
    else:
        assert loaded() == again and calls(place) == 2 * COMPILING


def test_without_a_home_the_temporary_folder_serves(place, monkeypatch):
    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert loaded().parent == place / "temporary" / f"esper-{os.getuid()}"


def test_a_relative_cache_is_none(place, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(place / "home"))
    assert loaded().parent == place / "home" / ".cache" / "esper"


def test_a_folder_that_cannot_be_written_to_still_gives_what_it_holds(place):
    library = loaded()
    (library.parent / "kernels.lock").unlink()
    (library.parent / "kernels.lock").mkdir()  # opens for nobody, as on a read-only disk
    assert loaded() == library and calls(place) == COMPILING
    library.unlink()
    assert loaded().parent == place / "temporary" / f"esper-{os.getuid()}"


def test_a_full_cache_costs_the_keeping_alone(place, monkeypatch):
    def full(path, content):
        raise CheckpointError(f"Cannot write {path}: the disk is full.")

    monkeypatch.setattr(compiler, "write_atomic", full)
    assert not loaded().exists() and not list((place / "cache" / "esper").glob("*.so"))


@pytest.mark.slow
def test_where_nothing_can_be_written_torch_does_the_work(place):
    limited = f"import resource, torch; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); {LOAD}; print(library)"
    # What counts the lines that are run would want to write them down.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=False, env=env)
    said, library = done.stdout.splitlines()
    assert (done.returncode, library, done.stderr) == (0, "None", "") and "could not" in said


# ---- whether it is the one that is meant


def twin(fields):
    return type("Block", (ctypes.Structure,), {"_fields_": fields})


FIELDS = native.Block._fields_


@pytest.mark.parametrize(
    "fields",
    [
        [*FIELDS, ("more", ctypes.c_int64)],
        FIELDS[:-1],
        [FIELDS[1], FIELDS[0], *FIELDS[2:]],
        [(FIELDS[0][0], ctypes.c_double), *FIELDS[1:]],
        [("another", FIELDS[0][1]), *FIELDS[1:]],
    ],
    ids=["more", "fewer", "in another order", "of another kind", "by another name"],
)
def test_a_library_that_sees_other_arguments_is_not_used(place, monkeypatch, fields):
    monkeypatch.setattr(native, "Block", twin(fields))
    assert "do not match" in why_not()
    assert not native.is_supported(torch.zeros(1, 1, 2, 2, 1))


def test_a_library_of_another_size_of_arguments_is_not_used(place, monkeypatch):
    monkeypatch.setattr(native.ctypes, "sizeof", lambda structure: 8)
    assert "do not match" in why_not()


def test_a_library_that_does_not_tell_its_arguments_is_not_used(place, monkeypatch):
    monkeypatch.setattr(native, "Block", type("Untold", (ctypes.Structure,), {"_fields_": FIELDS}))
    assert "do not match" in why_not()


def test_a_library_without_a_kernel_is_not_used(place, monkeypatch):
    monkeypatch.setitem(native._KERNELS, "fold_forward", native.Block)
    assert "do not match" in why_not()


class OnAnotherDevice:
    """What a tensor on an accelerator says of itself."""

    shape, dtype, device, is_cpu = torch.Size([2]), torch.float32, "cuda:0", False

    def is_contiguous(self):
        return True

    def data_ptr(self):
        return 64


def test_an_address_on_another_device_is_not_handed_over():
    call = native.Call("block_forward", native.Block(), {"x": (2,)})
    if native.load()[0] is None:
        pytest.skip(native.load()[1])
    with pytest.raises(EngineError, match=r"x is .* on cuda:0; expected contiguous .* on cpu"):
        call.run(torch.float32, {"x": OnAnotherDevice()})

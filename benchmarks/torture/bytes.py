"""Files of runs damaged byte by byte, or replaced by what is hostile, and everything asked of the run afterwards."""

import contextlib
import io
import json
import random
import shutil
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

import esper
from benchmarks.torture.results import Tally
from benchmarks.torture.subjects import EPOCHS, Ended, Subject, fresh, in_child
from esper.cli import main as command
from esper.errors import EsperError

RESUMED_SHARE = 0.1  # of the damaged runs; a resume costs as much as all else
HOSTILE = (
    b"",
    b"\0" * 64,
    b"\xff\xfe\x00",
    b"null",
    b"[]",
    b"{}",
    b"0",
    b'"text"',
    b"NaN",
    b"1" * 5000,
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"&a [*a, *a]\n",
    b"\xef\xbb\xbf{}",
    b'{"schema": 1}',
    b'{"schema": 1e400}',
    b"\x1b]0;title\x07\x9b31m\xe2\x80\xae",
)


def flip(data: bytearray, draw: random.Random) -> None:
    """One bit."""
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def overwrite(data: bytearray, draw: random.Random) -> None:
    """Some bytes by random ones."""
    at = draw.randrange(len(data))
    data[at : at + draw.choice((1, 4, 64))] = draw.randbytes(draw.choice((1, 4, 64)))


def cut(data: bytearray, draw: random.Random) -> None:
    """What follows a place."""
    del data[draw.randrange(len(data)) :]


def zero(data: bytearray, draw: random.Random) -> None:
    """A block, as a power cut leaves it."""
    at = draw.randrange(len(data))
    data[at : at + 512] = bytes(len(data[at : at + 512]))


def double(data: bytearray, draw: random.Random) -> None:
    """A part, once more."""
    at = draw.randrange(len(data))
    data[at:at] = data[at : at + draw.choice((1, 16, 512))]


def digit(data: bytearray, draw: random.Random) -> None:
    """Another number, in valid text."""
    places = [at for at, byte in enumerate(data) if chr(byte).isdigit()]
    if places:
        data[draw.choice(places)] = ord(draw.choice("0123456789"))


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (flip, overwrite, cut, zero, double, digit)


class Bytes:
    """Trials on a run that was killed, beside one that finished."""

    def __init__(self, subjects: list[Subject], folder: Path) -> None:
        self._subject, self._folder = subjects[-1], fresh(folder / "bytes")
        self._killed = self._folder / "killed"
        shutil.copytree(self._subject.whole, self._killed)
        for path in self._killed.glob(f"checkpoints/*_{EPOCHS}.*"):
            path.unlink()
        record = json.loads((self._killed / "run.json").read_text()) | {"status": "running", "summary": None}
        (self._killed / "run.json").write_text(json.dumps(record))
        self._root = self._folder / "outputs"
        shutil.copytree(subjects[0].whole, self._root / "x" / "other")
        self._run = self._root / "x" / "run"
        self._expected = {}
        for epoch in self._epochs():
            self._expected[epoch] = esper.load_member(self._killed, epoch=epoch).state_dict()

    def _epochs(self) -> list[int]:
        return sorted(int(path.stem.rpartition("_")[2]) for path in self._killed.glob("checkpoints/*.json"))

    def one(self, draw: random.Random, tally: Tally) -> None:
        """One file damaged, and all asked of the run."""
        shutil.rmtree(self._run, ignore_errors=True)
        shutil.copytree(self._killed, self._run)
        path = draw.choice(sorted(path for path in self._run.rglob("*") if path.is_file()))
        story = f"{path.relative_to(self._run)}: {self._damage(path, draw)}"
        told = self._folder / "told"

        def ask() -> int:
            asked = Tally(tally.kind, tally.seed)
            lost = self._ask_all(story, asked)
            told.write_text(json.dumps([lost, asked.tracebacks, asked.stories]))
            return 0

        told.write_text("[null, 0, []]")
        ended = in_child(ask, self._folder / "output")  # what damage makes of the interpreter ends the child alone
        lost, tracebacks, stories = json.loads(told.read_text())
        tally.tracebacks += tracebacks
        tally.stories += stories
        if ended.code:
            tally.traceback(story, f"ended with {ended.code}: {ended.said}")
        if draw.random() < RESUMED_SHARE:
            lost = self._resume(path, story, tally) or lost
        tally.ended(story, lost)

    def _ask_all(self, story: str, tally: Tally) -> str | None:
        """What is not as it should be, though it was said to be sound."""
        for arguments in (["runs"], ["runs", "--json"], ["report", "x/run"], ["compare", "x/run", "x/other"]):
            self._ask(arguments, story, tally)
        try:
            with warnings.catch_warnings(record=True) as told:
                loaded = esper.load_member(self._run).state_dict()
            if not (told or self._is_of(loaded, max(self._expected))):
                return "load_member gives other weights"
        except EsperError:
            pass
        except Exception:
            tally.traceback(f"{story}: load_member", traceback.format_exc())
        return None

    def _damage(self, path: Path, draw: random.Random) -> str:
        data = bytearray(path.read_bytes())
        what = draw.randrange(10)
        if what == 0:
            path.unlink()
            return "lost"
        if what == 1:
            path.unlink()
            kind = draw.choice(("folder", "link to nowhere", "link to itself"))
            if kind == "folder":
                path.mkdir()
            else:
                path.symlink_to(path if kind == "link to itself" else self._folder / "nowhere")
            return kind
        if what == 2 or not data:
            hostile = draw.choice(HOSTILE)
            path.write_bytes(hostile)
            return f"replaced by {hostile[:16]!r}"
        damage = draw.choice(DAMAGES)
        damage(data, draw)
        path.write_bytes(data)
        return damage.__name__

    def _ask(self, arguments: list[str], story: str, tally: Tally) -> None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code: object = command([*arguments, "--root", str(self._root)])
            except SystemExit as left:
                code = left.code
            except BaseException:
                code = traceback.format_exc()
        if code not in (0, 2) or "Traceback" in err.getvalue():
            tally.traceback(f"{story}: {' '.join(arguments)}", f"{code}\n{err.getvalue()}")

    def _is_of(self, loaded: dict[str, torch.Tensor], epoch: int) -> bool:
        expected = self._expected[epoch]
        return loaded.keys() == expected.keys() and all(
            not isinstance(tensor, torch.Tensor) or torch.equal(tensor, loaded[name])
            for name, tensor in expected.items()
        )

    def _resume(self, path: Path, story: str, tally: Tally) -> str | None:
        """What was lost: nothing may be, since checkpoints carry every line.

        A run may refuse to go on only where its configuration was changed, or a folder or a link is in a file's place:
        it does once that is moved away.
        """
        (self._run / "report.html").unlink(missing_ok=True)
        is_in_place = path.is_symlink() or path.is_dir()
        ended = self._resumed(story, tally)
        if ended.code in (1, 2) and is_in_place and len(ended.said.splitlines()) <= 4:
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
            ended = self._resumed(story, tally)
        if ended.code:
            may_refuse = path.name == "config.yaml" and ended.code in (1, 2) and len(ended.said.splitlines()) <= 4
            return None if may_refuse else f"resume: exit code {ended.code}: {ended.said[-300:]}"
        return self._subject.lost(self._run)

    def _resumed(self, story: str, tally: Tally) -> Ended:
        ended = in_child(lambda: self._subject.begin(self._run), self._folder / "output")
        if ended.is_traceback:
            tally.traceback(f"{story}: resume", ended.said)
        return ended

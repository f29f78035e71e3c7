"""A folder of runs to be damaged, and everything that is asked of it."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import traceback
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import FrameType

import torch

import esper
from benchmarks.torture.questions import QUESTIONS, SWEPT, Question
from benchmarks.torture.subjects import KEPT, RULES, Subject
from esper.cli.audit_examples import generate
from esper.errors import EsperError
from esper.files.marks import newest_checkpoint
from esper.run import main as run
from esper.sweep.errors import SweepError

LONGEST_S = 20
OTHER_WEIGHTS = "load_member gives other weights"
MOST_LINES = 12  # of what is said on standard error
WRITTEN = ("report.html", "comparison*.html", "*.sqlite*", "*.lock", "converted*")  # by those who are asked
_STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class TooLongError(BaseException):
    """Nothing that is asked should take so long; no handler of errors takes this for one."""


class Site:
    """`root`: what is damaged; `sound`: the same, untouched, also by who writes through a link to it."""

    def __init__(self, subjects: dict[str, Subject], folder: Path) -> None:
        self.root, self.sound = folder / "root", folder / "sound"
        self.subject = subjects[KEPT]
        self._make(subjects)
        shutil.copytree(self.root, self.sound)
        self.files: dict[str, list[Path]] = {}  # by what they are
        for path in sorted(path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file()):
            self.files.setdefault(re.sub(r"\d", "", path.name), []).append(path)
        self._stamps, self._sound_stamps = _stamped(self.root), _stamped(self.sound)
        self._weights = esper.load_member(self.root / "killed").state_dict()
        if wrong := [answer for question in QUESTIONS for answer in self.ask(question) if answer]:
            raise RuntimeError(f"what is sound is answered with {wrong}")

    def _make(self, subjects: dict[str, Subject]) -> None:
        killed = self.root / "killed"
        shutil.copytree(self.subject.whole, killed)
        for path in killed.glob(f"checkpoints/*_{newest_checkpoint(killed)}.*"):
            path.unlink()
        record = json.loads((killed / "run.json").read_text()) | {"status": "running", "summary": None}
        (killed / "run.json").write_text(json.dumps(record))
        shutil.copytree(subjects[RULES].whole, self.root / "other")
        generate("blending", self.root).rename(self.root / "old.pt")
        generate("legacy", self.root).rename(self.root / "legacy.pt")
        (self.root / "suite.yaml").write_text("kind: growth\nfirst_seed: 9101\nseeds: 1\nmembers: 1\noverrides: []\n")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            run(["-m", *SWEPT, f"hydra.sweep.dir={self.root}/sweep"])
            for question in QUESTIONS[:4]:  # which leave a database, an index and a report
                question.ask(self.root)

    def ask(self, question: Question) -> tuple[str | None, str | None]:
        """What a user would have seen that is no answer in a few lines; what else is wrong with it."""
        out, err = io.StringIO(), io.StringIO()
        code: object
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), bounded():
                code = question.ask(self.root)
        except (EsperError, SweepError) as error:
            code = 2
            err.write(str(error))
        except SystemExit as left:
            code = left.code
        except (Exception, TooLongError):
            return f"{question.name}\n{traceback.format_exc()}", None
        said = err.getvalue()
        if isinstance(code, dict):
            return None, None if self._is_newest(code) else OTHER_WEIGHTS
        if code not in (0, 1, 2) or "Traceback" in said or len(said.splitlines()) > MOST_LINES:
            return f"{question.name}: exit code {code}\n{said}", None
        steers = _STEERS.search(out.getvalue() + said)
        return None, f"{question.name}: prints {steers[0]!r}" if steers else None

    def _is_newest(self, loaded: dict[str, torch.Tensor]) -> bool:
        return loaded.keys() == self._weights.keys() and all(
            not isinstance(tensor, torch.Tensor) or torch.equal(tensor, loaded[name])
            for name, tensor in self._weights.items()
        )

    def changed(self, damaged: set[Path]) -> list[str]:
        """What else than the damaged files, and what is written by being asked, is not as it was."""
        now = _stamped(self.root)
        others = {name for name in now.keys() | self._stamps.keys() if now.get(name) != self._stamps.get(name)}
        found = [
            str(path)
            for path in sorted(others)
            if not (
                path in damaged
                or damaged & set(path.parents)
                or any(fnmatch(part, wrote) for part in path.parts for wrote in WRITTEN)
            )
        ]
        followed = {path for path, stamp in _stamped(self.sound).items() if self._sound_stamps.get(path) != stamp}
        # A database that is named may lie elsewhere.
        return found + [f"{path}, through a link" for path in sorted(followed) if not fnmatch(str(path), "*.sqlite*")]

    def mend(self) -> None:
        """All as it was."""
        now = _stamped(self.root)
        for path in sorted(now.keys() - self._stamps.keys(), reverse=True):
            _remove(self.root / path)
        for path, stamp in sorted(self._stamps.items()):
            if now.get(path) == stamp:
                continue
            _remove(self.root / path)
            if (self.sound / path).is_dir():
                shutil.copytree(self.sound / path, self.root / path)
            else:
                shutil.copy2(self.sound / path, self.root / path)
        self._stamps = _stamped(self.root)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Raises TooLongError in what takes too long."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooLongError(f"no end within {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _stamped(root: Path) -> dict[Path, tuple[int, ...]]:
    """What tells that anything below a folder has changed."""
    stamps = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            found = path.lstat()
            is_folder = name in folders and not path.is_symlink()
            stamps[path.relative_to(root)] = (
                (found.st_mode,) if is_folder else (found.st_mode, found.st_mtime_ns, found.st_size, found.st_ino)
            )
    return stamps

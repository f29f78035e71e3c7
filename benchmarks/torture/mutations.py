"""Trials on files of runs: one is damaged, in this process, and all that reads it is asked."""

import random
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.torture.children import Ended, in_child
from benchmarks.torture.damages import Damage, bytes_altered, replaced, signed_anew, values_altered
from benchmarks.torture.questions import QUESTIONS
from benchmarks.torture.results import Tally
from benchmarks.torture.site import OTHER_WEIGHTS, Site

DAMAGES: Mapping[str, Damage] = {
    "bytes": bytes_altered,
    "values": values_altered,
    "signed": signed_anew,
    "replaced": replaced,
}
RESUMED_SHARE = 0.04  # of the damaged runs; a resume costs as much as all else


class Mutations:
    """Trials of one kind of damage."""

    def __init__(self, site: Site, kind: str) -> None:
        self._site, self._kind = site, kind

    def one(self, draw: random.Random, tally: Tally) -> None:
        """One file damaged, and all asked."""
        site, said = self._site, ""
        while not said:
            site.mend()
            file = draw.choice(draw.choice([*site.files.values()]))
            said = DAMAGES[self._kind](site.root / file, draw)
        story = f"{file}: {said}"
        damaged = {file, file.with_suffix(".json")} if self._kind == "signed" else {file}
        answers = [
            site.ask(question) for question in QUESTIONS if any(fnmatch(str(file), name) for name in question.reads)
        ]
        lost = None
        for traceback, wrong in answers:
            if traceback:
                tally.traceback(story, traceback)
            if wrong and (self._kind, wrong) != ("signed", OTHER_WEIGHTS):  # they are as whoever signed them says
                lost = wrong
        if changed := site.changed(damaged):
            lost = f"changed, too: {', '.join(changed)}"
        if file.parts[0] == "killed" and draw.random() < RESUMED_SHARE:
            lost = self._resume(site.root / file, story, tally) or lost
        tally.ended(story, lost)

    def _resume(self, path: Path, story: str, tally: Tally) -> str | None:
        """What was lost: nothing may be, since checkpoints carry every line.

        A run may refuse to go on only where its configuration was changed, or something that is no file is in a file's
        place: it does once that is moved away. What was signed anew is as its writer says, and only has to be answered.
        """
        (self._site.root / "killed/report.html").unlink(missing_ok=True)
        is_in_place = path.is_symlink() or (path.exists() and not path.is_file())
        ended = self._resumed(story, tally)
        if ended.code in (1, 2) and is_in_place and len(ended.said.splitlines()) <= 4:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            ended = self._resumed(story, tally)
        if self._kind == "signed":
            return None
        if ended.code:
            may_refuse = path.name == "config.yaml" and ended.code in (1, 2) and len(ended.said.splitlines()) <= 4
            return None if may_refuse else f"resume: exit code {ended.code}: {ended.said[-300:]}"
        return self._site.subject.lost(self._site.root / "killed")

    def _resumed(self, story: str, tally: Tally) -> Ended:
        site = self._site
        ended = in_child(lambda: site.subject.begin(site.root / "killed"), site.root.parent / "output")
        if ended.is_traceback:
            tally.traceback(f"{story}: resume", ended.said)
        return ended

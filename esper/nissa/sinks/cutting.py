"""JSON lines of a run that goes on: cut back to its checkpoint, and mended by what checkpoints carry of them."""

import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esper.files import open_own, parse_json, read_all, write_atomic
from esper.files.reading import MOST_LINES_BYTES
from esper.files.records import EVENTS_FILE, LEARNING_FILE, METRICS_FILE
from esper.leyline import TelemetryEvent, TelemetryEventType

# Events of the run's own course, which may follow the checkpoint of the epoch that they are of.
_OF_THE_COURSE = (
    TelemetryEventType.CHECKPOINT_SAVED,
    TelemetryEventType.RUN_STARTED,
    TelemetryEventType.RUN_RESUMED,
    TelemetryEventType.RUN_FINISHED,
)
_ONCE = (TelemetryEventType.CHECKPOINT_SAVED, TelemetryEventType.RUN_STARTED)  # of each checkpoint; of a run
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Carried:
    """The lines that a checkpoint carries: what was written after epoch `after`, up to its own, `until`."""

    after: int
    until: int
    lines: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """For the checkpoint's metadata."""
        return {"after": self.after, "until": self.until, "lines": dict(self.lines)}

    @classmethod
    def from_plain(cls, plain: Any) -> "Carried | None":
        """None where it is not what `to_plain` gave."""
        match plain:
            case {"after": int(after), "until": int(until), "lines": dict(lines)}:
                texts = {name: [text for text in given if isinstance(text, str)] for name, given in lines.items()}
                return cls(after, until, texts)
        return None


def cut_back(
    run_dir: Path | str,
    *,
    metrics: int = -1,
    events: int = -1,
    learning: int = 0,
    checkpoint: int | None = None,
    carried: Sequence[Carried] = (),
) -> list[str]:
    """Drop what the files say of epochs and updates after these: it will be lived through, and written, again.

    A line that cannot be read is left out, and what checkpoints carry of the others makes good what is missing.

    Args: checkpoint: the number of the one that the run goes on from; carried: by it and those before it, in order.
    Returns: what was left out, restored or lost, a line a file. Raises: OSError, also on links and what is no
    file; CheckpointError where a file cannot be written.
    """
    run_dir = Path(run_dir)
    return [
        *_cut_records(run_dir / METRICS_FILE, "epoch", range(metrics + 1), carried),
        *_cut_records(run_dir / LEARNING_FILE, "update", range(1, learning + 1), carried),
        *_cut_events(run_dir / EVENTS_FILE, events, checkpoint, carried),
    ]


@dataclass(frozen=True, slots=True)
class _Line:
    key: int
    text: str
    record: dict[str, Any]

    @property
    def is_of_the_course(self) -> bool:
        """And as it is written: such events say nothing but their epoch, and of a checkpoint its number."""
        if self.record.get("type") not in _OF_THE_COURSE:
            return False
        kind = TelemetryEventType(self.record["type"])
        if (kind is TelemetryEventType.CHECKPOINT_SAVED) != (self.saved is not None):
            return False
        data = {} if self.saved is None else {"checkpoint": self.saved}
        return self.record == TelemetryEvent(kind, epoch=self.key, data=data).to_dict()

    @property
    def saved(self) -> int | None:
        """The number of the checkpoint that it tells of."""
        data = self.record.get("data")
        number = data.get("checkpoint") if isinstance(data, dict) else None
        return number if type(number) is int else None

    def tells_of_the_same(self, other: "_Line") -> bool:
        """Whether one of the two is the other, altered."""
        return all(self.record.get(name) == other.record.get(name) for name in ("type", "data"))

    def is_void(self, checkpoint: int | None) -> bool:
        """Whether it tells of what is yet to come for a run that goes on from this checkpoint."""
        is_later = checkpoint is not None and self.saved is not None and self.saved > checkpoint
        return is_later or self.record.get("type") == TelemetryEventType.RUN_FINISHED


def _cut_records(path: Path, key: str, expected: range, carried: Sequence[Carried]) -> list[str]:
    """Of a file with one line for each epoch or update."""
    data, kept, left_out = _read(path, key, expected.stop - 1)
    own = {line.key: line.text for line in kept if line.key in expected}
    known = {line.key: line.text for line in _known(path.name, key, carried) if line.key in expected}
    lines = own | known  # a checkpoint's own are under its checksum
    if not lines and not path.exists():
        return []
    _write(path, data, (lines[number] for number in sorted(lines)))
    restored = [number for number in known if known[number] != own.get(number)]
    return _told(path, left_out, key, restored, [number for number in expected if number not in lines])


def _cut_events(path: Path, last: int, checkpoint: int | None, carried: Sequence[Carried]) -> list[str]:
    """Of the file with any number of lines for an epoch. Its last words go, too: the run has not finished."""
    data, there, left_out = _read(path, "epoch", last)
    groups: dict[int, list[_Line]] = defaultdict(list)
    for line in there:
        if not line.is_void(checkpoint):
            groups[line.key].append(line)
    known: dict[int, list[_Line]] = defaultdict(list)
    for line in _known(path.name, "epoch", carried):
        if line.key <= last and not line.is_void(checkpoint):
            known[line.key].append(line)
    strays = {epoch: _difference(known[epoch], groups[epoch]) for epoch in sorted({*known, *groups})}
    told = [line for missing, _ in strays.values() for line in missing]
    told += [line for lines in known.values() for line in lines if line.record.get("type") in _ONCE]
    restored = []
    for epoch, (missing, others) in strays.items():
        if any(one.after < epoch <= one.until for one in carried):  # what is carried is all of it, but for its course
            kept, lacks_saved = [], any(line.saved is not None for line in missing)
            for line in others:
                is_altered = lacks_saved and line.saved not in (None, checkpoint)
                if line.is_of_the_course and not is_altered and not any(map(line.tells_of_the_same, told)):
                    kept.append(line)
                    told += [line] * (line.record["type"] in _ONCE)
            whole = _merged(known[epoch], kept, groups[epoch])
        else:
            whole = [*groups[epoch], *missing]
        if [line.text for line in whole] != [line.text for line in groups[epoch]]:
            restored.append(epoch)
            groups[epoch] = whole
    if path.exists() or groups:
        _write(path, data, (line.text for epoch in sorted(groups) for line in groups[epoch]))
    return _told(path, left_out, "events of epoch", restored, [])


def _merged(known: Sequence[_Line], kept: Sequence[_Line], there: Sequence[_Line]) -> list[_Line]:
    """Both, in the order of the file where those known are in order there, too; else those known come first."""
    ours = {id(line) for line in kept}
    rest, found = list(known), []
    for line in there:
        if id(line) in ours:
            found.append(line)
        elif rest and line.text == rest[0].text:
            found.append(rest.pop(0))
    return [*known, *kept] if rest else found


def _difference(lines: Sequence[_Line], there: Sequence[_Line]) -> tuple[list[_Line], list[_Line]]:
    """Lines that are not there, and those there that are none of them."""
    left = Counter(line.text for line in there)
    missing = []
    for line in lines:
        if left[line.text]:
            left[line.text] -= 1
        else:
            missing.append(line)
    others = []
    for line in reversed(there):
        if left[line.text]:
            left[line.text] -= 1
            others.append(line)
    return missing, others[::-1]


def _read(path: Path, key: str, last: int) -> tuple[bytes, list[_Line], list[int]]:
    """A file as it is, its lines up to the last epoch or update, and the numbers of those among them that are none."""
    data = b""
    with suppress(FileNotFoundError), io.FileIO(open_own(path, os.O_RDONLY)) as file:
        data = read_all(file, MOST_LINES_BYTES)
    lines = [_parse(text, key) for text in data.split(b"\n")[:-1]]  # what follows the last end of line is torn
    sound = [number for number, line in enumerate(lines) if line is not None and line.key <= last]
    end = sound[-1] + 1 if sound else 0
    while last >= 0 and end < len(lines) and lines[end] is None:
        end += 1
    left_out = sorted({*range(end)} - {*sound})
    kept = [line for line in lines if line is not None and line.key <= last]
    return data, kept, [number + 1 for number in left_out]


def _known(name: str, key: str, carried: Iterable[Carried]) -> list[_Line]:
    texts = (text for one in carried for text in one.lines.get(name, ()))
    return [line for text in texts if (line := _parse(text, key)) is not None]


def _parse(text: bytes | str, key: str) -> _Line | None:
    try:
        text = text if isinstance(text, str) else text.decode()
        record = parse_json(text.encode())
    except ValueError:
        return None
    is_record = isinstance(record, dict) and type(record.get(key)) is int
    return _Line(record[key], text, record) if is_record else None


def _write(path: Path, data: bytes, texts: Iterable[str]) -> None:
    lines = "".join(f"{text}\n" for text in texts).encode()
    if data.startswith(lines):
        with io.FileIO(open_own(path, os.O_WRONLY), "wb") as file:
            os.ftruncate(file.fileno(), len(lines))  # needs no room, which there may not be
    else:
        write_atomic(path, lines)


def _told(path: Path, left_out: list[int], what: str, restored: list[int], lost: list[int]) -> list[str]:
    parts = {
        f"left out what cannot be read in line {_named(left_out)}": left_out,
        f"restored from checkpoints: {what} {_named(restored)}": restored,
        f"lost: {what} {_named(lost)}": lost,
    }
    note = "; ".join(part for part, numbers in parts.items() if numbers)
    return [f"{path}: {note}"] if note else []


def _named(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:_MOST_NAMED])) + (", ..." if len(numbers) > _MOST_NAMED else "")

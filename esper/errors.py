"""The one tree of errors: each says what is wrong, where, what was expected, and what mends it."""

import errno
from enum import IntEnum
from typing import Any

_MOST_CHARACTERS = 400  # of what another library's error says


def printable(text: Any) -> str:
    r"""The text on one line: control characters, bidirectional overrides and the like stand as \x1b, \u202e."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)


class ExitCode(IntEnum):
    """What a program of esper ends with; one that a signal has ended, with 128 and the signal's number."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    INTERRUPTED = 130


class EsperError(Exception):
    """Anything a user can mend. The front door prints it in one or two lines and exits with 2."""

    def __str__(self) -> str:
        return "\n".join(map(printable, super().__str__().split("\n")))  # as Python prints it, uncaught


def of_machine(error: OSError | MemoryError) -> EsperError:
    """What the machine said to whatever was asked of it: a disk, a limit, a permission."""
    if isinstance(error, MemoryError):
        return EsperError("there is not enough memory; to see what this process may have: ulimit -v")
    place = f"{error.filename}: " if error.filename else ""
    hint = "\n  to see how many files this process may open: ulimit -n" if error.errno == errno.EMFILE else ""
    return EsperError(f"{place}{error.strerror or error}{hint}")


class ConfigError(EsperError):
    """A key, option or value of the configuration is wrong."""


class TaskError(EsperError):
    """Data is missing, altered or unreadable."""


class BlueprintError(EsperError, ValueError):
    """A blueprint does not exist, or does not fit the host's topology."""


class LifecycleError(EsperError, ValueError):
    """A seed was asked to do what its stage forbids; nothing was changed."""


class CheckpointError(EsperError):
    """A checkpoint is missing, altered, cut short, or belongs to another architecture."""


class EngineError(EsperError):
    """A population cannot be built or trained as asked."""


class RunError(EsperError):
    """A run directory cannot be used: another process owns it, or it is no run."""


class RunExistsError(RunError):
    """A folder holds a run already, and no other is written over it."""

    def __init__(self, path: object, program: str = "run") -> None:
        super().__init__(f"{path} already holds a run\n  to continue it: python -m esper.{program} resume={path}")


class DivergedError(EsperError):
    """A run came to its end, and nothing was learned in it."""


class LearnerError(EsperError, ValueError):
    """Something that learns, or what it learns from, was given values it cannot use."""


class ForgeError(EsperError):
    """A bundle, or a folder of them, is not what a phase of the forge works on."""


class CompressionError(ForgeError):
    """A model cannot be made as small as asked by these codecs."""


class FormatError(EsperError, ValueError):
    """What a file holds is malformed, too large or too deep for what it is read as."""


def first_line(error: BaseException) -> str:
    """What an error of any make says, in one line of a readable length; its class where it says nothing."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 3] + "..."

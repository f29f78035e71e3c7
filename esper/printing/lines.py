"""Lines of text, without anything in them that a terminal would act on."""

import logging
import traceback
from typing import Any, TextIO

from esper.errors import EsperError, ExitCode, printable
from esper.printing.streams import Output, output


def say(*lines: Any, is_error: bool = False, file: TextIO | None = None) -> None:
    """Print each on a line of its own.

    Args: is_error: to the error stream; file: elsewhere.
    """
    stream = output(is_error) if file is None else Output(file)
    stream.write("".join(f"{printable(line)}\n" for line in lines))
    stream.flush()


def say_part(text: str) -> None:
    """Print a piece of a text that goes on: its line breaks stand, and none follows."""
    stream = output()
    stream.write("\n".join(map(printable, text.split("\n"))))
    stream.flush()


def say_text(text: str, is_error: bool = False, file: TextIO | None = None) -> None:
    """Print text of several lines; see `say`."""
    say(*text.removesuffix("\n").split("\n"), is_error=is_error, file=file)


def say_traceback(error: BaseException, file: TextIO | None = None) -> None:
    """Print what Python says of an error, to the error stream or elsewhere."""
    say_text("".join(traceback.format_exception(error)), is_error=True, file=file)


def complain(error: Exception) -> int:
    """Print what is wrong and return the exit code of bad input."""
    say_text(f"error: {in_short(str(error))}", is_error=True)
    return ExitCode.BAD_INPUT


def in_short(message: str) -> str:
    """At most two printable lines, whatever a value that is quoted in the message holds."""
    lines = message.split("\n")
    lines = [" ".join(lines[:-1]), lines[-1]] if len(lines) > 2 else lines
    return "\n".join(printable(line).rstrip() for line in lines)


def error_text(error: Exception) -> str:
    """What went wrong with a run, for run.json and the terminal."""
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}; what was saved earlier is intact"
    return in_short(str(error)) if isinstance(error, EsperError) else f"{type(error).__name__}: {error}"


class _Printable(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(record.getMessage()), None
        return True


def logger(name: str) -> logging.Logger:
    """The logger of this name; what it is told is logged on one printable line."""
    found = logging.getLogger(name)
    if not any(isinstance(known, _Printable) for known in found.filters):
        found.addFilter(_Printable())
    return found

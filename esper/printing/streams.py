"""Standard output and error as streams that never fail whoever writes to them."""

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

_BROKEN = (OSError, ValueError)  # a full disk, a reader that has gone; a stream that was closed


class Output:
    """A text stream that takes everything: what it cannot encode is spelled out, what it cannot write is lost.

    Args: stream: None for one that does not exist, as in a process that was started without.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write, or lose, the text."""
        if self.stream is not None:
            try:
                self._write(self.stream, text)
            except _BROKEN as error:
                self._note(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Pass on what is buffered, where that is possible."""
        if self.stream is not None:
            try:
                self.stream.flush()
            except _BROKEN as error:
                self._note(error)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        with suppress(*_BROKEN, AttributeError):
            return bool(cast(TextIO, self.stream).isatty())
        return False

    def settle(self) -> None:
        """Flush for the last time; what cannot be written now is given up, so that the interpreter's exit is clean."""
        self.flush()
        if self.failure is not None:
            with suppress(*_BROKEN, AttributeError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, cast(TextIO, self.stream).fileno())
                os.close(null)
            self.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _note(self, error: Exception) -> None:
        if isinstance(error, OSError):
            self.failure = self.failure or error

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def output(is_error: bool = False) -> Output:
    """Standard output, or standard error, as it is now."""
    stream = sys.stderr if is_error else sys.stdout
    return stream if isinstance(stream, Output) else Output(stream)


@contextmanager
def guarded() -> Iterator[None]:
    """Inside, all that this process prints, its libraries included, goes to outputs that do not fail.

    Descriptors that were closed when the process began are opened on nothing, lest a file of a run take their number.
    """
    _open_descriptors()
    before = sys.stdout, sys.stderr
    out, err = output(), output(is_error=True)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        if not isinstance(before[0], Output):
            out.settle()
            if out.failure is not None and out.failure.errno not in (errno.EPIPE, errno.EBADF):
                err.write(f"standard output: {out.failure.strerror}; not all could be printed\n")
        if not isinstance(before[1], Output):
            err.settle()


def _open_descriptors() -> None:
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, descriptor)  # inherited by child processes, as the others are
            if null != descriptor:
                os.close(null)
            else:
                os.set_inheritable(descriptor, True)

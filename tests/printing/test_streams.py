"""Outputs that fail cost nothing."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from esper.printing import Output, guarded, output, say

ROOT = Path(__file__).resolve().parents[2]


class Full(io.StringIO):
    """A file on a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def ascii_only():
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


@pytest.mark.parametrize("make", [lambda: None, Full, closed, ascii_only], ids=["none", "full", "closed", "ascii"])
def test_printing_never_raises(make, monkeypatch):
    monkeypatch.setattr(sys, "stdout", make())
    monkeypatch.setattr(sys, "stderr", make())
    with guarded():
        print("a library's · line")
        print("another", file=sys.stderr, flush=True)
        say("ours → é")
        say("ours", is_error=True)
        sys.stdout.writelines(["a", "b"])
        assert not sys.stdout.isatty()
    say("after it, too")


def test_what_cannot_be_encoded_is_spelled_out():
    stream = ascii_only()
    Output(stream).write("naïve →\n")
    stream.flush()
    assert stream.buffer.getvalue() == b"na\\xefve \\u2192\n"


def test_outputs_are_given_back(capsys):
    before = sys.stdout, sys.stderr
    with pytest.raises(KeyError), guarded():
        assert isinstance(sys.stdout, Output)
        with guarded():
            assert output() is sys.stdout
        raise KeyError
    assert (sys.stdout, sys.stderr) == before


def test_what_is_lost_for_want_of_room_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Full())
    with guarded():
        say("figures")
    assert capsys.readouterr().err == f"standard output: {os.strerror(errno.ENOSPC)}; not all could be printed\n"


def test_no_file_takes_the_number_of_an_output_that_was_closed(tmp_path):
    program = """
import os, subprocess, sys
from esper.printing import guarded, say
with guarded():
    file = open("file", "w")
    os.write(1, b"not in the file")
    subprocess.run([sys.executable, "-c", "print('nor this'); import sys; print('nor this', file=sys.stderr)"])
    say("nor this")
    assert file.fileno() > 2, file.fileno()
"""
    command = f'"{sys.executable}" -c "$0" <&- >&- 2>&-'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command, program], cwd=tmp_path, env=environment, timeout=30)
    assert done.returncode == 0
    assert (tmp_path / "file").read_bytes() == b""

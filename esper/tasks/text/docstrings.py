"""Docstrings of Python source, told from it without parsing: source of any version, and what is none, will do."""

import inspect
import re

# Comments and string literals of Python source, prefixes aside: as much as telling docstrings apart takes.
_LITERAL = re.compile(
    rb"""#[^\n]*"""
    rb'''|"""(?P<a>[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*)"""'''
    rb"""|'''(?P<b>[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*)'''"""
    rb'''|"(?P<c>[^"\\\n]*(?:\\.[^"\\\n]*)*)"'''
    rb"""|'(?P<d>[^'\\\n]*(?:\\.[^'\\\n]*)*)'""",
    re.DOTALL,
)
_PREFIX = re.compile(rb"[ \t]*[rRuU]?")
_REST = re.compile(rb"[ \t]*(?:#[^\n]*)?\r?(?:\n|\Z)")


def without_docstrings(source: bytes) -> tuple[bytes, bytes]:
    """Python source without its docstrings, and those, their indentation taken off, an empty line behind each.

    A docstring is a string on lines of its own at the head of the file, or behind a colon.
    """
    kept, prose = [], []
    copied = seen = 0
    last = b":"  # of what is neither space nor comment, the character before a literal
    for literal in _LITERAL.finditer(source):
        start, end = literal.span()
        line = source.rfind(b"\n", 0, start) + 1
        own_line = _PREFIX.fullmatch(source, max(line, copied), start) is not None
        between = source[seen : line if own_line else start].rstrip()
        last, seen = between[-1:] or last, end
        if literal.lastgroup is None:
            continue
        rest = _REST.match(source, end)
        if last == b":" and own_line and rest:
            kept.append(source[copied:line])
            prose.append(_cleaned(literal[literal.lastgroup]))
            copied = seen = rest.end()
        last = b"'"
    return b"".join([*kept, source[copied:]]), b"".join(prose)


def _cleaned(docstring: bytes) -> bytes:
    text = inspect.cleandoc(docstring.decode("utf-8", "surrogateescape"))
    return f"{text}\n\n".encode("utf-8", "surrogateescape") if text else b""

import ast
import sysconfig
from pathlib import Path

import pytest

from esper.tasks.text.docstrings import without_docstrings

SOURCE = b'''#!/usr/bin/env python
# -*- coding: utf-8 -*-
"""Head of the module.

    indented
"""
import a  # "no string"

x = {"key":
     "value"}
y = """kept: no docstring"""


class A:
    \'\'\'Of a class.\'\'\'

    def f(self,
          b=":"):
        # a comment first
        r"""Of a method: \\d 'quoted' "twice"

        And more.
        """
        "not one"
        return """a:
        '''
CLEAN = b'''#!/usr/bin/env python
# -*- coding: utf-8 -*-
import a  # "no string"

x = {"key":
     "value"}
y = """kept: no docstring"""


class A:

    def f(self,
          b=":"):
        # a comment first
        "not one"
        return """a:
        '''
REST = b'''
        "inside"
        """

    def g(self): "on its line"
'''


def test_docstrings_are_told_from_other_strings():
    source, docstrings = without_docstrings(SOURCE + REST)
    assert source == CLEAN + REST
    assert docstrings.decode() == (
        "Head of the module.\n\nindented\n\nOf a class.\n\nOf a method: \\d 'quoted' \"twice\"\n\nAnd more.\n\n"
    )


def test_docstrings_of_the_library_are_those_that_python_finds():
    for name in ("json/decoder.py", "argparse.py", "textwrap.py", "dataclasses.py"):
        source = Path(sysconfig.get_path("stdlib"), name).read_bytes()
        found = without_docstrings(source)[1].decode().split()
        nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        wanted = [ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, nodes)]
        have, want = len(found), sum(len(text.split()) for text in wanted if text)
        assert abs(have - want) <= 0.01 * want, name


@pytest.mark.parametrize("source", [b"", b"\n\n", b'"""never closed', b"x = '\n\xff", b'"', b"'''" * 99, b"\\" * 99])
def test_what_is_no_python_is_left_as_it_is(source):
    kept, docstrings = without_docstrings(source)
    assert len(kept) + len(docstrings) <= len(source) + 2

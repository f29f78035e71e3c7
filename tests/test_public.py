"""`import esper`: what it offers, and that it costs nothing."""

import pydoc
import re
import subprocess
import sys
import typing

import pytest

import esper


def test_help_reads_as_a_table_of_contents() -> None:
    text = pydoc.plain(pydoc.render_doc(esper))
    contents = text.partition("PACKAGE CONTENTS")[0]
    for name in esper.__all__:
        assert name == "__version__" or re.search(rf"^ +(\w+, )*{name}\b", contents, re.MULTILINE)
        assert name in dir(esper)
    assert esper._LAZY.keys() | {"__version__"} == set(esper.__all__)


@pytest.mark.parametrize("name", sorted(esper._LAZY))
def test_every_name_is_there_with_types_and_words(name: str) -> None:
    thing = getattr(esper, name)
    assert thing.__doc__ and thing.__name__ == name
    function = thing.__init__ if isinstance(thing, type) else thing
    hints = function.__annotations__
    wanted = function.__code__.co_varnames[: function.__code__.co_argcount + function.__code__.co_kwonlyargcount]
    assert set(wanted) - {"self"} <= set(hints) and typing.get_type_hints(function)


def test_nothing_heavy_is_loaded_before_it_is_used() -> None:
    code = "import sys, esper; assert not {'torch', 'numpy', 'pandas', 'hydra'} & set(sys.modules); esper.__all__"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        esper.nonsense  # noqa: B018

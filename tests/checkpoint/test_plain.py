import json
import math
from collections import deque
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.checkpoint.plain import check_plain, fingerprint, parse_object, spelled, to_json
from esper.errors import CheckpointError

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
plain_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)


@given(plain_values)
def test_every_plain_value_comes_back_equal(value: Any) -> None:
    check_plain(value, "value")
    back = json.loads(to_json(value))
    assert back == value
    assert repr(back) == repr(value)  # -0.0, order of keys, True and 1


not_finite = st.recursive(
    scalars | st.sampled_from([math.inf, -math.inf, math.nan]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(not_finite)
def test_numbers_that_are_not_finite_are_spelled_and_read_back(value: Any) -> None:
    held = spelled({"value": value})
    check_plain(held, "value")
    assert to_json(held) == to_json({"value": value})
    assert repr(parse_object(to_json(held).encode(), Path("f"))["value"]) == repr(value)


def test_the_spelling_is_strict_json_that_tells_a_number_from_a_text() -> None:
    value = {"a": [math.inf, "inf", 1.5], "b": {"float": -math.inf}, "c": math.nan}
    text = to_json(value)
    assert text == '{"a":[{"float":"inf"},"inf",1.5],"b":{"float":{"float":"-inf"}},"c":{"float":"nan"}}'
    assert repr(parse_object(text.encode(), Path("f"))) == repr(value)
    assert spelled(cycle)[0][0] is not cycle  # left to check_plain, which names it


class Colour(Enum):
    RED = 1


cycle: list[Any] = []
cycle.append(cycle)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {"b": math.nan}]}, r"root\['a'\]\[1\]\['b'\] is nan.* Store None instead, or {'float': 'nan'}"),
        ([math.inf], r"root\[0\] is inf"),
        ({"a": (1, 2)}, r"root\['a'\] is a tuple"),
        ({"when": datetime(2026, 1, 1)}, r"root\['when'\] is a datetime.datetime"),
        ({"w": torch.zeros(1)}, r"root\['w'\] is a torch.Tensor"),
        ({"c": Colour.RED}, r"root\['c'\] is a .*Colour"),
        ({"q": deque()}, r"root\['q'\] is a collections.deque"),
        ({"s": {1}}, r"root\['s'\] is a set"),
        ({"b": b"x"}, r"root\['b'\] is a bytes"),
        ({"d": {1: "x"}}, r"root\['d'\] has the key 1"),
        ({"t": "\ud800"}, r"root\['t'\] is text that is not valid Unicode"),
        ({"\udfff": 1}, r"a key of root is text that is not valid Unicode"),
        ({"i": 10**5000}, r"root\['i'\] is an integer of \d+ bits"),
        (cycle, "nested deeper than 64 levels, or contains itself"),
    ],
)
def test_what_json_cannot_hold_is_named_by_its_path(value: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_plain(value, "root")


def test_fingerprints_tell_values_apart() -> None:
    assert fingerprint({"a": 1}) == fingerprint({"a": 1})
    assert len({fingerprint(value) for value in (1, 1.0, True, "1", [1], None)}) == 6


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"float": "inf"}',
        b"{",
        b"[]",
        b"3",
        b"\xff\xfe",
        b"[" * 100_000,
        b"{}garbage",
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_only_an_object_parses(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"sidecar\.json"):
        parse_object(data, Path("sidecar.json"))

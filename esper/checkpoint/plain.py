"""Plain values: what JSON can hold such that what is read equals what was written.

JSON has no number that is not finite. One is spelled `{"float": "inf"}` (or "-inf", "nan"), and read as the number.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from esper.errors import CheckpointError, FormatError
from esper.files import parse_json

_MAX_DEPTH = 64
_MAX_INTEGER_BITS = 8192  # Python refuses to parse integers of more than 4,300 digits
_FLOAT = "float"
_SPELLED = f'"{_FLOAT}"'.encode()
_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def check_plain(value: Any, where: str, *, _depth: int = 0) -> None:
    """Raise CheckpointError with the path of the first value that JSON cannot hold exactly."""
    match value:
        case None | bool():
            return
        case float():
            if not math.isfinite(value):
                raise CheckpointError(
                    f"{where} is {value}: JSON has no such number. Store None instead, or {spelled(value)} for it."
                )
        case int():
            if value.bit_length() > _MAX_INTEGER_BITS:
                raise CheckpointError(f"{where} is an integer of {value.bit_length()} bits: too long to be read back.")
        case str():
            _check_text(value, where)
        case list() | dict() if _depth == _MAX_DEPTH:
            raise CheckpointError(f"{where} is nested deeper than {_MAX_DEPTH} levels, or contains itself.")
        case list():
            for index, item in enumerate(value):
                check_plain(item, f"{where}[{index}]", _depth=_depth + 1)
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise CheckpointError(f"{where} has the key {key!r}: JSON keys are text. Store str(key) or a list.")
                _check_text(key, f"a key of {where}")
                check_plain(item, f"{where}[{key!r}]", _depth=_depth + 1)
        case _:
            kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
            raise CheckpointError(
                f"{where} is a {kind}: a sidecar holds None, bool, int, float, str, list and dict only. "
                "Convert it before saving (tuple → list, tensor → the tensors, date → ISO 8601 text)."
            )


def spelled(value: Any, *, _depth: int = 0) -> Any:
    """The same value with every number that is not finite in its spelled form, which a sidecar may hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(float(value))}
    if _depth < _MAX_DEPTH and isinstance(value, dict):
        return {key: spelled(item, _depth=_depth + 1) for key, item in value.items()}
    if _depth < _MAX_DEPTH and isinstance(value, list):
        return [spelled(item, _depth=_depth + 1) for item in value]
    return value


def is_spelled(value: dict[str, Any]) -> bool:
    """Whether this is the spelled form of a number that is not finite."""
    name = value.get(_FLOAT) if len(value) == 1 else None
    return isinstance(name, str) and name in _NOT_FINITE


def to_json(value: Any) -> str:
    """Compact strict JSON, in the order of insertion; what is not finite is spelled.

    Raises ValueError where JSON has no such value.
    """
    try:
        return _dumps(value)
    except ValueError:  # most values have nothing to spell, and are not walked through for it
        return _dumps(spelled(value))


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def fingerprint(value: Any) -> str:
    """The sha256 of a plain value, as hexadecimal text."""
    return hashlib.sha256(to_json(value).encode()).hexdigest()


def parse_object(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object that a file holds, with numbers for what is spelled. Raises CheckpointError on anything else."""
    try:
        value = parse_json(data, has_vast_integers=True)
    except FormatError as error:
        raise CheckpointError(f"{path} is altered or cut short: {error}.") from error
    if _SPELLED in data:
        value = _with_numbers(value)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}; expected an object.")
    return value


def is_unicode(text: str) -> bool:
    """Whether a text can be written at all: halves of characters cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_text(text: str, where: str) -> None:
    if not is_unicode(text):
        raise CheckpointError(f"{where} is text that is not valid Unicode: {text!r}.")


def _with_numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    if isinstance(value, dict):
        if is_spelled(value):
            return _NOT_FINITE[value[_FLOAT]]
        return {key: _with_numbers(item) for key, item in value.items()}
    return value

"""Plain values: what JSON can hold such that what is read equals what was written."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from esper.errors import CheckpointError, FormatError
from esper.files import parse_json

_MAX_DEPTH = 64
_MAX_INTEGER_BITS = 8192  # Python refuses to parse integers of more than 4,300 digits


def check_plain(value: Any, where: str, *, _depth: int = 0) -> None:
    """Raise CheckpointError with the path of the first value that JSON cannot hold exactly."""
    match value:
        case None | bool():
            return
        case float():
            if not math.isfinite(value):
                raise CheckpointError(f"{where} is {value}: JSON has no such number. Store None instead.")
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


def to_json(value: Any) -> str:
    """Compact strict JSON, in the order of insertion. Raises ValueError where JSON has no such value."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def fingerprint(value: Any) -> str:
    """The sha256 of a plain value, as hexadecimal text."""
    return hashlib.sha256(to_json(value).encode()).hexdigest()


def parse_object(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object that a file holds. Raises CheckpointError on anything else."""
    try:
        value = parse_json(data, has_vast_integers=True)
    except FormatError as error:
        raise CheckpointError(f"{path} is altered or cut short: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}; expected an object.")
    return value


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{where} is text that is not valid Unicode: {text!r}.") from error

"""From a composed configuration to its dataclasses, with what OmegaConf leaves unchecked."""

from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import Container, DictConfig, ListConfig, OmegaConf

from esper.checks import spelled
from esper.errors import ConfigError

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def to_object(composed: DictConfig) -> Any:
    """Resolve interpolations, make the dataclasses and run their checks. Raises ConfigError or OmegaConf's errors."""
    _refuse_nested(composed, "")
    return OmegaConf.to_object(composed)


def _refuse_nested(node: DictConfig, prefix: str) -> None:
    """OmegaConf takes a list, or a mapping, for an element of list[str]."""
    schema = OmegaConf.get_type(node)
    if schema is None or not is_dataclass(schema):
        return
    hints = get_type_hints(schema)
    for field in fields(schema):
        if field.name not in node or OmegaConf.is_missing(node, field.name):
            continue
        value = node[field.name]
        if isinstance(value, DictConfig):
            _refuse_nested(value, f"{prefix}{field.name}.")
        if isinstance(value, ListConfig) and (expected := _WORDS.get(_element(hints[field.name]))):
            for number, element in enumerate(value):
                if isinstance(element, Container):
                    found = spelled(OmegaConf.to_container(element))
                    raise ConfigError(f"{prefix}{field.name}[{number}]={found}: expected {expected}")


def _element(hint: Any) -> Any:
    """Of which type a list's elements are, where the hint is one of a list, or of none or a list."""
    for one in (hint, *get_args(hint)):
        if get_origin(one) is list:
            return get_args(one)[0]
    return None

"""What Hydra and OmegaConf say of bad input, in one or two lines: the key, the value, what is allowed."""

import re
from collections.abc import Sequence
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)
from yaml import YAMLError

from esper.checks import did_you_mean, spelled
from esper.config.options import VARIANTS, Groups, groups
from esper.config.own_files import of_file, of_missing, of_yaml
from esper.errors import ConfigError
from esper.printing import in_short

EXPECTED = {"Integer": "a whole number", "Float": "a number", "bool": "true or false", "String": "text"}
OWN = "one of your own comes with plugins=[MODULE]"
HOW_TO = "expected key=value, such as seed=3 or host=cnn"

# What Hydra says where a group is given a list, or two options.
_NO_OPTION = ("group override must be", "more than once in the final", "can only concatenate")


def explain(error: BaseException, overrides: Sequence[str], program: str = "run") -> str:
    """The message for an exception raised while composing `overrides`; at most two lines. program: see `groups`."""
    return in_short(_message(error, overrides, groups(program)))


def _message(error: BaseException, overrides: Sequence[str], known: Groups) -> str:
    chain = (error, error.__cause__, error.__context__)
    cause = next((link for link in chain if isinstance(link, OmegaConfBaseException)), error)
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, SystemExit):
        return f"a check of the configuration ended the program: SystemExit: {error}"
    if isinstance(error, OverrideParseException):
        return f"{spelled(error.override) or '(empty)'}: cannot be read; {_how_to(error.override or '')}"
    for override in overrides:
        if override.startswith("~") and not override.startswith("~hydra"):
            return f"{spelled(override)}: a run needs every group and key; set it to what you want instead"
        if override.startswith("="):
            return f"{spelled(override)}: cannot be read; {HOW_TO}"
    if isinstance(error, YAMLError):
        return of_yaml(error)
    if message := of_file(error, cause, known):
        return message
    if isinstance(error, MissingConfigException):
        return _unknown_option(error)
    if isinstance(error, OSError):
        folder = next((o for o in reversed(overrides) if re.match(r"hydra\.(run|sweep)\.(dir|subdir)=", o)), "")
        return f"{spelled(folder) or error.filename}: this folder cannot be made ({error.strerror or error})"
    in_file = re.match(r"In '(.+?)': \w+ raised while composing", str(error))
    if in_file:
        return f"{in_file[1]}.yaml: {_of_cause(cause, (), known) or _other(cause, (), known)}"
    return _of_cause(cause, overrides, known) or _other(error, overrides, known)


def _how_to(override: str) -> str:
    """What to type instead: quotes around a value that has none."""
    key, equals, value = override.partition("=")
    if not equals or not value or set(value) & set("'\"[]{}(),"):
        return HOW_TO
    return f"quote its value: '{key}=\"{value}\"'"


def _of_cause(cause: BaseException, overrides: Sequence[str], known: Groups) -> str:
    match cause:
        case ConfigAttributeError() | ConfigKeyError():
            return _unknown_key(cause, overrides, known)
        case ValidationError():
            return _wrong_type(cause, overrides)
        case MissingMandatoryValue():
            if message := of_missing(cause, overrides, known):
                return message
            key = re.search(r"full_key: (\S+)", str(cause)) or re.search(r"value: (\S+)", str(cause))
            return f"{_typed(key[1] if key else '', overrides) or 'the configuration'}: a value is missing"
        case InterpolationResolutionError():
            return f"{_typed(cause.full_key, overrides)}: {_first_line(cause)}"
    return ""


def _unknown_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        return f"{option or 'config'}: there is no such configuration file"
    if group == "hydra/launcher" and option.startswith("submitit_"):
        return f"{group}={spelled(option)}: this comes with an extra\n  pip install 'esper[submitit]'"
    options = list(error.options or ())
    hint = did_you_mean(option, options, f"{group}={{}}") or (f"; {OWN}" if group in VARIANTS else "")
    message = f"{group}={spelled(option)}: there is no such option{hint}"
    return f"{message}\n  {group} may be: {', '.join(options)}" if options else message


def _unknown_key(cause: OmegaConfBaseException, overrides: Sequence[str], known: Groups) -> str:
    full_key = str(cause.full_key or cause.key)
    parent, _, key = full_key.rpartition(".")
    parent_node = cause.parent_node if isinstance(cause.parent_node, DictConfig) else DictConfig({})
    siblings = [str(name) for name in parent_node if name != "hydra"] if parent_node else []
    elsewhere = [dotted for dotted in _dotted_keys(parent_node) if dotted.rpartition(".")[2] == key]
    if elsewhere and not did_you_mean(key, siblings):
        hint = f"; did you mean {elsewhere[0]}?"
    else:
        hint = did_you_mean(key, siblings, f"{parent}.{{}}" if parent else "{}")
    message = f"{_typed(full_key, overrides)}: there is no such key{hint}"
    if parent:
        return f"{message}\n  {parent} has: {', '.join(siblings) or f'no keys; {OWN}'}"
    keys = [name for name in siblings if name not in known]
    return f"{message}\n  groups: {', '.join(known)}; keys: {', '.join(keys)}"


def _dotted_keys(node: DictConfig) -> list[str]:
    """Every key of the configuration that this node is part of; none of Hydra's own."""
    root = node._get_root()

    def walk(container: DictConfig, prefix: str) -> list[str]:
        found: list[str] = []
        for key in map(str, container.keys()):
            value = container._get_node(key)
            if not (prefix == "" and key == "hydra"):
                found += walk(value, f"{prefix}{key}.") if isinstance(value, DictConfig) else [f"{prefix}{key}"]
        return found

    return walk(root, "") if isinstance(root, DictConfig) else []


def _wrong_type(cause: OmegaConfBaseException, overrides: Sequence[str]) -> str:
    key, text = str(cause.full_key or ""), _first_line(cause)
    wanted = re.search(r"(?:could not be converted to|is not a valid) (\w+)", text)
    if wanted:
        expected = f"expected {EXPECTED.get(wanted[1], wanted[1])}"
    elif "not Optional" in text or "Incompatible value 'None'" in text:
        expected = "null is not allowed here"
    elif "ListConfig" in text:
        expected = "expected a list, such as [1,2]"
    elif "is not a subclass of" in text:
        expected = f"this is a group of keys; set one of them: {key or 'group'}.KEY=VALUE"
    else:
        expected = text
    return f"{_typed(key, overrides)}: {expected}" if key else expected


def _other(error: BaseException, overrides: Sequence[str], known: Groups) -> str:
    text = _first_line(error)
    for override in overrides:
        group = override.lstrip("+").partition("=")[0]
        if any(one in text for one in _NO_OPTION) and group in known:
            return f"{spelled(override)}: expected one option\n  {group} may be: {', '.join(known[group])}"
        if override.startswith("+") and ("append to config" in text or "Multiple values" in text):
            return f"{spelled(override)}: it is there already; write it without the +"
    if "Ambiguous value" in text or "requires --multirun" in text:
        sweep = re.search(r"'(.*)'", text)
        return f"{sweep[1] if sweep else 'this'}: several values need -m (one run each), or brackets for a list"
    return text if " " in text else f"{spelled(' '.join(overrides))}: cannot be composed ({text})"


def _typed(key: Any, overrides: Sequence[str]) -> str:
    """The override that set this key, as it was typed; the bare key if it came from a file."""
    bare = re.sub(r"\[\d+\]$", "", str(key))
    for override in reversed(overrides):
        typed = override.lstrip("+").partition("=")[0]
        if typed == bare or typed.startswith(f"{bare}."):
            return spelled(override)
    return str(key)


def _first_line(error: BaseException) -> str:
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return (lines[0] if len(lines[0]) <= 160 else f"{lines[0][:157]}...") if lines else type(error).__name__

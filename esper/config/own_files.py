"""What is wrong with a file of options, in a line that names it and what to write instead."""

import re
from collections.abc import Sequence

import yaml
from hydra.errors import MissingConfigException
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from esper.checks import did_you_mean
from esper.config.options import VARIANTS, Groups

RECIPES = ("experiment", "debug")  # over several groups: their files speak of the whole configuration
REQUIRED = {
    "host.factory": "expected package.module:function, such as my_package.networks:residual (docs/bring-your-own.md)",
    "host.positions": "expected a list of submodules, such as [layer1,layer2] (docs/bring-your-own.md)",
}


def of_yaml(error: yaml.YAMLError) -> str:
    """A file that is no YAML: which one, where, and what the reader says."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return f"{getattr(error, 'name', 'a file of options')}: cannot be read as YAML ({_first_line(error)})"
    said = getattr(error, "problem", None) or getattr(error, "context", None) or "cannot be read"
    return f"{mark.name}, line {mark.line + 1}: {said}"


def of_file(error: BaseException, cause: BaseException, known: Groups) -> str:
    """The message for what Hydra says "In 'GROUP/OPTION'" of; "" for what is no mistake of a file's form."""
    text = str(error)
    unreadable = re.match(r"Invalid defaults list in '(.+?)', (.+)", text)
    if unreadable:
        return f"{unreadable[1]}.yaml: {unreadable[2]}; expected such as defaults: [default, _self_]"
    inside = re.match(r"In '(\w+)/(.+?)': ", text)
    if not inside or inside[1] not in known:
        return ""
    group, file = inside[1], f"{inside[1]}/{inside[2]}.yaml"
    if isinstance(error, MissingConfigException):
        return f"{file}: {_of_defaults(group, error.missing_cfg_file or '', known)}"
    is_stray = isinstance(cause, ConfigKeyError) and str(cause.full_key) == group
    if group in RECIPES and (is_stray or f"@{group}." in text):
        return f"{file}: its first line must be `# @package _global_`, so that its keys are those of the whole run"
    if isinstance(cause, ValidationError) and re.search(r"\w+ is not a subclass of", str(cause)) and not cause.full_key:
        return f"{file}: expected lines of KEY: VALUE"
    if isinstance(cause, ConfigKeyError) and group in VARIANTS and cause.object_type not in VARIANTS[group].values():
        # Of a group whose options differ, no keys are known until one is chosen.
        return f"{file}: {_start_from(group, known)}"
    return ""


def of_missing(cause: OmegaConfBaseException, overrides: Sequence[str], known: Groups) -> str:
    """The message for a value that nobody gave: one that a user must give, or one that a file forgot to start from."""
    key = re.search(r"full_key: (\S+)", str(cause))
    group, _, name = key[1].partition(".") if key else ("", "", "")
    if f"{group}.{name}" in REQUIRED:
        return f"{group}.{name}: {REQUIRED[f'{group}.{name}']}"
    chosen = [value for kind, _, value in (o.lstrip("+").partition("=") for o in overrides) if kind == group]
    if group not in known or not chosen or chosen[-1] in known[group]:
        return ""
    return f"{group}/{chosen[-1]}.yaml: it gives no {name}; {_start_from(group, known)}"


def _of_defaults(group: str, missing: str, known: Groups) -> str:
    """What a file's defaults name, and there is not."""
    owner, _, option = missing.rpartition("/")
    first = missing.removeprefix(f"{group}/").partition("/")[0]
    if group in RECIPES and first in known:
        return f"write `override /{first}: {option}` in its defaults"
    options = known.get(owner, [])
    may_be = f"; {owner} may be: {', '.join(options)}" if options else ""
    return f"its defaults name {option}, which is no option of {owner}{did_you_mean(option, options)}{may_be}"


def _start_from(group: str, known: Groups) -> str:
    options = known[group]
    return f"begin it with `defaults: [{'default' if 'default' in options else options[0]}, _self_]`"


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split("\n")[0].split())

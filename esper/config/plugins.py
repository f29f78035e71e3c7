"""Plugins: modules of a user's own, imported before anything is composed, which register parts (esper.config.parts)."""

import functools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from esper.checks import did_you_mean, spelled
from esper.config.host import HOSTS
from esper.config.policy import RULES
from esper.config.telemetry import SINKS
from esper.errors import ConfigError, EsperError
from esper.factories import own_code
from esper.files import read_bytes, write_atomic
from esper.leyline.blueprints import BLUEPRINTS
from esper.registry import Registry
from esper.simic.rewards.config import REWARDS
from esper.tasks.settings import TASKS

KEY = "plugins"
ENTRY_POINTS = "esper.plugins"  # of installed packages
CACHE_VARIABLE = "XDG_CACHE_HOME"


def load_plugins(modules: Sequence[str] = ()) -> None:
    """Import the plugins of installed packages, then these modules, from the folder where the program was started.

    Each is imported once. Raises ConfigError where one fails, and what it had registered by then is forgotten.
    """
    _load_installed()
    for module in modules:
        _load(module)


def named_plugins(overrides: Sequence[str]) -> list[str]:
    """The modules that `plugins=[...]` names on a command line. Raises ConfigError where that is no list."""
    for override in reversed(overrides):
        if re.match(rf"\+*{KEY}=", override):
            try:
                value = OverridesParser.create().parse_override(override).value()
            except HydraException:
                return []  # it is told where all else is that cannot be read
            return checked_plugins(value, override)
    return []


def checked_plugins(value: Any, where: str) -> list[str]:
    """The value of the key, as a list of modules' names. Raises ConfigError, which begins with `where`."""
    if value is None:
        return []
    if not isinstance(value, list):
        example = value if isinstance(value, str) else "my_parts,more_parts"
        raise ConfigError(f"{spelled(where)}: expected one list of modules, as in {KEY}=[{example}]")
    names = [str(getattr(name, "text", name)) for name in value]
    for name in names:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name) or name.endswith(".py"):
            stem = name.removesuffix(".py").strip("./").replace("/", ".")
            raise ConfigError(f"{KEY}: {spelled(name)} is no module's name; expected such as {stem or 'my_parts'}")
    return names


def parts_cache() -> Path:
    """The folder in which completion finds the options of plugins that were loaded before: a file a plugin."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache").expanduser() / "esper" / "parts"


@functools.cache
def _load_installed() -> None:
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        package = entry.dist.name if entry.dist else entry.name
        with _all_or_none(), own_code(f"the plugin {entry.value} of the installed package {package}"):
            entry.load()


def _load(module: str) -> None:
    if module in sys.modules:
        return
    if os.getcwd() not in sys.path and "" not in sys.path:  # as in a program that was installed
        sys.path.insert(0, os.getcwd())
    before = own_options()
    with _all_or_none(), own_code(f"{KEY}=[{module}]"):
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise
            here = [path.stem for path in Path().iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
            raise ConfigError(
                f"{KEY}: there is no module {module}{did_you_mean(module, here)}\n  looked for from {os.getcwd()}"
            ) from None
    _remember(module, sorted(own_options() - before))


def own_options() -> set[str]:
    """What chooses the parts of users' own that are registered, as on a command line."""
    return {form.format(name) for form, parts in _registries() for name, part in parts.items() if part.is_own}


def _registries() -> list[tuple[str, dict[str, Any]]]:
    """All parts by name, and how one is chosen."""
    forms: dict[str, Registry[Any, Any]] = {
        "task={}": TASKS,
        "host={}": HOSTS,
        "policy={}": RULES,
        "reward={}": REWARDS,
        "telemetry.sinks.{}.enabled=true": SINKS,
    }
    blueprints = [("blueprint.names=[{}]", parts) for parts in BLUEPRINTS.values()]
    return [*((form, registry.parts) for form, registry in forms.items()), *cast(Any, blueprints)]


@contextmanager
def _all_or_none() -> Iterator[None]:
    """Inside, what a plugin registers is taken back where it fails."""
    before = {id(part) for _, parts in _registries() for part in parts.values()}
    try:
        yield
    except BaseException:
        for _, parts in _registries():
            for name in [name for name, part in parts.items() if part.is_own and id(part) not in before]:
                del parts[name]
        raise


def _remember(module: str, options: Sequence[str]) -> None:
    """Keep a plugin's options for completion, which must not import it; what cannot be kept is done without."""
    text = "".join(f"{option}\n" for option in (f"{KEY}=[{module}]", *options)).encode()
    path = parts_cache() / module
    with suppress(OSError, EsperError):
        if not path.is_file() or read_bytes(path) != text:
            write_atomic(path, text)

"""From overrides, or from a run's config.yaml, to a checked configuration."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from esper.checks import did_you_mean, one_of, spelled
from esper.config.checks import flat
from esper.config.explain import explain
from esper.config.objects import to_object
from esper.config.options import VARIANTS, conf_dir
from esper.config.plugins import KEY, checked_plugins, load_plugins, named_plugins
from esper.config.root import RunConfig
from esper.config.store import register
from esper.config.telemetry import TelemetryConfig, own_sinks
from esper.errors import ConfigError, FormatError
from esper.files import parse_yaml, read_yaml

ON_RESUME = ("telemetry.console", "telemetry.report")


def compose(overrides: Sequence[str] = (), config_name: str = "config", config_dir: str | None = None) -> RunConfig:
    """The configuration that `python -m esper.run` would use with these overrides.

    `config_dir`: a further folder of groups and options. Raises ConfigError.
    """
    load_plugins(named_plugins(overrides))
    extra = [f"hydra.searchpath=['file://{Path(config_dir).resolve()}']"] if config_dir else []
    with explained(overrides):
        return finish(_compose([*overrides, *extra], config_name, with_hydra=False))


def compose_with_hydra(overrides: Sequence[str]) -> tuple[DictConfig, DictConfig]:
    """What Hydra would hand to a run with these overrides, and Hydra's own part of it. Raises ConfigError."""
    load_plugins(named_plugins(overrides))
    with explained(overrides):
        composed = _compose(overrides, "config", with_hydra=True)
        hydra = composed.hydra
        hydra.run.dir = hydra.run.dir  # resolved, while what it refers to stands beside it
        with open_dict(composed):
            del composed["hydra"]
        return composed, hydra


@contextmanager
def explained(overrides: Sequence[str]) -> Iterator[None]:
    """Inside, whatever Hydra raises on bad input (ValueErrors included) is bad input: ConfigError."""
    try:
        yield
    except (Exception, SystemExit) as error:  # the latter of a check in a user's own configuration
        raise ConfigError(explain(error, overrides)) from error


def _compose(overrides: Sequence[str], config_name: str, with_hydra: bool) -> DictConfig:
    register()
    program = GlobalHydra.instance().hydra  # which Hydra has started, if any: there can be one at a time
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra_compose(config_name, overrides=list(overrides), return_hydra_config=with_hydra)
    finally:
        GlobalHydra.instance().hydra = program


def finish(composed: DictConfig) -> RunConfig:
    """Resolve interpolations, make the dataclasses and run their checks. Raises ConfigError or OmegaConf's errors."""
    config = cast(RunConfig, to_object(composed))
    for module in config.plugins:
        if module not in sys.modules:
            raise ConfigError(
                f"{KEY}: {module} is not loaded; name it on the command line, as in {KEY}=[{module}]: what it brings "
                "has to be known before a file of options is read"
            )
    refuse_strays(config, composed, "")
    for group, variants in VARIANTS.items():
        chosen = getattr(config, group)
        if type(chosen) is not variants.get(chosen.name):
            raise ConfigError(f"{group}.name={chosen.name}: choose it by its option, as in {group}={chosen.name}")
    return config


def to_plain(config: RunConfig) -> dict[str, Any]:
    """Plain values, as in config.yaml and in a checkpoint."""
    return cast(dict[str, Any], _plain(OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)))


def _plain(value: Any) -> Any:
    """With a path as its text, from which a user's own configuration makes one again."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def read_values(path: Path) -> dict[str, Any]:
    """The keys of a run's config.yaml, unchecked. Raises ConfigError."""
    try:
        values = read_yaml(path)
    except (OSError, FormatError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({getattr(error, 'strerror', None) or error})") from error
    return refuse_foreign(values, str(path))


def refuse_foreign(values: Any, where: str) -> dict[str, Any]:
    """The values, where a configuration may have been written down as these. Raises ConfigError."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected the keys of a run's configuration")
    refuse_interpolations(values, where)
    engine = values.get("engine")
    if "controls" not in values and isinstance(engine, dict) and "twins" in engine:  # written before there were others
        own = {key: value for key, value in engine.items() if key != "twins"}
        return values | {"controls": ["twin"] if engine["twins"] else [], "engine": own}
    return values


def from_plain(values: Any, where: str) -> RunConfig:
    """Check values that were read from `where` as strictly as a command line. Raises ConfigError."""
    values = refuse_foreign(values, where)
    try:
        base = OmegaConf.structured(RunConfig)
        for field in fields(RunConfig):
            if is_dataclass(field.type):
                base[field.name] = OmegaConf.structured(field.type)
        for group, variants in VARIANTS.items():
            chosen = values.get(group)
            name = chosen.get("name") if isinstance(chosen, dict) else None
            one_of(f"{group}.name", str(name), variants)
            base[group] = OmegaConf.structured(variants[str(name)])
        return finish(cast(DictConfig, OmegaConf.merge(base, values)))
    except (ConfigError, OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{where}: {explain(error, ())}") from error


def read_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """A run's config.yaml.

    Of its keys, only what a run shows may be overridden; naming another with the value that it has there confirms it.
    Raises ConfigError.
    """
    load_plugins_of(path)
    values = read_values(path)
    config = from_plain(values, str(path))
    for override in overrides:
        key, equals, value = override.partition("=")
        if is_confirmed(override, values):
            continue
        if key not in ON_RESUME or not equals:
            shown = ", ".join(f"{key}=..." for key in ON_RESUME)
            raise ConfigError(
                f"{spelled(override)}: a resumed run keeps its configuration\n  with resume= go only {shown}, and keys "
                f"that were changed in {path} before, with the value there"
            )
        group, _, name = key.partition(".")
        values[group][name] = parse_yaml(value) if name == "report" else value
        config = from_plain(values, override)
    return config


def load_plugins_of(path: Path) -> None:
    """Import the plugins that a run's own config.yaml names, where it has one. Raises ConfigError."""
    if path.exists():
        load_plugins(checked_plugins(read_values(path).get(KEY), f"{path}: {KEY}"))


def is_confirmed(override: str, values: dict[str, Any]) -> bool:
    """Whether it names a key with the value that it has among these, of a config.yaml."""
    key, equals, value = override.partition("=")
    known = flat(values)
    try:
        return bool(equals) and key in known and parse_yaml(value) == known[key]
    except FormatError:
        return False


def refuse_interpolations(values: Any, where: str) -> None:
    """What is written down is resolved; `${...}` could ask for the environment, or grow without bounds."""
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, dict | list):
            refuse_interpolations(value, where)
        elif isinstance(value, str) and "${" in value:
            raise ConfigError(f"{where}: {spelled(value)}: expected a value; interpolations are for the command line")


def refuse_strays(schema: object, composed: Any, prefix: str) -> None:
    """`+key=value` can add keys that no schema knows; nothing would ever read them."""
    if isinstance(schema, dict):
        values: dict[str, Any] = own_sinks()
    else:
        values = {field.name: getattr(schema, field.name) for field in fields(cast(Any, schema))}
    for key in cast(Iterable[Any], composed):
        if key not in values:
            raise ConfigError(f"{prefix}{key}: there is no such key{did_you_mean(str(key), values, f'{prefix}{{}}')}")
        value = values[key]
        if is_dataclass(value) or (isinstance(schema, TelemetryConfig) and isinstance(value, dict)):
            refuse_strays(value, composed[key], f"{prefix}{key}.")

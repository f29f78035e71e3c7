"""From overrides, or from a run's config.yaml, to a checked configuration of a forge run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from esper.config.composing import read_values, refuse_strays
from esper.config.explain import explain
from esper.config.objects import to_object
from esper.config.options import conf_dir
from esper.config.store import register, store_schema
from esper.errors import ConfigError, FormatError
from esper.files import parse_yaml
from esper.forge.config import ForgeConfig

PROGRAM = "forge"  # its groups lie in conf/forge
_FIXED = ("size", "name")  # of a run: what its values were composed from, and where it lies


def search_path(program: str = PROGRAM) -> str:
    """The override by which Hydra finds the groups of this program beside those of all."""
    return f"hydra.searchpath=['file://{conf_dir() / program}']"


def register_forge(preload: Sequence[str] = ()) -> None:
    """Make the schema known to Hydra; safe to call again."""
    register(preload)
    store_schema("schema", PROGRAM, ForgeConfig)


def compose(overrides: Sequence[str] = ()) -> ForgeConfig:
    """The configuration that `python -m esper.forge` would use with these overrides. Raises ConfigError."""
    register_forge()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return finish(hydra_compose(PROGRAM, overrides=[*overrides, search_path()]))
    except Exception as error:  # whatever Hydra raises on bad input (ValueErrors included) is bad input
        raise ConfigError(explain(error, overrides, PROGRAM)) from error


def finish(composed: DictConfig) -> ForgeConfig:
    """Resolve interpolations, make the dataclasses and run their checks. Raises ConfigError or OmegaConf's errors."""
    config = cast(ForgeConfig, to_object(composed))
    refuse_strays(config, composed, "")
    return config


def to_plain(config: ForgeConfig) -> dict[str, Any]:
    """Plain values, as in config.yaml."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config)))


def read_config(path: Path, overrides: Sequence[str] = ()) -> ForgeConfig:
    """A run's config.yaml, with values changed as overrides say. Raises ConfigError."""
    values = read_values(path)
    try:
        changed = OmegaConf.merge(OmegaConf.structured(ForgeConfig), values)
        for override in overrides:
            key, equals, value = override.partition("=")
            if not equals:
                raise ConfigError(f"{override}: expected key=value, such as bitnet.distill=0.5")
            if key in _FIXED:
                raise ConfigError(
                    f"{override}: a run keeps its {key}\n  set a key itself, as in model.n_embd=128, or start a new run"
                )
            try:
                OmegaConf.update(changed, key, parse_yaml(value))
            except FormatError as error:
                raise ConfigError(f"{override}: {error}") from error
        return finish(cast(DictConfig, changed))
    except (ConfigError, OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(explain(error, overrides, PROGRAM)) from error

"""The configuration of each job, composed as Hydra does, and what identifies it."""

import copy
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

JOB_HASH = 12  # hex digits
SWEEP_HASH = 8
SUBDIR = "hydra.sweep.subdir"


class SweepLoader(ConfigLoaderImpl):
    """Hydra's loader, which composes each choice of groups once; jobs that choose alike set their values on a copy.

    What Hydra does from scratch for every job takes a hundred times as long.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._is_group: dict[str, bool] = {}
        self._sources: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_composed": {}, "_is_group": {}, "_sources": None}  # a worker composes few jobs

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        name = master_config.hydra.job.config_name
        fixed = list(master_config.hydra.overrides.hydra)
        if self._sources is None:
            _, self._sources = self._parse_overrides_and_create_caching_repo(name, fixed)
        overrides = OverridesParser.create().parse_overrides([*fixed, *sweep_overrides])
        values = [override for override in overrides if self._is_value(override)]
        choices = tuple(str(override.input_line) for override in overrides if not self._is_value(override))
        if choices not in self._composed:
            self._composed[choices] = self.load_configuration(name, list(choices), RunMode.RUN)
        config = copy.deepcopy(self._composed[choices])
        try:
            self._apply_overrides_to_config(values, config)
        except OmegaConfBaseException as error:
            raise ConfigCompositionException() from error
        _tell_overrides(config, overrides)
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    def _is_value(self, override: Override) -> bool:
        """Whether an override sets a value of the task's configuration, once that is composed."""
        key = override.key_or_group
        if key not in self._is_group:
            self._is_group[key] = self._sources.group_exists(key)
        is_group = self._is_group[key] and not isinstance(override.value(), dict)
        return not is_group and (key == SUBDIR or not override.is_hydra_override())


def _tell_overrides(config: DictConfig, overrides: Sequence[Override]) -> None:
    """What Hydra notes of the overrides in the configuration itself."""
    of_task = [override for override in overrides if not override.is_hydra_override()]
    hydra = config.hydra
    hydra.overrides.hydra = [override.input_line for override in overrides if override.is_hydra_override()]
    hydra.overrides.task = [override.input_line for override in of_task]
    hydra.job.override_dirname = get_overrides_dirname(of_task, **hydra.job.config.override_dirname)


def task_part(config: DictConfig) -> DictConfig:
    """The configuration itself, from now on without Hydra's own part: what the task function gets."""
    with flag_override(config, ["struct", "readonly"], [False, False]):
        del config["hydra"]
    return config


def plain(config: DictConfig, without: Iterable[str], is_resolved: bool) -> dict[str, Any]:
    """The configuration in JSON's values, less Hydra's part and some keys.

    is_resolved: follow references; where one leads to what only the job knows, all stay as they are written.
    """
    try:
        values = OmegaConf.to_container(config, resolve=is_resolved)
    except OmegaConfBaseException:
        values = OmegaConf.to_container(config, resolve=False)
    kept = {key: value for key, value in cast(dict[str, Any], values).items() if key not in ("hydra", *without)}
    return cast(dict[str, Any], json.loads(json.dumps(kept, default=str)))


def digest(value: Any, length: int) -> str:
    """The first hex digits of a plain value's sha256."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:length]

"""Files and folders that a new run is to be built from: looked for before torch is loaded."""

import itertools
import os
from pathlib import Path

from esper.checks import did_you_mean, spelled
from esper.config.root import RunConfig
from esper.errors import ConfigError
from esper.files import check_source

_LOOKED_AT = 1_000  # names beside the one that is not there


def check_sources(config: RunConfig) -> None:
    """Raise ConfigError, with the key and the nearest name, where one is not there, or is nothing to read from."""
    for key, name in (*config.task.sources, *config.policy.sources):
        try:
            path = Path(name).expanduser()
            check_source(path)
        except FileNotFoundError as error:
            near = did_you_mean(path.name, _names(path.parent), f"{Path(name).parent / '{}'}")
            raise ConfigError(f"{key}={spelled(name)}: there is no such file or folder{near}") from error
        except OSError as error:
            raise ConfigError(f"{key}={spelled(name)}: {error.strerror or error}") from error
        except (ValueError, RuntimeError) as error:  # a null character; ~nobody
            raise ConfigError(f"{key}={spelled(name)}: expected a path") from error


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in itertools.islice(entries, _LOOKED_AT)]
    except OSError:
        return []

"""A command line that Hydra is to read."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from esper.config.explain import explain
from esper.errors import ConfigError, EsperError
from esper.sweep import JobError, SweepError


@contextmanager
def as_command_line(arguments: list[str], program: str = "run") -> Iterator[None]:
    """Inside, Hydra reads these, and what it says of bad input becomes an EsperError; program: see `groups`.

    It hands exceptions on, instead of printing them, only under HYDRA_FULL_ERROR.
    """
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [argv[0], *arguments], "1"
    try:
        yield
    except EsperError:
        raise
    except JobError as error:
        raise ConfigError(explain(error.reason, error.overrides, program)) from error
    except SweepError as error:
        raise ConfigError(str(error)) from error
    except Exception as error:  # what goes wrong in a job never gets here
        overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
        raise ConfigError(explain(error, overrides, program)) from error
    finally:
        sys.argv = argv
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error

"""The configuration of a run: one schema file a group, values in `conf/`, checked before anything heavy is loaded.

YAML (values and comments) -> schema (types) -> composed with overrides -> dataclasses -> their `__post_init__` (ranges,
and keys that depend on each other) -> registries that build by name. No configuration can choose what code runs.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esper.config.composing import compose, from_plain, read_config, to_plain
    from esper.config.root import RunConfig

__all__ = ["RunConfig", "compose", "from_plain", "read_config", "to_plain"]


def __getattr__(name: str) -> Any:  # Hydra is loaded by those who compose, not by those who read a schema
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("esper.config.root" if name == "RunConfig" else "esper.config.composing"), name)

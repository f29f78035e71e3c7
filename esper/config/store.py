"""Which schema stands behind which option."""

import warnings
from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from esper.config.options import VARIANTS, shipped
from esper.config.root import RunConfig
from esper.config.run_id import new_run_id
from esper.config.sweep_name import sweep_name
from esper.sweep import register as register_sweeps

VOLATILE = ("checkpoint", "name", "resume", "telemetry")  # what does not tell one job of a sweep from another


def register(preload: Sequence[str] = ()) -> None:
    """Make schemas, sweepers and the resolvers known to Hydra; safe to call again.

    preload: modules that nearly every job of a sweep needs.
    """
    register_sweeps(volatile=VOLATILE, preload=preload)
    # A user's file may be named as the part that it is about.
    warnings.filterwarnings("ignore", message=r"\s*'.*' is validated against ConfigStore schema with the same name")
    store_schema("schema", "run", RunConfig)
    files = shipped()
    for group, variants in VARIANTS.items():
        for name, schema in variants.items():
            store_schema(f"schema/{group}", name, schema)
            if name not in files[group]:
                store_schema(group, name, schema)
    OmegaConf.register_new_resolver("esper_run_id", new_run_id, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("esper_sweep_name", sweep_name, replace=True)


def store_schema(group: str, name: str, schema: type) -> None:
    """Make a schema known to Hydra, unless it is: to read all of them again is a tenth of composing."""
    known: Any = ConfigStore.instance().repo
    for part in (*group.split("/"), f"{name}.yaml"):
        known = known.get(part, {})
    if not known or OmegaConf.get_type(known.node) is not schema:
        ConfigStore.instance().store(group=group, name=name, node=schema)

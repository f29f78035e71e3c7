"""Which schema stands behind which option."""

import warnings
from collections.abc import Sequence

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from esper.config.options import VARIANTS, shipped
from esper.config.root import RunConfig
from esper.config.run_id import new_run_id
from esper.sweep import register as register_sweeps

VOLATILE = ("checkpoint", "name", "resume", "telemetry")  # what does not tell one job of a sweep from another


def register(preload: Sequence[str] = ()) -> None:
    """Make schemas, sweepers and the run-id resolver known to Hydra; safe to call again.

    preload: modules that nearly every job of a sweep needs.
    """
    register_sweeps(volatile=VOLATILE, preload=preload)
    # A user's file may be named as the part that it is about.
    warnings.filterwarnings("ignore", message=r"\s*'.*' is validated against ConfigStore schema with the same name")
    store = ConfigStore.instance()
    store.store(group="schema", name="run", node=RunConfig)
    files = shipped()
    for group, variants in VARIANTS.items():
        for name, schema in variants.items():
            store.store(group=f"schema/{group}", name=name, node=schema)
            if name not in files[group]:
                store.store(group=group, name=name, node=schema)
    OmegaConf.register_new_resolver("esper_run_id", new_run_id, use_cache=True, replace=True)

"""Which schema stands behind which option, and where the options lie."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from esper.config.host import HOSTS
from esper.config.policy import POLICIES
from esper.config.root import RunConfig
from esper.config.run_id import new_run_id
from esper.simic.rewards.config import REWARDS
from esper.sweep import register as register_sweeps
from esper.tasks.settings import TASKS

# Groups whose options differ in their keys: group -> name -> schema. All other groups have one schema (see RunConfig).
VARIANTS: dict[str, Mapping[str, type]] = {
    "host": HOSTS,
    "policy": POLICIES,
    "reward": REWARDS,
    "task": TASKS,
}
NO_GROUPS = ("forge", "suite")  # folders of conf/ that no run is composed of: see esper.forge, esper.config.suite
COMMON_GROUPS = ("telemetry",)  # of every program
Groups = dict[str, list[str]]

VOLATILE = ("checkpoint", "name", "resume", "telemetry")  # what does not tell one job of a sweep from another


def conf_dir() -> Path:
    """The folder of YAML files: inside an installed package, or at the root of a clone."""
    package = Path(__file__).resolve().parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def groups(program: str = "run") -> Groups:
    """Each config group and its options, in alphabetical order.

    program: of whose command line: python -m esper.run, or another that has groups of its own below conf/PROGRAM.
    """
    files = shipped(program)
    return {group: sorted({*names, *VARIANTS.get(group, ())}) for group, names in files.items()}


def shipped(program: str = "run") -> Groups:
    """Each config group and its options in conf/, as of `groups`: parts of a user's own have no file there."""
    own = [] if program == "run" else list((conf_dir() / program).iterdir())
    common = [conf_dir() / group for group in COMMON_GROUPS] if own else list(conf_dir().iterdir())
    folders = (folder for folder in (*common, *own) if folder.is_dir() and folder.name not in NO_GROUPS)
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in sorted(folders)}


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

"""What options there are, and where they lie; free of Hydra, which only composing needs."""

from collections.abc import Mapping
from pathlib import Path

from esper.config.host import HOSTS
from esper.config.policy import POLICIES
from esper.simic.rewards.config import REWARDS
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

"""What the folder of a sweep is called: as its runs are, less what differs from one to the next."""

import re

from omegaconf import DictConfig, OmegaConf

NAMELESS = "all"


def sweep_name(*, _root_: DictConfig) -> str:
    """Resolver: the configuration's `name` without the parts that come from a group that is swept.

    Of "${task.name}_${policy.name}" a sweep over policies keeps the task's name alone.
    """
    swept = OmegaConf.select(_root_, "hydra.sweeper.swept") or []
    written = str(OmegaConf.to_container(_root_)["name"])  # type: ignore[call-overload,index]
    kept = re.sub(r"\$\{(\w+)[^}]*\}", lambda found: "" if found[1] in swept else found[0], written)
    kept = kept if kept == written else re.sub(r"([._-])[._-]+", r"\1", kept.strip("._-"))
    return str(DictConfig({"name": kept}, parent=_root_)["name"]) or NAMELESS

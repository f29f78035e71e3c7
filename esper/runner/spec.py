"""A run that is wanted: what is known of it before anything is built, and whether it can train beside others."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from esper.config.composing import finish, to_plain
from esper.config.root import RunConfig
from esper.files import read_json
from esper.files.marks import newest_checkpoint
from esper.files.records import RUN_FILE

# What a member can carry by itself, or what only says how a run is shown and kept.
PER_MEMBER_KEYS = (
    "name",
    "seed",
    "controls",
    "blueprint",
    "gates",
    "policy",
    "reward",
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "optimizer.decay_share",
    "engine.members",
    "engine.governor",
    "checkpoint",
    "telemetry",
)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A configuration, its folder, and the command line's words for it; see `esper.runner.launch.start`."""

    config: RunConfig
    path: Path
    overrides: list[str] = field(default_factory=list)
    options: Mapping[str, str] = field(default_factory=dict)
    sweep: str | None = None

    @property
    def members(self) -> int:
        """Hosts that it trains at a time, controls included."""
        return self.config.engine.members * max(1 + self.config.has_twins, len(self.config.finals))

    @property
    def view(self) -> list[str]:
        """Overrides for how a run is shown, which a run that goes on takes from here."""
        telemetry = self.config.telemetry
        return [f"telemetry.console={telemetry.console}", f"telemetry.report={str(telemetry.report).lower()}"]

    def fusion_key(self) -> str | None:
        """Equal for runs that can train in one population, from where each of them stands.

        None for one whose policy learns first, on hosts of its own.
        """
        if self.config.policy.learns:
            return None
        common = to_plain(self.config)
        for key in PER_MEMBER_KEYS:
            _drop(common, key)
        return json.dumps([common, self._place()], sort_keys=True)

    def _place(self) -> Any:
        """Epoch of the last checkpoint and choice of the engine, where the run has begun already."""
        try:
            engine = read_json(self.path / RUN_FILE)["engine"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return [engine, newest_checkpoint(self.path) or 0]


def run_spec(composed: DictConfig, hydra: Any, folder: Path) -> RunSpec:
    """The run that a composed configuration, without Hydra's part, asks for in a folder. Raises ConfigError."""
    options = {group: str(name) for group, name in hydra.runtime.choices.items() if name and "/" not in group}
    return RunSpec(finish(composed), folder, list(hydra.overrides.task), options, hydra.sweeper.get("id"))


def _drop(plain: dict[str, Any], key: str) -> None:
    group, _, rest = key.partition(".")
    if rest:
        _drop(plain[group], rest)
    else:
        del plain[group]

"""Watches a network in a loop of one's own, and puts it back when its training goes wrong."""

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from esper.api.optimizer_groups import OptimizerGroups
from esper.engine.governor import Governor
from esper.engine.reports import Score
from esper.files import checked
from esper.files.shapes import Count
from esper.kasmina.in_place import SLOTS
from esper.leyline import GovernorConfig

_STATE = {
    "first_loss": (float, None),  # None: not known yet
    "best_score": (float, None),
    "rollbacks": Count(1_000_000),
    "snapshot_epoch": Count(1 << 31),
    "is_retired": bool,
}


class LoopGovernor:
    """By the rules of a run's governor; the loss that an explosion is measured by is that of the first epoch.

    `is_retired`: after the last rollback that is allowed, nothing grows any more.
    """

    def __init__(self, config: GovernorConfig, model: nn.Module) -> None:
        self.config = config
        self.is_retired = False
        self._model = model
        self._governor = Governor(config)
        self._governor.start({0: math.inf})
        (self._monitor,) = self._governor.monitors.values()
        self._monitor.best_score = -math.inf  # a loop's score may be anything
        self._kept: dict[str, Any] = {}

    @property
    def rollbacks(self) -> int:
        """So far."""
        return self._monitor.rollbacks

    def failure_reason(self, trained: Score | None, validated: Score) -> str | None:
        """What is wrong with the epoch, or None. Args: trained: None where the loop does not say."""
        if not all(bool(value.isfinite().all()) for value in self._own_values()):
            return "the network's weights are not finite"
        if not math.isfinite(validated.score):
            return "the score is not finite"
        trained_loss = 0.0 if trained is None else trained.loss
        reason = self._governor.failure_reason(0, trained_loss, validated.loss, validated.score)
        if reason is None and trained_loss > 0 and math.isinf(self._monitor.first_loss):
            self._monitor.first_loss = trained_loss
        return reason

    def keep(self, epoch: int, groups: OptimizerGroups | None, growth: Mapping[str, Any]) -> None:
        """Copy the network and the optimizer's state after this epoch, where that is due. Args: growth: kept along."""
        before = self._monitor.snapshot_epoch
        if before is not None and epoch - before < self.config.snapshot_every_epochs:
            return
        self._monitor.snapshot_epoch = epoch
        state = {} if groups is None else groups.optimizer.state_dict()["state"]
        self._kept = copy.deepcopy({"model": self._model.state_dict(), "optimizer": state, "growth": dict(growth)})

    def roll_back(self, groups: OptimizerGroups | None) -> tuple[int, dict[str, Any]]:
        """Put network and optimizer back to the last copy; rates stay as the loop's schedule has them.

        Returns: the copy's epoch, and what was kept along.
        """
        assert self._monitor.snapshot_epoch is not None
        kept = copy.deepcopy(self._kept)
        self._model.load_state_dict(kept["model"])  # and its seeds, which join the optimizer by it
        if groups is not None:
            now = groups.optimizer.state_dict()["param_groups"]
            groups.optimizer.load_state_dict({"state": kept["optimizer"], "param_groups": now})
        self._monitor.rollbacks += 1
        self.is_retired = self._monitor.rollbacks >= self.config.max_rollbacks
        return self._monitor.snapshot_epoch, kept["growth"]

    def state(self) -> dict[str, Any]:
        """All that decides what it does next: plain values, and the tensors of the last copy."""
        plain = {name: value if math.isfinite(value) else None for name, value in asdict(self._monitor).items()}
        return {**plain, "is_retired": self.is_retired, "kept": copy.deepcopy(self._kept)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. Raises: FormatError where it is none."""
        plain = checked({name: state[name] for name in _STATE}, _STATE, "governor")
        kept = {name: state["kept"][name] for name in self._kept}
        self._monitor.first_loss = math.inf if plain["first_loss"] is None else plain["first_loss"]
        self._monitor.best_score = -math.inf if plain["best_score"] is None else plain["best_score"]
        self._monitor.rollbacks, self._monitor.snapshot_epoch = plain["rollbacks"], plain["snapshot_epoch"]
        self.is_retired, self._kept = plain["is_retired"], copy.deepcopy(kept)

    def _own_values(self) -> list[Any]:
        """Parameters and buffers of the network itself; a seed that is not finite is cut out by its slot."""
        held = [*self._model.named_parameters(), *self._model.named_buffers()]
        return [value for name, value in held if not name.startswith(f"{SLOTS}.") and value.is_floating_point()]

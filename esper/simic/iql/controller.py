"""IQL at work: a host's slots are judged one by one, and the most promising deed is done."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from esper.errors import LearnerError
from esper.leyline import WAIT, Action, EpochReport, Operation, SimicAction
from esper.simic.iql.config import IQLPolicyConfig
from esper.simic.iql.model import IQL
from esper.simic.iql.slot_states import STATE_DIMS, SlotWatcher, legal_actions_of
from esper.tamiyo.settings import Catalogue

_OPERATIONS = {SimicAction.ADVANCE: Operation.ADVANCE, SimicAction.CULL: Operation.CULL}


class IQLController:
    """One action a member an epoch: in the slot, and of the kind, that is furthest above waiting there; else a wait.

    Above by value (the smaller of the twins' Q) or by the policy's log-probability, as `config.act_by` says. A value is
    trusted only where the records show the deed: among deeds that the policy finds likely enough (`config.support`). A
    model without a policy goes by value alone. Nothing is drawn.

    Source: Fujimoto et al. 2019, "Benchmarking batch deep reinforcement learning algorithms", arXiv:1910.01708, for
    the threshold on likelihood.

    Args:
        catalogue: (blueprint, parameters) of everything that fits the host; a family without any is never planted.

    Raises: LearnerError for a model of other states or actions than a slot's.
    """

    def __init__(self, model: IQL, catalogue: Catalogue, config: IQLPolicyConfig | None = None) -> None:
        self.config = config or IQLPolicyConfig()
        if model.state_dim not in STATE_DIMS or model.action_dim != len(SimicAction):
            raise LearnerError(
                f"The IQL model takes {model.state_dim} features and chooses among {model.action_dim} actions; "
                f"expected {' or '.join(map(str, STATE_DIMS))} features of a slot and {len(SimicAction)} actions."
            )
        self.model = model
        self._by_policy = model.has_policy and self.config.act_by == "policy"
        known = {name for name, _ in catalogue}
        wanted = {
            SimicAction.GERMINATE_CONV: self.config.conv_blueprints,
            SimicAction.GERMINATE_ATTENTION: self.config.attention_blueprints,
            SimicAction.GERMINATE_NORM: self.config.norm_blueprints,
            SimicAction.GERMINATE_DEPTHWISE: self.config.depthwise_blueprints,
        }
        planted = {family: [name for name in names if name in known] for family, names in wanted.items()}
        self._blueprints = {family: names[0] for family, names in planted.items() if names}
        self._watchers: dict[int, SlotWatcher] = {}

    def act(self, reports: Sequence[EpochReport]) -> list[Action]:
        """One action a report, in the same order, each with its reason."""
        actions = [WAIT] * len(reports)
        cases = [
            (index, slot, state, legal_actions_of(report.slots[slot], self._blueprints))
            for index, report in enumerate(reports)
            if not (report.is_twin or report.retired)
            for slot, state in self._watch(report).items()
        ]
        if not cases:
            return actions
        best: dict[int, float] = {}
        for (index, slot, _, _), (action, margin) in zip(cases, self._judge(cases), strict=True):
            if margin > best.get(index, 0.0):
                best[index] = margin
                actions[index] = self._action(action, slot, margin)
        return actions

    def state_dict(self) -> dict[str, Any]:
        """The course of every member, as plain JSON values; the model is kept elsewhere."""
        return {"members": {str(member): watcher.tracker.state_dict() for member, watcher in self._watchers.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        self._watchers = {}
        for member, course in state["members"].items():
            self._watcher(int(member)).tracker.load_state_dict(course)

    def _watcher(self, member: int) -> SlotWatcher:
        return self._watchers.setdefault(member, SlotWatcher(self.model.state_dim))

    def _watch(self, report: EpochReport) -> dict[str, list[float]]:
        return self._watcher(report.member).states(report)

    def _judge(self, cases: Sequence[tuple[int, str, list[float], list[bool]]]) -> list[tuple[SimicAction, float]]:
        """The best deed in every case, and how far above waiting it is (-inf where none is legal)."""
        states, legal = torch.tensor([case[2] for case in cases]), torch.tensor([case[3] for case in cases])
        wait = SimicAction.WAIT.value
        scores = self.model.log_policy(states, legal) if self._by_policy else self.model.q_values(states)
        deeds = legal.clone().to(scores.device)
        deeds[:, wait] = False
        if self.model.has_policy and not self._by_policy:
            likely = self.model.log_policy(states, legal).masked_fill(~deeds, -torch.inf)
            deeds &= likely >= likely.max(1, keepdim=True).values + math.log(max(self.config.support, 1e-30))
        best, numbers = scores.masked_fill(~deeds, -torch.inf).max(1)
        margins = (best - scores[:, wait]).tolist()
        return [(SimicAction(number), margin) for number, margin in zip(numbers.tolist(), margins, strict=True)]

    def _action(self, action: SimicAction, slot: str, margin: float) -> Action:
        reason = f"{action.name.lower()} is {margin:.2g} {'log-odds' if self._by_policy else 'in value'} above waiting"
        if action in _OPERATIONS:
            return Action(_OPERATIONS[action], slot, reason=reason)
        return Action(Operation.GERMINATE, slot, self._blueprints[action], self.config.blend, reason)

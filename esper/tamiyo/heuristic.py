"""Growth by rule: plant early, blend what learns, keep what helps, prune what doesn't."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from esper.errors import ConfigError
from esper.leyline import WAIT, Action, EpochReport, Operation
from esper.leyline.protocols import BlueprintChooser
from esper.tamiyo.heuristic_config import HeuristicPolicyConfig
from esper.tamiyo.settings import POLICIES, Catalogue
from esper.tamiyo.signals import SignalTracker
from esper.tamiyo.slot_memory import SlotMemory
from esper.tamiyo.slot_rules import Case, SlotRules


@dataclass(slots=True)
class _MemberMemory:
    tracker: SignalTracker
    slots: dict[str, SlotMemory] = field(default_factory=dict)


class HeuristicTamiyo:
    """One action a member an epoch, by rule; it only asks, gates decide.

    A member whose new episode begins (a report of epoch 0) is seen afresh; the curriculum goes on learning.

    Args:
        catalogue: (blueprint, parameters) of everything that fits the host's topology; nothing else is ever planted.
        chooser: the curriculum, shared by all members; needed where the settings ask for one, unused otherwise.

    Raises:
        ConfigError: the settings ask for a curriculum, and there is none.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        config: HeuristicPolicyConfig | None = None,
        chooser: BlueprintChooser | None = None,
    ) -> None:
        self.config = config or HeuristicPolicyConfig()
        if self.config.curriculum and chooser is None:
            raise ConfigError("policy.curriculum=true: the heuristic was handed none; use policy.curriculum=false")
        self._chooser = chooser if self.config.curriculum else None
        parameters = dict(catalogue)
        preferred = [name for name in self.config.preferred_blueprints if name in parameters]
        others = sorted(set(parameters) - set(preferred), key=lambda name: (parameters[name], name))
        self._rules = SlotRules(self.config, preferred + others, parameters, self._chooser)
        self._members: dict[int, _MemberMemory] = {}

    def act(self, reports: Sequence[EpochReport]) -> list[Action]:
        """One action a report, in the same order, each with its reason."""
        for report in reports:  # all, before anyone decides: what one member has found out serves every other at once
            self._observe(report)
        return [WAIT if report.is_twin or report.retired else self._decide(report) for report in reports]

    def state_dict(self) -> dict[str, Any]:
        """What is remembered of every member, and what the curriculum has learned, as plain JSON values."""
        return {
            "curriculum": self._chooser.state_dict() if self._chooser else None,
            "members": {
                str(member): {
                    "signals": memory.tracker.state_dict(),
                    "slots": {slot: seed.to_dict() for slot, seed in memory.slots.items()},
                }
                for member, memory in self._members.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        if self._chooser:
            self._chooser.load_state_dict(state["curriculum"])
        self._members = {}
        for member, plain in state["members"].items():
            memory = self._memory(int(member))
            memory.tracker.load_state_dict(plain["signals"])
            memory.slots = {slot: SlotMemory.from_dict(seed) for slot, seed in plain["slots"].items()}

    def _memory(self, member: int) -> _MemberMemory:
        return self._members.setdefault(member, _MemberMemory(SignalTracker(self.config.plateau_threshold)))

    def _observe(self, report: EpochReport) -> None:
        """Take in a report, and let the curriculum know what became of seeds."""
        if report.is_twin:
            return
        if report.retired or report.epoch == 0:
            self._forget(report.member)
        if report.retired:
            return
        memory = self._memory(report.member)
        memory.tracker.update(report)
        for slot, seed in report.slots.items():
            outcome = memory.slots.setdefault(slot, SlotMemory()).observe(seed, self.config.min_contribution)
            if outcome and self._chooser:
                self._chooser.record_outcome(outcome.blueprint, outcome.is_fossil, outcome.reward)

    def _forget(self, member: int) -> None:
        """A member has ended its episode: what its seeds were worth will not be known."""
        memory = self._members.pop(member, None)
        for slot in memory.slots.values() if memory else ():
            if slot.is_on_trial and self._chooser:
                self._chooser.abandon_trial(slot.blueprint)

    def _decide(self, report: EpochReport) -> Action:
        memory = self._memory(report.member)
        signals = memory.tracker.signals
        cases = [Case(slot, seed, memory.slots[slot], signals, report) for slot, seed in report.slots.items()]
        wishes = [wish for case in cases if (wish := self._rules.wish(case)) is not None]
        if not wishes:
            return WAIT
        _, action = min(wishes, key=lambda wish: (wish[0], memory.slots[wish[1].slot].asked))
        chosen = memory.slots[action.slot]
        if action.operation is Operation.GERMINATE:
            chosen.planted(action.blueprint)
            if self._chooser:
                self._chooser.start_trial(action.blueprint)
        elif action.operation is Operation.ADVANCE:
            chosen.asked += 1
        return action


@POLICIES.register("heuristic", HeuristicPolicyConfig)
def build_heuristic(
    config: HeuristicPolicyConfig, catalogue: Catalogue, chooser: BlueprintChooser | None = None
) -> HeuristicTamiyo:
    """The heuristic; with the curriculum, where it asks for one."""
    return HeuristicTamiyo(catalogue, config, chooser)

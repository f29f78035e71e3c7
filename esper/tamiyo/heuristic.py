"""Growth by rule: plant early, blend what learns, keep what helps, prune what doesn't."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from esper.errors import ConfigError
from esper.leyline import WAIT, Action, EpochReport, Operation, SeedStage, SeedStateReport, is_active_stage
from esper.leyline.protocols import BlueprintChooser
from esper.tamiyo.settings import POLICIES, Catalogue, PolicyConfig, check_blend, check_within
from esper.tamiyo.signals import SignalTracker, TrainingSignals
from esper.tamiyo.slot_memory import SlotMemory

# Of convolutions, of transformers, of linear layers: a host's catalogue has those of one kind.
_PREFERRED = ("conv_enhance", "conv_light", "depthwise", "mlp", "mlp_small", "hidden", "gated")


@dataclass(kw_only=True)
class HeuristicPolicyConfig(PolicyConfig):
    """The heuristic's knobs; times in epochs, accuracies and contributions in points.

    preferred_blueprints: planted first, in this order, where the host's catalogue has them (others are passed over);
    the rest of the catalogue follows from the fewest parameters up. blending_epochs: how long a blend is expected to
    take, as no seed is planted or blended with too few epochs left. probation_epochs: good epochs in a row that earn a
    place for good. cull_patience_epochs: harmful epochs in a row that cost it. curriculum: what is planted follows from
    what became of the seeds of all members (UCB1), not from the order; exploration_weight, complexity_penalty: on the
    scale of its reward, 1 for a fossil worth 50 points.
    """

    name: str = "heuristic"
    blend: str = "sigmoid"
    preferred_blueprints: list[str] = field(default_factory=lambda: list(_PREFERRED))
    first_plant_epoch: int = 2
    max_live_seeds: int = 3
    min_training_epochs: int = 3
    max_training_epochs: int = 8
    min_gradient_health: float = 0.5
    blending_epochs: int = 3
    probation_epochs: int = 2
    max_probation_epochs: int = 8
    min_contribution: float = 0.0
    cull_patience_epochs: int = 3
    plateau_threshold: float = 0.5
    plateau_patience_epochs: int = 3
    curriculum: bool = False
    exploration_weight: float = 0.3
    complexity_penalty: float = 0.1

    def __post_init__(self) -> None:
        check_blend("blend", self.blend)
        for key in ("first_plant_epoch", "max_live_seeds", "probation_epochs", "cull_patience_epochs"):
            check_within(key, getattr(self, key), 1, 1_000_000)
        for key in ("min_training_epochs", "blending_epochs", "plateau_patience_epochs"):
            check_within(key, getattr(self, key), 0, 1_000_000)
        check_within("min_gradient_health", self.min_gradient_health, 0.0, 1.0)
        check_within("min_contribution", self.min_contribution, 0.0, 100.0)
        check_within("plateau_threshold", self.plateau_threshold, 0.0, 100.0)
        for key in ("exploration_weight", "complexity_penalty"):
            check_within(key, getattr(self, key), 0.0, 1_000_000)
        for low, high in (("min_training_epochs", "max_training_epochs"), ("probation_epochs", "max_probation_epochs")):
            if not getattr(self, low) < getattr(self, high):
                raise ConfigError(
                    f"policy.{high}={getattr(self, high)}: expected more than policy.{low}={getattr(self, low)}"
                )

    @property
    def life_epochs(self) -> int:
        """From planting to fossil, at best; the epoch of planting is the first of training."""
        return self.min_training_epochs + self.blending_epochs + self.probation_epochs


@dataclass(slots=True)
class _MemberMemory:
    tracker: SignalTracker
    slots: dict[str, SlotMemory] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Case:
    """One slot as it stands, with all there is to judge it by."""

    slot: str
    seed: SeedStateReport
    memory: SlotMemory
    signals: TrainingSignals
    report: EpochReport


# The most urgent wish of the epoch is asked for: prune, then promote, then plant, then ask again what was refused.
_PRUNE, _PROMOTE, _PLANT, _ASK_AGAIN = range(4)
_Wish = tuple[int, Action]


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
        self._parameters = dict(catalogue)
        preferred = [name for name in self.config.preferred_blueprints if name in self._parameters]
        others = sorted(set(self._parameters) - set(preferred), key=lambda name: (self._parameters[name], name))
        self._blueprints = preferred + others
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
        cases = [_Case(slot, seed, memory.slots[slot], signals, report) for slot, seed in report.slots.items()]
        wishes = [wish for case in cases if (wish := self._wish(case)) is not None]
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

    def _wish(self, case: _Case) -> _Wish | None:
        """What this slot would have done, and how urgently."""
        seed, harmful = case.seed, case.memory.bad_epochs
        if is_active_stage(seed.stage) and not seed.is_healthy:
            return _cull(case, "unhealthy")
        if harmful >= self.config.cull_patience_epochs:
            return _cull(case, f"harmful for {harmful} epochs, last {seed.contribution:+.1f} points")
        match seed.stage:
            case SeedStage.DORMANT:
                return self._wish_planting(case)
            case SeedStage.TRAINING:
                return self._wish_blending(case)
            case SeedStage.PROBATIONARY:
                return self._wish_fossil(case)
        return None

    def _wish_planting(self, case: _Case) -> _Wish | None:
        config, report = self.config, case.report
        live = sum(is_active_stage(seed.stage) for seed in report.slots.values())
        too_early = report.epoch + 1 < config.first_plant_epoch
        too_late = report.max_epochs - report.epoch < config.life_epochs
        if too_early or too_late or live >= config.max_live_seeds or not self._blueprints:
            return None
        blueprint, reason = self._choose(case)
        return _PLANT, Action(Operation.GERMINATE, case.slot, blueprint, config.blend, reason)

    def _choose(self, case: _Case) -> tuple[str, str]:
        """What failed least in this slot: by curriculum, else by preference, or the largest on a plateau."""
        failures = case.memory.failures
        fewest = min(failures.get(name, 0) for name in self._blueprints)
        left = [name for name in self._blueprints if failures.get(name, 0) == fewest]
        reason = f"after {', '.join(failures)} failed here" if failures else "empty slot"
        if self._chooser:
            return self._chooser.select_blueprint(left), f"{reason}; by curriculum"
        standstill = case.signals.plateau_epochs
        if failures and standstill >= self.config.plateau_patience_epochs:
            largest = max(left, key=lambda name: self._parameters[name])
            return largest, f"{reason}; no progress for {standstill} epochs"
        return left[0], reason

    def _wish_blending(self, case: _Case) -> _Wish | None:
        config, seed = self.config, case.seed
        if seed.epochs_in_stage >= config.max_training_epochs:
            return _cull(case, f"not ready after {seed.epochs_in_stage} epochs of training")
        learns = seed.gradient_norm > 0 and seed.gradient_health >= config.min_gradient_health
        in_time = case.report.max_epochs - case.report.epoch >= config.blending_epochs
        if seed.epochs_in_stage < config.min_training_epochs or not learns or not in_time:
            return None
        return _advance(case, f"trained {seed.epochs_in_stage} epochs, gradient health {seed.gradient_health:.2f}")

    def _wish_fossil(self, case: _Case) -> _Wish | None:
        seed, helpful = case.seed, case.memory.good_epochs
        if seed.contribution is None:
            return None
        if helpful >= self.config.probation_epochs:
            return _advance(case, f"helped for {helpful} epochs, last {seed.contribution:+.1f} points")
        if seed.epochs_in_stage >= self.config.max_probation_epochs:
            return _cull(case, f"no clear gain in {seed.epochs_in_stage} epochs of probation")
        return None


def _advance(case: _Case, reason: str) -> _Wish:
    return _ASK_AGAIN if case.memory.asked else _PROMOTE, Action(Operation.ADVANCE, case.slot, reason=reason)


def _cull(case: _Case, reason: str) -> _Wish:
    return _PRUNE, Action(Operation.CULL, case.slot, reason=reason)


@POLICIES.register("heuristic", HeuristicPolicyConfig)
def build_heuristic(
    config: HeuristicPolicyConfig, catalogue: Catalogue, chooser: BlueprintChooser | None = None
) -> HeuristicTamiyo:
    """The heuristic; with the curriculum, where it asks for one."""
    return HeuristicTamiyo(catalogue, config, chooser)

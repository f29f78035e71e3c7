"""The heuristic's rules for one slot: what is to be done there, and how urgently."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from esper.leyline import Action, EpochReport, Operation, SeedStage, SeedStateReport, is_active_stage
from esper.leyline.protocols import BlueprintChooser
from esper.tamiyo.heuristic_config import HeuristicPolicyConfig
from esper.tamiyo.signals import TrainingSignals
from esper.tamiyo.slot_memory import SlotMemory


@dataclass(frozen=True, slots=True)
class Case:
    """One slot as it stands, with all there is to judge it by."""

    slot: str
    seed: SeedStateReport
    memory: SlotMemory
    signals: TrainingSignals
    report: EpochReport


# The most urgent wish of the epoch is asked for: prune, then promote, then plant, then ask again what was refused.
_PRUNE, _PROMOTE, _PLANT, _ASK_AGAIN = range(4)
Wish = tuple[int, Action]


class SlotRules:
    """Judges slots one by one; the blueprints come in the order in which they are tried, with their parameters."""

    def __init__(
        self,
        config: HeuristicPolicyConfig,
        blueprints: Sequence[str],
        parameters: Mapping[str, int],
        chooser: BlueprintChooser | None,
    ) -> None:
        self.config = config
        self._blueprints, self._parameters, self._chooser = blueprints, parameters, chooser

    def wish(self, case: Case) -> Wish | None:
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

    def _wish_planting(self, case: Case) -> Wish | None:
        config, report = self.config, case.report
        live = sum(is_active_stage(seed.stage) for seed in report.slots.values())
        too_early = report.epoch + 1 < config.first_plant_epoch
        too_late = report.max_epochs - report.epoch < config.life_epochs
        if too_early or too_late or live >= config.max_live_seeds or not self._blueprints:
            return None
        blueprint, reason = self._choose(case)
        return _PLANT, Action(Operation.GERMINATE, case.slot, blueprint, config.blend, reason)

    def _choose(self, case: Case) -> tuple[str, str]:
        """What failed least in this slot: by curriculum, else by preference, or the largest on a plateau."""
        failures = case.memory.failures
        fewest = min(failures.get(name, 0) for name in self._blueprints)
        left = [name for name in self._blueprints if failures.get(name, 0) == fewest]
        reason = f"after {', '.join(failures)} failed here" if failures else "the slot was empty"
        if self._chooser:
            return self._chooser.select_blueprint(left), f"{reason}; by curriculum"
        standstill = case.signals.plateau_epochs
        if failures and standstill >= self.config.plateau_patience_epochs:
            largest = max(left, key=lambda name: self._parameters[name])
            return largest, f"{reason}; no progress for {standstill} epochs"
        return left[0], reason

    def _wish_blending(self, case: Case) -> Wish | None:
        config, seed = self.config, case.seed
        if seed.epochs_in_stage >= config.max_training_epochs:
            return _cull(case, f"not ready after {seed.epochs_in_stage} epochs of training")
        learns = seed.gradient_norm > 0 and seed.gradient_health >= config.min_gradient_health
        in_time = case.report.max_epochs - case.report.epoch >= config.blending_epochs
        if seed.epochs_in_stage < config.min_training_epochs or not learns or not in_time:
            return None
        return _advance(case, f"trained {seed.epochs_in_stage} epochs, gradient health {seed.gradient_health:.2f}")

    def _wish_fossil(self, case: Case) -> Wish | None:
        seed, helpful = case.seed, case.memory.good_epochs
        if seed.contribution is None:
            return None
        if helpful >= self.config.probation_epochs:
            return _advance(case, f"helped for {helpful} epochs, last {seed.contribution:+.1f} points")
        if seed.epochs_in_stage >= self.config.max_probation_epochs:
            return _cull(case, f"no clear gain in {seed.epochs_in_stage} epochs of probation")
        return None


def _advance(case: Case, reason: str) -> Wish:
    return _ASK_AGAIN if case.memory.asked else _PROMOTE, Action(Operation.ADVANCE, case.slot, reason=reason)


def _cull(case: Case, reason: str) -> Wish:
    return _PRUNE, Action(Operation.CULL, case.slot, reason=reason)

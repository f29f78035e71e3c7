"""A seed's life in its slot: what a controller may ask for, and what each epoch's end brings."""

from dataclasses import dataclass

from torch import Tensor, nn

from esper.checks import is_number, positive, require, whole
from esper.errors import LifecycleError
from esper.kasmina.blending import AlphaSchedule
from esper.kasmina.events import gate_evaluated, stage_changed
from esper.kasmina.gates import QualityGates
from esper.kasmina.state import SeedState
from esper.leyline import ADVANCES, CULLABLE, GateResult, SeedStage, TelemetryEvent


@dataclass(frozen=True, kw_only=True)
class SlotConfig:
    """How seeds live in a slot. Blending and culling are counted in training steps (minibatches)."""

    blending_steps: int = 10
    cull_steps: int = 10
    embargo_epochs: int = 1
    isolate_gradients: bool = True
    max_ratio: float = 1.0  # bound of a seed's change to the features, over the norm of the features

    def __post_init__(self) -> None:
        for name in ("blending_steps", "cull_steps", "embargo_epochs"):
            whole(name, getattr(self, name), 1)
        positive("max_ratio", self.max_ratio)


class SlotLifecycle(nn.Module):
    """Holds a seed and moves it through its stages.

    `seed_is_finite` says, without waiting for the device, whether every output since the last epoch's end was finite.
    """

    seed: nn.Module | None
    gate: nn.Module | None

    def __init__(self, slot_id: str, config: SlotConfig) -> None:
        super().__init__()
        self.slot_id = slot_id
        self.config = config
        self.isolate_gradients = config.isolate_gradients
        self.hold(None, None, None)

    def hold(self, state: SeedState | None, seed: nn.Module | None, gate: nn.Module | None) -> None:
        """Put this seed into the slot, in the place of any other; all None empties it."""
        self.state = state
        self.register_module("seed", seed)
        self.register_module("gate", gate)
        self.bypass = False
        self.seed_is_finite: Tensor | bool = True

    def prune(self) -> None:
        """Drop the modules that the state's stage no longer has (the state may have moved by itself)."""
        if self.state is None or not self.state.has_seed:
            self.seed = None
        if self.state is None or not self.state.has_gate:
            self.gate = None

    @property
    def stage(self) -> SeedStage:
        """The seed's stage; DORMANT for an empty slot."""
        return SeedStage.DORMANT if self.state is None else self.state.stage

    @property
    def alpha(self) -> float:
        """The seed's share of the output, 0 to 1."""
        return 0.0 if self.state is None else self.state.alpha

    @property
    def blend_algorithm_id(self) -> str:
        """How the seed blends in; empty for an empty slot."""
        return "" if self.state is None else self.state.blend_algorithm_id

    @property
    def alpha_schedule(self) -> AlphaSchedule | None:
        """The ramp under way: up while BLENDING, down while CULLED, else None."""
        return None if self.state is None else self.state.alpha_schedule

    def alpha_at(self, step: int) -> float:
        """Alpha `step` training steps from now; nothing moves."""
        return 0.0 if self.state is None else self.state.alpha_at(step)

    def step(self, n: int = 1) -> None:
        """Count n training steps: the ramp under way, if any, moves on."""
        if self.state is not None:
            self.state.step(n)

    def leaks(self) -> bool:
        """Whether gradient reaches what is upstream of the slot through the seed."""
        raise NotImplementedError

    def start_blending(self, total_steps: int) -> None:
        """Begin to blend, over `total_steps` training steps, or begin again; no gate is asked.

        A seed that was just planted enters TRAINING and leaves it in the same moment, both in its history.

        Raises: LifecycleError from a stage that BLENDING cannot follow; ConfigError unless total_steps is a whole
        number, 1 or more.
        """
        whole("total_steps", total_steps, 1)
        if self.state is None:
            raise LifecycleError(f"slot {self.slot_id!r} has nothing to blend: germinate a seed first")
        if self.stage is SeedStage.GERMINATED:
            self.state.transition(SeedStage.TRAINING)
        if self.stage is not SeedStage.BLENDING:
            self.state.transition(SeedStage.BLENDING)
        self.state.alpha = 0.0
        self.state.start_ramp(total_steps)

    def begin_training(self, gates: QualityGates) -> list[TelemetryEvent]:
        """Let a planted seed train in the epoch that is about to start, and not only from the next one on (G1)."""
        if self.state is None or self.stage is not SeedStage.GERMINATED:
            raise LifecycleError(f"slot {self.slot_id!r} has nothing newly planted: it is {self.stage.name}")
        return self._promote(self.state, SeedStage.TRAINING, "planted", gates)

    def advance(self, gates: QualityGates) -> GateResult:
        """Try the step that a controller may ask for: TRAINING to BLENDING, or PROBATIONARY to FOSSILIZED.

        Returns: the gate's verdict; on a pass the step is done. Raises: LifecycleError in any other stage.
        """
        state, target = self.state, ADVANCES.get(self.stage)
        if state is None or target is None:
            raise LifecycleError(
                f"slot {self.slot_id!r} cannot advance from {self.stage.name}: "
                "only a seed in TRAINING or PROBATIONARY waits for a decision"
            )
        result = gates.check_gate(state, target)
        if result.passed:
            self._enter(state, target)
        return result

    def cull(self, reason: str = "") -> list[TelemetryEvent]:
        """Give the seed up: alpha ramps down to 0, then the seed is removed (at once when alpha is 0 already).

        Raises: LifecycleError when there is no seed, or it is past culling (a fossil is part of the host).
        """
        state = self.state
        if state is None or state.stage not in CULLABLE:
            allowed = ", ".join(stage.name for stage in sorted(CULLABLE))
            raise LifecycleError(f"slot {self.slot_id!r} cannot cull in {self.stage.name}: a seed may be in {allowed}")
        events = self._enter(state, SeedStage.CULLED, reason)
        state.start_ramp(self.config.cull_steps)
        return events if state.alpha > 0.0 else events + self._enter(state, SeedStage.EMBARGOED, "removed")

    def end_epoch(self, val_accuracy: float, gates: QualityGates) -> list[TelemetryEvent]:
        """Count an epoch that ended at this validation accuracy (percent), and do what is due without a controller.

        A planted seed begins to train, a finished blend goes on probation, an unhealthy seed is culled (at once if its
        output is not finite), a culled one leaves, and the slot falls dormant again. Raises: ConfigError where the
        accuracy is no finite number.
        """
        require(is_number(val_accuracy), "val_accuracy", val_accuracy, "a number: percent of validation accuracy")
        state = self.state
        if state is None:
            return []
        state.metrics.record_accuracy(val_accuracy)
        state.metrics.isolation_violations += state.stage is SeedStage.TRAINING and self.leaks()
        is_finite, self.seed_is_finite = bool(self.seed_is_finite), True
        state.is_healthy &= is_finite
        if not is_finite and state.stage is not SeedStage.FOSSILIZED:
            state.alpha = 0.0  # its output is cut out already: there is nothing to ramp down
        if not state.is_healthy and state.stage in CULLABLE:
            return self.cull("unhealthy" if is_finite else "output not finite")
        epochs = state.metrics.epochs_in_current_stage
        match state.stage:
            case SeedStage.GERMINATED if not state.is_paused:
                return self._promote(state, SeedStage.TRAINING, "planted", gates)
            case SeedStage.BLENDING if not state.is_paused and state.alpha >= 1.0:
                return self._promote(state, SeedStage.PROBATIONARY, "blended in", gates)
            case SeedStage.CULLED if state.alpha <= 0.0:
                return self._enter(state, SeedStage.EMBARGOED, "removed")
            case SeedStage.EMBARGOED if epochs >= self.config.embargo_epochs:
                return self._enter(state, SeedStage.RESETTING, "embargo over")
            case SeedStage.RESETTING:
                events = self._enter(state, SeedStage.DORMANT, "free again")
                self.hold(None, None, None)
                return events
            case _:
                return []

    def _promote(self, state: SeedState, target: SeedStage, reason: str, gates: QualityGates) -> list[TelemetryEvent]:
        result = gates.check_gate(state, target)
        verdict = gate_evaluated(state, result, target)
        return [verdict, *(self._enter(state, target, reason) if result.passed else [])]

    def _enter(self, state: SeedState, stage: SeedStage, reason: str = "") -> list[TelemetryEvent]:
        state.transition(stage)
        self.prune()
        return stage_changed(state, reason)

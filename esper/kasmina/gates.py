"""The quality gates a seed must pass, with their reasons."""

from esper.errors import LifecycleError
from esper.kasmina.state import SeedState
from esper.leyline import GateConfig, GateLevel, GateResult, SeedStage

_FULL_SCORE_POINTS = 5.0  # points of accuracy that earn a score of 1
_LEVELS = {
    SeedStage.GERMINATED: (GateLevel.G0,),
    SeedStage.TRAINING: (GateLevel.G1,),
    SeedStage.BLENDING: (GateLevel.G2,),
    SeedStage.PROBATIONARY: (GateLevel.G3,),
    SeedStage.FOSSILIZED: (GateLevel.G4, GateLevel.G5),
}


class _Checks:
    """Collects one gate's checks."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: list[str] = []

    def add(self, is_met: bool, met: str, unmet: str) -> None:
        (self.passed if is_met else self.failed).append(met if is_met else unmet)

    def result(self, gate: GateLevel, score: float | None = None) -> GateResult:
        """The verdict; without a score of its own a gate scores the share of its checks that passed."""
        share = len(self.passed) / (len(self.passed) + len(self.failed))
        message = f"{gate.name} failed: {', '.join(self.failed)}" if self.failed else f"{gate.name} passed"
        return GateResult(gate, not self.failed, share if score is None else score, self.passed, self.failed, message)


class QualityGates:
    """Decides whether a seed may enter its next stage."""

    def __init__(self, config: GateConfig | None = None) -> None:
        self.config = config or GateConfig()

    def check_gate(self, state: SeedState, target_stage: SeedStage) -> GateResult:
        """Check every gate before the stage: the first that fails, else the last.

        Raises: LifecycleError when no gate guards the stage.
        """
        if target_stage not in _LEVELS:
            guarded = ", ".join(stage.name for stage in _LEVELS)
            raise LifecycleError(f"no gate guards {SeedStage(target_stage).name}: gates guard {guarded}")
        for level in _LEVELS[target_stage]:
            result = self._check(level, state)
            if not result.passed:
                break
        return result

    def _check(self, level: GateLevel, state: SeedState) -> GateResult:
        match level:
            case GateLevel.G0:
                return self._check_g0(state)
            case GateLevel.G1:
                return self._check_g1(state)
            case GateLevel.G2:
                return self._check_g2(state)
            case GateLevel.G3:
                return self._check_g3(state)
            case GateLevel.G4:
                return self._check_g4(state)
            case GateLevel.G5:
                return self._check_g5(state)

    def _check_g0(self, state: SeedState) -> GateResult:
        checks = _Checks()
        checks.add(bool(state.seed_id), "seed_id_ok", "seed_id_missing")
        checks.add(bool(state.blueprint_id), "blueprint_id_ok", "blueprint_id_missing")
        return checks.result(GateLevel.G0)

    def _check_g1(self, state: SeedState) -> GateResult:
        checks = _Checks()
        checks.add(state.stage is SeedStage.GERMINATED, "planted", f"not_planted_{state.stage.name}")
        checks.add(state.is_healthy, "healthy", "unhealthy")
        return checks.result(GateLevel.G1)

    def _check_g2(self, state: SeedState) -> GateResult:
        config, metrics, checks = self.config, state.metrics, _Checks()
        improvement = metrics.improvement_since_stage_start
        checks.add(
            improvement >= config.min_training_improvement,
            f"global_improvement_{improvement:.2f}%",
            f"global_improvement_low_{improvement:.2f}%",
        )
        violations = metrics.isolation_violations
        checks.add(violations <= config.max_isolation_violations, "isolation_ok", f"isolation_violations_{violations}")
        epochs = metrics.epochs_in_current_stage
        checks.add(
            epochs >= config.min_training_epochs, f"seed_ready_{epochs}_epochs", f"seed_not_ready_{epochs}_epochs"
        )
        ratio = metrics.seed_gradient_norm_ratio
        checks.add(
            ratio >= config.min_gradient_ratio, f"seed_gradient_active_{ratio:.2f}", f"seed_gradient_low_{ratio:.2f}"
        )
        return checks.result(GateLevel.G2, _points_score(improvement))

    def _check_g3(self, state: SeedState) -> GateResult:
        checks = _Checks()
        is_blended = state.alpha >= self.config.min_blending_alpha
        checks.add(is_blended, f"alpha_{state.alpha:.2f}", f"alpha_low_{state.alpha:.2f}")
        checks.add(state.is_healthy, "healthy", "unhealthy")
        return checks.result(GateLevel.G3)

    def _check_g4(self, state: SeedState) -> GateResult:
        checks, epochs = _Checks(), state.metrics.epochs_in_current_stage
        is_served = epochs >= self.config.min_probation_epochs
        checks.add(is_served, f"probation_{epochs}_epochs", f"probation_short_{epochs}_epochs")
        checks.add(state.is_healthy, "healthy", "unhealthy")
        return checks.result(GateLevel.G4)

    def _check_g5(self, state: SeedState) -> GateResult:
        checks, contribution = _Checks(), state.metrics.counterfactual_contribution
        if contribution is None:
            checks.failed.append("contribution_unknown")
            return checks.result(GateLevel.G5)
        checks.add(
            contribution >= self.config.min_contribution,
            f"contribution_{contribution:.2f}%",
            f"contribution_low_{contribution:.2f}%",
        )
        return checks.result(GateLevel.G5, _points_score(contribution))


def _points_score(points: float) -> float:
    return min(1.0, points / _FULL_SCORE_POINTS) if points > 0 else 0.0

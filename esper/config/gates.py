"""Group `gates`: what a seed must show before each step of its life."""

from esper.checks import in_range
from esper.config.checks import all_required
from esper.leyline import GateConfig


@all_required
class RunGatesConfig(GateConfig):
    """The thresholds, checked."""

    def __post_init__(self) -> None:
        in_range("gates.min_training_improvement", self.min_training_improvement, -100, 100)
        in_range("gates.min_training_epochs", self.min_training_epochs, 0, 10_000)
        in_range("gates.max_isolation_violations", self.max_isolation_violations, 0, 1_000_000)
        in_range("gates.min_gradient_ratio", self.min_gradient_ratio, 0)
        in_range("gates.min_blending_alpha", self.min_blending_alpha, 0, 1)
        in_range("gates.min_probation_epochs", self.min_probation_epochs, 0, 10_000)
        in_range("gates.min_contribution", self.min_contribution, -100, 100)

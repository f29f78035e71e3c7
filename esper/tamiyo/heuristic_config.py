"""Configuration of the heuristic."""

from dataclasses import dataclass, field

from esper.errors import ConfigError
from esper.tamiyo.settings import PolicyConfig, check_blend, check_within

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

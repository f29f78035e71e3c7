"""Group `optimizer`: how the hosts' weights are trained."""

from dataclasses import asdict, dataclass

from esper.checks import in_range, positive
from esper.leyline import OptimizerConfig


@dataclass(kw_only=True)
class RunOptimizerConfig:
    """SGD reads `momentum`, AdamW `betas` and `eps`; the rest is common to both."""

    name: str
    learning_rate: float
    weight_decay: float
    clip_norm: float | None
    decay_share: float
    momentum: float
    betas: list[float]
    eps: float

    def __post_init__(self) -> None:
        in_range("optimizer.decay_share", self.decay_share, 0, 1)
        positive("optimizer.learning_rate", self.learning_rate, 1000)  # a run of which nothing can come is a mistake
        self.settings()

    def settings(self) -> OptimizerConfig:
        """What trains a member; raises ConfigError. The course of its learning rate is growth's."""
        own = asdict(self)
        del own["decay_share"]
        return OptimizerConfig(**own)

"""Group `optimizer`: how the hosts' weights are trained."""

from dataclasses import dataclass

from esper.config.checks import in_range, one_of, positive, require


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
        one_of("optimizer.name", self.name, ("sgd", "adamw"))
        positive("optimizer.learning_rate", self.learning_rate, 1000)
        in_range("optimizer.weight_decay", self.weight_decay, 0, 1000)
        if self.clip_norm is not None:
            positive("optimizer.clip_norm", self.clip_norm)
        in_range("optimizer.decay_share", self.decay_share, 0, 1)
        below_one = "from 0 to less than 1"
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, below_one)
        require(len(self.betas) == 2, "optimizer.betas", self.betas, "two numbers, such as [0.9,0.999]")
        for index, beta in enumerate(self.betas):
            require(0 <= beta < 1, f"optimizer.betas[{index}]", beta, below_one)
        positive("optimizer.eps", self.eps)

"""How weights are trained, as a configuration and whoever trains them say it."""

from dataclasses import dataclass

from esper.checks import in_range, is_number, one_of, positive, require

OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """SGD reads momentum, AdamW betas and eps.

    clip_norm: largest gradient norm of a member together with its seeds; a seed in isolation is clipped by itself.
    Raises: ConfigError, naming the key as a run has it, on a value that nothing could be trained with.
    """

    name: str = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        one_of("optimizer.name", self.name, OPTIMIZERS)
        in_range("optimizer.learning_rate", self.learning_rate, 0, 1000)
        in_range("optimizer.weight_decay", self.weight_decay, 0, 1000)
        if self.clip_norm is not None:
            positive("optimizer.clip_norm", self.clip_norm)
        _below_one("optimizer.momentum", self.momentum)
        is_pair = isinstance(self.betas, list | tuple) and len(self.betas) == 2
        require(is_pair, "optimizer.betas", self.betas, "two numbers, such as [0.9,0.999]")
        for index, beta in enumerate(self.betas):
            _below_one(f"optimizer.betas[{index}]", beta)
        positive("optimizer.eps", self.eps)
        object.__setattr__(self, "betas", tuple(self.betas))  # a configuration has a list


def _below_one(key: str, value: float) -> None:
    require(is_number(value) and 0 <= value < 1, key, value, "from 0 to less than 1")

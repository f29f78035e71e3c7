"""What a training may take; free of torch."""

from dataclasses import dataclass

from esper.checks import in_range, positive


@dataclass(kw_only=True)
class TrainingBudget:
    """Steps of AdamW under a warm-up and half a cosine.

    batch_size: windows a step, each as long as the model's context. learning_rate: at its peak.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def check(self, key: str) -> None:
        """Raise ConfigError, naming the key below `key`, where a value is out of its range."""
        in_range(f"{key}.steps", self.steps, 1, 10_000_000)
        in_range(f"{key}.batch_size", self.batch_size, 1, 65_536)
        positive(f"{key}.learning_rate", self.learning_rate, 1.0)
        in_range(f"{key}.weight_decay", self.weight_decay, 0.0, 10.0)
        positive(f"{key}.max_grad_norm", self.max_grad_norm)

"""What an evaluation measures: every metric's name, unit and meaning."""

from dataclasses import dataclass

from esper.checks import did_you_mean
from esper.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric. title, unit, decimals and scale: as tables show it; meaning: of what is stored, unscaled."""

    name: str
    title: str
    unit: str
    meaning: str
    decimals: int = 1
    scale: float = 1.0

    @property
    def is_accuracy(self) -> bool:
        """Whether it is in percent."""
        return self.name.endswith("accuracy")

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


_MEASURES = (
    Measure("test_accuracy", "test accuracy", "%", "accuracy on the test split (of a suite of hosts: distorted)"),
    Measure(
        "test_bits_per_byte", "test bits/byte", "", "of text alone: mean cross-entropy on the test split, in bits", 3
    ),
    Measure("val_accuracy", "validation accuracy", "%", "accuracy on the validation split after the last epoch"),
    Measure("parameters", "parameters", "", "of host and seeds at the end", 0),
    Measure("training_flops", "training", "GFLOPs", "three forward passes a sample, epoch by epoch; FLOPs", 2, 1e-9),
    Measure("planted", "planted", "", "seeds planted in a host"),
    Measure("fossilized", "fossilised", "", "of them, those that became part of it"),
    Measure("culled", "culled", "", "of them, those that were given up"),
    Measure("wall_s", "wall", "s", "seconds that the seed took, all its hosts together"),
)
MEASURES = {measure.name: measure for measure in _MEASURES}


def measure(name: str) -> Measure:
    """The metric of this name. Raises ConfigError with the nearest."""
    if name not in MEASURES:
        raise ConfigError(
            f"metric {name}: there is no such metric{did_you_mean(name, MEASURES)}\n  metrics: {', '.join(MEASURES)}"
        )
    return MEASURES[name]

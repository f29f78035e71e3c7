"""The measures of an evaluation: every metric's name, unit and meaning."""

from esper.checks import did_you_mean
from esper.errors import ConfigError
from esper.leyline import SCORE_KINDS
from esper.study.measure import Measure

_MEASURES = (
    *(
        Measure(
            f"test_{kind.name}",
            f"test {kind.title}",
            "%",
            f"{kind.title} on the test split (of a suite of hosts: distorted)",
            within=kind.within,
            better=1,
        )
        for kind in SCORE_KINDS
    ),
    Measure(
        "test_rmse", "test RMSE", "", "of a regression: error on the test split in the target's unit", 3, better=-1
    ),
    Measure(
        "test_bits_per_byte",
        "test bits/byte",
        "",
        "of text alone: mean cross-entropy on the test split, in bits",
        3,
        better=-1,
    ),
    *(
        Measure(
            f"val_{kind.name}",
            f"validation {kind.title}",
            "%",
            f"{kind.title} on the validation split after the last epoch",
            within=kind.within,
            better=1,
        )
        for kind in SCORE_KINDS
    ),
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

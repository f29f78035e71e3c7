"""How sure a mean is, told by drawing its values again."""

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from esper.nissa.statistics import Interval

FEWEST = 5  # values that an interval is given of: of three, it would hold the truth three times out of four
RESAMPLES = 10_000


def bootstrap_interval(values: Iterable[float], confidence: float = 0.95) -> Interval:
    """Mean and expanded percentile interval of the values; the same values always give the same one.

    The quantiles lie further out than those of the plain percentile interval, by as much as Student's t is wider than
    the normal: of ten normal values the plain one holds the truth in 90 cases of 100, this one in 95. Source:
    Hesterberg 2015, "What teachers should know about the bootstrap", arXiv:1411.5279.
    """
    from scipy.special import ndtr, stdtrit  # scipy.stats would take a second to import for the same numbers

    given = np.array(list(values), dtype=float)
    count = len(given)
    if count < FEWEST:
        return Interval(float(given.mean()) if count else None, None, None, count)
    tail = float(ndtr(math.sqrt(count / (count - 1)) * stdtrit(count - 1, (1 - confidence) / 2)))
    low, high = np.quantile(given[_drawn(count)].mean(axis=1), [tail, 1 - tail])
    return Interval(float(given.mean()), float(low), float(high), count)


@lru_cache(maxsize=8)
def _drawn(count: int) -> np.ndarray:
    """Which of so many values each resample has [RESAMPLES, count]."""
    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))

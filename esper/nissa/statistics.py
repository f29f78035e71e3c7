"""How sure a figure is, at 95% unless said otherwise: one interval for each kind of figure, whoever asks for it.

A mean or difference of independent values has Student's t-interval, a share Wilson's. What t has no formula for is
bootstrapped: what is measured over training runs and held-out seeds at once, interquartile means, and probabilities of
improvement. Source of those: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical
precipice".
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from esper.errors import EsperError
from esper.nissa.formatting import signed as with_sign

FEWEST = 3  # values that an interval is given of
_MORE_DECIMALS = 2
REPLICATES = 10_000  # of a bootstrap
_VALUES_AT_ONCE = 2**21  # of them, in memory

Statistic = Callable[..., np.ndarray]  # tables [..., R, S], of one policy each, to [...]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean of n values. `low` and `high` are None below three: of two values, the interval is wider than anything."""

    mean: float | None
    low: float | None
    high: float | None
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as written to the summary in run.json."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n}

    def text(self, decimals: int = 1, unit: str = "", signed: bool = False) -> str:
        """For people: "78.4% [76.9, 79.9]", "78.4% (n=1)" without one, or a dash for nothing measured.

        A bound that would read as zero has more decimals: on which side it lies is what one looks for.
        """
        if self.mean is None:
            return "-"

        def spelled(value: float, decimals: int) -> str:
            return with_sign(value, decimals) if signed else f"{value:.{decimals}f}"

        def bound(value: float) -> str:
            shown = (count for count in range(decimals, decimals + _MORE_DECIMALS + 1) if round(value, count))
            return spelled(value, next(shown, decimals))

        mean = f"{spelled(self.mean, decimals)}{unit}"
        if self.low is None or self.high is None:
            return f"{mean} (n={self.n})"
        return f"{mean} [{bound(self.low)}, {bound(self.high)}]"


def mean_interval(
    values: Iterable[float | None],
    confidence: float = 0.95,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """Mean and t-interval of the values that were measured (None and NaN are left out and not counted in n).

    within: what a value can be, as (0, 100) for an accuracy in percent; the interval is cut there.
    """
    measured = _measured(values)
    measured = measured[np.isfinite(measured)]
    if measured.size == 0:
        return Interval(None, None, None, 0)
    mean = float(measured.mean())
    if measured.size < FEWEST:
        return Interval(mean, None, None, int(measured.size))
    half = float(half_width(measured.std(ddof=1), measured.size, confidence))
    return Interval(mean, max(mean - half, within[0]), min(mean + half, within[1]), int(measured.size))


def paired_difference(
    first: Sequence[float | None], second: Sequence[float | None], confidence: float = 0.95
) -> Interval:
    """Mean and t-interval of first[i] - second[i]; a pair with a value missing is left out.

    Raises:
        EsperError: the two have different lengths, so that they cannot be pairs.
    """
    if len(first) != len(second):
        raise EsperError(
            f"A paired difference takes two lists of the same length, got {len(first)} and {len(second)} values."
        )
    return mean_interval((_measured(first) - _measured(second)).tolist(), confidence)


def unpaired_difference(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Interval:
    """Difference of two independent means with Welch's t-interval, which takes no variance for equal to another's.

    `n` is that of the smaller one; `low` and `high` are None where one has fewer than three values. Source: Welch 1947,
    "The generalization of Student's problem when several different population variances are involved".
    """
    one, two = np.array(first, dtype=float), np.array(second, dtype=float)
    smaller = min(one.size, two.size)
    if not smaller:
        return Interval(None, None, None, 0)
    mean = float(one.mean() - two.mean())
    if smaller < FEWEST:
        return Interval(mean, None, None, smaller)
    a, b = one.var(ddof=1) / one.size, two.var(ddof=1) / two.size
    if not a + b:
        return Interval(mean, mean, mean, smaller)
    freedom = (a + b) ** 2 / (a**2 / (one.size - 1) + b**2 / (two.size - 1))
    half = float(_t_quantile(freedom, confidence) * np.sqrt(a + b))
    return Interval(mean, mean - half, mean + half, smaller)


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Share of trials that succeeded, with an interval that holds where there are few trials, or nearly all succeed.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if not 0 <= successes <= trials:
        raise EsperError(f"{successes} of {trials} trials succeeded: expected from 0 to all of them.")
    if not trials:
        return Interval(None, None, None, 0)
    from scipy.special import ndtri

    z, share = float(ndtri(0.5 + confidence / 2)), successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2) / (1 + z * z / trials)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), trials)


def table_mean(table: np.ndarray) -> np.ndarray:
    """Over runs and seeds. [..., R, S] to [...]"""
    return np.asarray(table.mean(axis=(-2, -1)))


def interquartile_mean(table: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all values: a quarter, rounded down, is left out at each end. [..., R, S] to [...]"""
    flat = table.reshape(*table.shape[:-2], -1)
    cut = flat.shape[-1] // 4
    ordered = np.sort(flat, axis=-1)
    return np.asarray(ordered[..., cut : flat.shape[-1] - cut].mean(axis=-1))


def mean_gain(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mean of the first less that of the second. [..., R, S] and [..., Q, S] to [...]"""
    return table_mean(first) - table_mean(second)


def improvement_probability(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How likely a run of the first is above one of the second on the same seed; a tie is half.

    [..., R, S] and [..., Q, S] to [...]: the mean over seeds of Mann and Whitney's U, as a share of all pairs of runs.
    """
    mine, other = first[..., :, None, :], second[..., None, :, :]  # [..., R, 1, S], [..., 1, Q, S]
    return np.asarray(((mine > other) + 0.5 * (mine == other)).mean(axis=(-3, -2, -1)))


def bootstrap_interval(statistic: Statistic, *tables: np.ndarray, confidence: float = 0.95) -> Interval:
    """A figure of one policy or several, with its percentile interval over training runs and held-out seeds.

    Each table is a stratum: its runs are drawn with replacement, each with all its values, since what a policy has
    learned shows on every seed. Seeds are drawn with replacement for all tables at once, so that policies stay paired.
    The draws are always the same ones. Source: Owen 2007, "The pigeonhole bootstrap".

    Args: tables: [R, S] each, a row a training run and a column a held-out seed; S is the same.
    Returns: `n` is what the interval rests on, the fewest runs or seeds that are drawn (of a single run, none are);
    `low` and `high` are None where that is below three.
    """
    seeds = tables[0].shape[1]
    if not seeds or not all(map(len, tables)):
        return Interval(None, None, None, 0)
    value = float(statistic(*tables))
    n = min((size for size in (seeds, *map(len, tables)) if size > 1), default=1)
    if n < FEWEST:
        return Interval(value, None, None, n)
    draw = np.random.Generator(np.random.PCG64(0))
    at_once = max(1, _VALUES_AT_ONCE // (seeds * math.prod(map(len, tables))))
    drawn = []
    for first in range(0, REPLICATES, at_once):
        count = min(at_once, REPLICATES - first)
        columns = draw.integers(seeds, size=(count, 1, seeds))
        resampled = [table[draw.integers(len(table), size=(count, len(table), 1)), columns] for table in tables]
        drawn.append(statistic(*resampled))
    low, high = np.quantile(np.concatenate(drawn), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high), n)


def mean_band(values: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, lower and upper bound over members, epoch by epoch.

    Args:
        values: [M, T]; NaN where nothing was measured.

    Returns:
        three [T] arrays; a bound is NaN where fewer than three members were measured, the mean where none was.
    """
    known = np.isfinite(values)
    n = known.sum(axis=0)  # [T]
    filled = np.where(known, values, 0.0)
    mean = np.where(n > 0, filled.sum(axis=0) / np.maximum(n, 1), np.nan)
    squares = (np.where(known, values - mean, 0.0) ** 2).sum(axis=0)
    half = half_width(np.sqrt(squares / np.maximum(n - 1, 1)), n, confidence)
    return mean, mean - half, mean + half


def half_width(deviation: Any, n: Any, confidence: float = 0.95) -> Any:
    """Of the t-interval of a mean of n values with this sample deviation; NaN where n is below three. [...] each"""
    if not np.any(np.asarray(n) >= FEWEST):  # as in the smallest runs, which scipy's import would delay
        return np.full(np.broadcast_shapes(np.shape(deviation), np.shape(n)), np.nan)
    few = np.maximum(n, FEWEST)
    return np.where(np.asarray(n) >= FEWEST, _t_quantile(few - 1, confidence) * deviation / np.sqrt(few), np.nan)


def _measured(values: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _t_quantile(degrees_of_freedom: Any, confidence: float) -> Any:
    from scipy.special import stdtrit  # scipy.stats would take a second to import for the same number

    return stdtrit(degrees_of_freedom, 0.5 + confidence / 2)

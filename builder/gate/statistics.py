"""How sure a figure is: intervals, paired tests, and what a number of rows can show.

Sources: Wilson 1927 (score interval), McNemar 1947 in its exact form, Efron's bootstrap of paired differences, and Tango 1998
(score interval of a paired difference), which stays honest where no pair is discordant and the bootstrap says "exactly 0".
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

POWER = 0.8


def wilson(numerator: int, denominator: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """The two-sided Wilson score interval; None when the denominator is 0."""
    if denominator == 0:
        return None
    from scipy.stats import binomtest

    found = binomtest(numerator, denominator).proportion_ci(confidence_level=confidence, method="wilson")
    return float(found.low), float(found.high)


def mcnemar(only_ours: int, only_theirs: int) -> float:
    """The two-sided exact p-value of "both sides are equally often the only right one"; 1 without discordant pairs."""
    discordant = only_ours + only_theirs
    if discordant == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(min(only_ours, only_theirs), discordant, 0.5).pvalue)


def bootstrap(only_ours: int, only_theirs: int, pairs: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """The percentile interval of the paired difference under resampling of pairs; None without pairs.

    `confidence` is one-sided at each end, as a "not worse" needs it: 0.95 gives the 5th and the 95th percentile. The
    distribution is computed, not drawn: it is what infinitely many resamples would give, the same on every run.
    """
    if pairs == 0:
        return None
    import numpy as np

    step = np.array([only_theirs, pairs - only_ours - only_theirs, only_ours], dtype=float) / pairs
    distribution = _power(step, pairs)
    cumulated = np.cumsum(distribution) / distribution.sum()
    low = int(np.searchsorted(cumulated, 1 - confidence + 1e-12))
    high = int(np.searchsorted(cumulated, confidence - 1e-12))
    return (low - pairs) / pairs, (high - pairs) / pairs


def _power(step: Any, times: int) -> Any:
    """The distribution of a sum of `times` draws from `step`, by repeated squaring."""
    import numpy as np
    from scipy.signal import fftconvolve

    result, square = np.array([1.0]), step
    while times:
        if times & 1:
            result = fftconvolve(result, square).clip(min=0)
        times >>= 1
        if times:
            square = fftconvolve(square, square).clip(min=0)
    return result


def tango_low(only_ours: int, only_theirs: int, pairs: int, confidence: float = 0.95) -> float:
    """The lower end, one-sided, of Tango's score interval of the paired difference. `pairs` is above 0."""
    z = NormalDist().inv_cdf(confidence)
    low, high = -1.0, (only_ours - only_theirs) / pairs
    for _ in range(60):
        middle = (low + high) / 2
        if _score(only_ours, only_theirs, pairs, middle) > z:
            low = middle
        else:
            high = middle
    return low


def _score(b: int, c: int, n: int, delta: float) -> float:
    """Tango's statistic at `delta`: the distance from the observed difference in standard errors under it."""
    linear = -b - c + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    q = (math.sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * q + delta * (1 - delta))
    distance = b - c - n * delta
    return distance / math.sqrt(variance) if variance > 0 else (math.inf if distance > 0 else 0.0)


def smallest_margin(pairs: int, discordant: float, confidence: float = 0.95) -> float | None:
    """The smallest margin of "not worse" that `pairs` show with a power of 0.8 when both sides are equally good.

    `discordant` is the share of pairs that only one side has right. Without any, what remains is that few pairs say little:
    Tango's bound for no loss seen. None without pairs.
    """
    if pairs == 0:
        return None
    normal = NormalDist()
    z = normal.inv_cdf(confidence)
    floor = z * z / (pairs + z * z)
    return min(1.0, max(floor, (z + normal.inv_cdf(POWER)) * math.sqrt(discordant / pairs)))


def power(pairs: int, discordant: float, margin: float, confidence: float = 0.95) -> float:
    """The chance that equally good sides are shown to be not worse by `margin`."""
    normal = NormalDist()
    error = math.sqrt(discordant / pairs)
    return normal.cdf(margin / error - normal.inv_cdf(confidence)) if error else 1.0


def smallest_passing(minimum: float, denominator: int) -> int:
    """The smallest numerator that reaches `minimum`."""
    from fractions import Fraction

    return min(denominator, math.ceil(Fraction(repr(float(minimum))) * denominator))

"""Confidence intervals: Wilson's for shares, the percentile bootstrap for means and paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

Interval = dict[str, float]


def share(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """``{"mean", "lo", "hi"}`` of a proportion (Wilson score interval)."""
    if trials == 0:
        return {"mean": math.nan, "lo": math.nan, "hi": math.nan}
    z = float(norm.ppf(0.5 + confidence / 2.0))
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return {"mean": p, "lo": min(p, max(0.0, centre - half)), "hi": max(p, min(1.0, centre + half))}


def bootstrap(
    values: ArrayLike, statistic: Callable[..., np.ndarray] = np.mean, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """``{"mean", "lo", "hi"}`` of ``statistic`` (called with ``axis=-1``) over ``values`` by 2,000 resamples."""
    data = np.asarray(values, dtype=np.float64)
    data = data[np.isfinite(data)]
    if data.size == 0:
        return {"mean": math.nan, "lo": math.nan, "hi": math.nan}
    draws = np.random.default_rng(seed).integers(0, data.size, size=(2000, data.size))
    spread = statistic(data[draws], axis=-1)
    lo, hi = np.quantile(spread, [0.5 - confidence / 2.0, 0.5 + confidence / 2.0])
    return {"mean": float(statistic(data, axis=-1)), "lo": float(lo), "hi": float(hi)}

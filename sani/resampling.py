"""Bootstrap intervals of ratios: what a share would be had other records been drawn."""

import numpy as np

DRAWS = 2000


def draws(sums: np.ndarray, seed: int = 0) -> np.ndarray:
    """A ratio of sums in each of DRAWS draws of rows, float64 (DRAWS,), from sums float64 (n, 2): part and whole.

    The same rows are drawn for the same n and seed, so that two models measured on the same rows can be compared draw
    by draw. NaN where there is no row.
    """
    if len(sums) == 0:
        return np.full(DRAWS, np.nan)
    drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=DRAWS) @ sums
    return drawn[:, 0] / drawn[:, 1]


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of values, float64 (n,)."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

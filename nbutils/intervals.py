"""Confidence intervals, once for figures and verdicts: Student's t for means, Wilson for counts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """Mean of `n` measurements and its confidence interval, of no width for an exact number."""

    mean: float
    low: float
    high: float
    n: int
    exact: bool = False


def half_width(
    std: float | np.ndarray, n: int | np.ndarray, shared: float = 0.0
) -> float | np.ndarray:
    """Half of Student's interval for a mean of `n` values that vary by `std`; 0 where n is 1.

    `std` divides by n - 1. `shared` adds to the variance 1 / n of the mean (see `student`). Numbers
    or arrays of one shape.
    """
    n = np.maximum(np.asarray(n, dtype=np.float64), 1)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, np.maximum(n - 1, 1))
    return np.where(n > 1, quantile * std * np.sqrt(1 / n + shared), 0.0)


def student(
    values: Iterable[float], *, scale: str = "linear", overlap: tuple[int, int] | None = None
) -> Interval:
    """Mean of one number per repetition, with Student's interval.

    `scale="log"`, for positive ratios and factors, averages logarithms: the mean is geometric, and
    a ratio and its inverse get the same verdict. `overlap=(n_test, n_train)`, the sizes of the test
    and training parts, is for scores whose repetitions split one data set anew: their training
    parts overlap, so the variance factor 1 / n becomes 1 / n + n_test / n_train (Nadeau & Bengio
    2003, "Inference for the Generalization Error").

    Raises ValueError for no number, a number that is not finite, more than one dimension, an
    unknown scale, a logarithm that does not exist, or sizes that are not positive.
    """
    values = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"an interval needs finite numbers, one per repetition; got {values}")
    if scale not in ("linear", "log"):
        raise ValueError(f"scale must be 'linear' or 'log', got {scale!r}")
    if scale == "log" and (values <= 0).any():
        raise ValueError(
            f"scale='log' averages logarithms and needs positive numbers, got {values}"
        )
    if overlap is not None and min(overlap) <= 0:
        raise ValueError(f"overlap=(n_test, n_train) needs two positive sizes, got {overlap}")
    shown = np.log(values) if scale == "log" else values
    shared = 0.0 if overlap is None else overlap[0] / overlap[1]
    mean = float(shown.mean())
    half = float(half_width(shown.std(ddof=1), len(shown), shared)) if len(shown) > 1 else 0.0
    ends = (mean, mean - half, mean + half)
    return Interval(*map(math.exp, ends) if scale == "log" else ends, len(values))


def wilson(count: int, n: int) -> Interval:
    """Share of `count` successes in `n` runs, with Wilson's interval: it never leaves 0 to 1.

    Raises ValueError unless 0 <= count <= n and n >= 1. Source: Wilson 1927, "Probable Inference,
    the Law of Succession, and Statistical Inference".
    """
    if not 0 <= count <= n or n < 1:
        raise ValueError(f"{count} of {n} is no count of runs: 0 <= count <= n and n >= 1")
    ends = stats.binomtest(int(count), int(n)).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(count / n, float(ends.low), float(ends.high), int(n))

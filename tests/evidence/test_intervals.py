"""Intervals: Student's against SciPy's, Wilson's against his formula, and what they refuse."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nbutils import evidence, figures, intervals
from nbutils.intervals import Interval, student, wilson

VALUES = [1.0, 2.0, 4.0, 8.0]


def ends(found: Interval) -> tuple[float, float, float]:
    return found.mean, found.low, found.high


def test_students_interval_is_scipys():
    low, high = stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert ends(student(VALUES)) == pytest.approx((3.75, low, high), rel=1e-12)
    assert (student(VALUES).n, student(VALUES).exact) == (4, False)


def test_one_value_has_no_width():
    assert student([3.0]) == Interval(3.0, 3.0, 3.0, 1)


def test_on_a_log_scale_a_ratio_and_its_inverse_mirror_each_other():
    ratio, inverse = student(VALUES, scale="log"), student(1 / np.array(VALUES), scale="log")
    assert ratio.mean == pytest.approx(2**1.5)  # 1, 2, 4, 8: the exponents average 1.5
    logs = student(np.log2(VALUES))
    assert ends(ratio) == pytest.approx((2**logs.mean, 2**logs.low, 2**logs.high))
    assert ends(inverse) == pytest.approx((1 / ratio.mean, 1 / ratio.high, 1 / ratio.low))


@pytest.mark.parametrize(("n_test", "n_train"), [(500, 1297), (1, 9)])
def test_overlapping_splits_widen_the_interval(n_test, n_train):
    plain, corrected = student(VALUES), student(VALUES, overlap=(n_test, n_train))
    assert corrected.mean == plain.mean
    factor = math.sqrt((1 / 4 + n_test / n_train) / (1 / 4))  # of Nadeau and Bengio
    assert corrected.high - 3.75 == pytest.approx(factor * (plain.high - 3.75))
    assert 3.75 - corrected.low == pytest.approx(factor * (3.75 - plain.low))


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 7), (5, 10), (10, 10), (1, 1)])
def test_wilsons_interval_is_his_formula(count, n):
    z = 1.959963984540054  # 97.5 % of a normal distribution lie below it
    p = count / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = wilson(count, n)
    assert ends(found) == pytest.approx((p, centre - half, centre + half), abs=1e-12)
    assert 0 <= found.low < found.high <= 1
    assert (found.n, found.exact) == (n, False)


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        ([], {}, "needs finite numbers"),
        ([1.0, math.nan], {}, "needs finite numbers"),
        (np.ones((2, 2)), {}, "needs finite numbers"),
        (VALUES, {"scale": "log10"}, "'linear' or 'log', got 'log10'"),
        ([1.0, 0.0], {"scale": "log"}, "needs positive numbers"),
        (VALUES, {"overlap": (0, 10)}, r"two positive sizes, got \(0, 10\)"),
    ],
)
def test_numbers_that_have_no_interval(values, options, words):
    with pytest.raises(ValueError, match=words):
        student(values, **options)


@pytest.mark.parametrize(("count", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts(count, n):
    with pytest.raises(ValueError, match=f"{count} of {n} is no count"):
        wilson(count, n)


def test_bars_and_verdicts_have_the_same_confidence(monkeypatch):
    """Both follow the one constant, so a figure never contradicts the card below it."""
    frame = pd.DataFrame({"x": 1, "y": VALUES})
    widths = set()
    for confidence in (0.8, 0.99):
        monkeypatch.setattr(intervals, "CONFIDENCE", confidence)
        bar, card = figures.summary(frame, "x", "y").iloc[0], evidence.interval(VALUES)
        assert (bar["low"], bar["high"]) == pytest.approx((card.low, card.high))
        widths.add(card.high - card.low)
    assert len(widths) == 2

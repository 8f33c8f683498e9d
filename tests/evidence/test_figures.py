"""Figures: what stands in the picture is what was measured."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nbutils import figures

FRAME = pd.DataFrame(
    [(x, name, seed, x + seed + (name == "batch")) for x in (1, 2, 3) for name in ("none", "batch")
     for seed in range(4)],
    columns=["x", "norm", "seed", "y"],
)  # fmt: skip


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_summary_is_mean_and_students_interval():
    row = figures.summary(FRAME[FRAME.norm == "none"], "x", "y").iloc[0]
    values = [1, 2, 3, 4]
    low, high = stats.t.interval(0.95, 3, loc=2.5, scale=stats.sem(values))
    assert (row["mean"], row["n"]) == (2.5, 4)
    assert (row["low"], row["high"]) == pytest.approx((low, high))


def test_one_repetition_has_no_width():
    row = figures.summary(FRAME.head(1), "x", "y").iloc[0]
    assert row["low"] == row["mean"] == row["high"]


@pytest.mark.parametrize("points", [True, False])
def test_curve_draws_the_means_and_says_how_many(points):
    ax = figures.curve(FRAME, x="x", y="y", hue="norm", points=points, title="T", xscale="log")
    drawn = {tuple(line.get_ydata()) for line in ax.lines}
    assert {(2.5, 3.5, 4.5), (3.5, 4.5, 5.5)} <= drawn
    assert ax.get_title(loc="left") == "T" or ax.get_title() == "T"
    assert ax.get_xscale() == "log"
    assert any("n = 4 seeds" in text.get_text() for text in ax.texts)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"no normalization", "BatchNorm"} <= set(labels)


def test_theory_is_drawn_for_all_or_for_each():
    one = figures.curve(FRAME, x="x", y="y", theory=lambda x: x**2)
    each = {"none": lambda x: x, "batch": lambda x: 10 * x}
    two = figures.curve(FRAME, x="x", y="y", hue="norm", theory=each)
    assert any(
        np.allclose(np.max(line.get_ydata()), 9) for line in one.lines if len(line.get_ydata())
    )
    tops = {
        round(float(np.max(line.get_ydata()))) for line in two.lines if len(line.get_ydata()) > 99
    }
    assert tops == {3, 30}


def test_norms_look_the_same_everywhere_and_unlike_each_other():
    assert figures.style_of("batch", 0) == figures.style_of("batch", 5)
    looks = {(style.color, style.marker) for style in figures.STYLES.values()}
    assert len(looks) == len(figures.STYLES)
    assert figures.style_of("mine").label == "mine"


def test_heatmap_keeps_the_order_of_names_and_grows_numbers_upwards():
    named = figures.heatmap(FRAME, x="x", y="norm", value="y", label="y")
    assert [t.get_text() for t in named.get_yticklabels()] == ["none", "batch"]
    numbers = figures.heatmap(FRAME, x="norm", y="x", value="y", label="y", annotate=False)
    assert [t.get_text() for t in numbers.get_yticklabels()] == ["3", "2", "1"]
    assert any("n = 4" in text.get_text() for text in numbers.texts)


@pytest.mark.parametrize("call", [figures.curve, figures.heatmap])
def test_a_missing_column_is_named(call):
    extra = {"value": "z", "label": "z"} if call is figures.heatmap else {}
    with pytest.raises(KeyError, match="no column"):
        call(FRAME, x="x", y="z", **extra)

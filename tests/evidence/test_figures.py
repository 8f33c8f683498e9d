"""Figures: what stands in the picture is what was measured."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
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


def bars(ax):
    """What each error bar covers: x, its lower and its upper end."""
    segments = [bar.get_segments() for each in ax.containers for bar in each.lines[2]]
    return {tuple(np.round([*ends[0], ends[1][1]], 9)) for each in segments for ends in each}


def test_bars_and_bands_cover_the_interval(monkeypatch):
    uneven = pd.DataFrame(
        {"x": [1, 2], "mean": [2.0, 5.0], "low": [1.5, 4.0], "high": [4.0, 5.5], "n": 3}
    ).assign(diverged=0)
    monkeypatch.setattr(figures, "summary", lambda *_: uneven)
    ax = figures.curve(FRAME, x="x", y="y")
    assert bars(ax) == {(1, 1.5, 4.0), (2, 4.0, 5.5)}
    band = figures.curve(FRAME, x="x", y="y", points=False).collections[0].get_paths()[0]
    assert {(1, 1.5), (1, 4.0), (2, 4.0), (2, 5.5)} <= set(map(tuple, band.vertices))


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


def test_colours_of_a_heatmap_go_from_0_to_1():
    shares = FRAME.assign(y=FRAME.y / 10)  # the largest mean is 0.55
    for frame in (shares, shares.assign(y=0.5)):
        mesh = figures.heatmap(frame, x="x", y="norm", value="y", label="y").collections[0]
        assert mesh.get_clim() == (0, 1)


# --- runs that diverged ---

# One of four at x = 2 and all at x = 3, for "batch" only.
MARKED = FRAME.assign(
    diverged=(FRAME.norm == "batch") & ((FRAME.x == 3) | ((FRAME.x == 2) & (FRAME.seed == 3)))
)
GONE = MARKED.assign(y=MARKED.y.mask(MARKED.diverged))


@pytest.mark.parametrize(
    "frame",
    [MARKED, GONE, GONE.drop(columns="diverged"), GONE.drop(columns="diverged").fillna(np.inf)],
    ids=["marked", "marked, without a number", "without a number", "infinite"],
)
def test_summary_counts_what_diverged_and_leaves_it_out_of_the_mean(frame):
    table = figures.summary(frame[frame.norm == "batch"], "x", "y")
    assert table["diverged"].tolist() == [0, 1, 4]
    assert table["n"].tolist() == [4, 3, 0]
    np.testing.assert_array_equal(table["mean"], [3.5, 4.0, np.nan])
    low, high = stats.t.interval(0.95, 2, loc=4, scale=stats.sem([3, 4, 5]))
    assert (table["low"][1], table["high"][1]) == pytest.approx((low, high))


def test_the_share_that_diverged_is_a_value_like_others():
    table = figures.summary(MARKED[MARKED.norm == "batch"], "x", "diverged")
    assert table["mean"].tolist() == [0, 0.25, 1]


def crosses(ax):
    marked = [line for line in ax.lines if line.get_color() == figures.DIVERGED]
    return [(list(line.get_xdata()), line.get_marker()) for line in marked]


@pytest.mark.parametrize("points", [True, False])
def test_curve_crosses_and_counts_what_diverged(points):
    ax = figures.curve(MARKED, x="x", y="y", hue="norm", points=points)
    assert crosses(ax) == [([2, 3], "x")]
    assert all(line.get_ydata()[0] < 0.1 for line in ax.lines if line.get_marker() == "x")
    note = ax.texts[-1].get_text()
    assert note.startswith("n = 4 seeds")
    assert note.endswith("\n× BatchNorm: 5 of 12 diverged")
    both = figures.curve(MARKED.assign(diverged=MARKED.x == 3), x="x", y="y", hue="norm")
    rows = [line.get_ydata()[0] for line in both.lines if line.get_marker() == "x"]
    assert len(set(rows)) == 2  # no cross hides another
    alone = figures.curve(MARKED[MARKED.norm == "batch"], x="x", y="y")
    assert alone.texts[-1].get_text().endswith("\n× 5 of 12 diverged")


def test_heatmap_hatches_and_counts_what_diverged():
    missing = MARKED[(MARKED.norm == "batch") | (MARKED.x != 1)]
    ax = figures.heatmap(missing, x="x", y="norm", value="y", label="y")
    patches = {patch.get_xy(): patch for patch in ax.patches}
    assert set(patches) == {(1, 0), (2, 0)}  # "batch" comes first; what was not run stays empty
    assert all(patch.get_hatch() for patch in patches.values())
    some, all_of_them = patches[1, 0], patches[2, 0]
    assert some.get_facecolor()[3] == 0  # the mean of the others shows
    assert all_of_them.get_facecolor() == to_rgba(figures.DIVERGED)
    numbers = [text.get_text() for text in ax.texts]
    assert {"4.00", "3.50"} <= set(numbers)
    assert not {"5.50", "nan"} & set(numbers)  # 5.50 would be the mean of what diverged
    assert "hatched: 5 of 20 runs diverged" in numbers[-1]


def test_where_nothing_diverged_nothing_is_marked():
    ax = figures.curve(FRAME, x="x", y="y", hue="norm")
    assert not crosses(ax)
    assert "diverged" not in ax.texts[-1].get_text()
    cells = figures.heatmap(FRAME, x="x", y="norm", value="y", label="y")
    assert not cells.patches
    assert "diverged" not in cells.texts[-1].get_text()


def test_what_diverged_has_a_colour_of_its_own():
    assert figures.DIVERGED not in {style.color for style in figures.STYLES.values()}
    assert figures.DIVERGED not in {figures.style_of("", i).color for i in range(12)}

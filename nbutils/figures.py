"""The book's look: theme, one colour, marker and dash per norm, intervals, theory and measurement.

The palette is Okabe & Ito's, which readers with any common colour blindness can tell apart
(Okabe & Ito 2008, "Color Universal Design"). Figures stand on a light panel of their own,
so that they read the same in the light and in the dark theme.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib_inline.backend_inline import set_matplotlib_formats

from .intervals import half_width

INK = "#1f2933"
PAPER = "#fbfbf9"
GRID = "#d9dce0"
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7",
)  # fmt: skip
DIVERGED = "#8e4585"  # runs without a finite result; neither a series nor a value looks like this


class Style(NamedTuple):
    """How one series is drawn wherever it appears, and its name in a legend."""

    color: str
    marker: str
    dash: str | tuple
    label: str


STYLES = {
    "none": Style("#6b7280", "o", "-", "no normalization"),
    "batch": Style(BLUE, "s", "-", "BatchNorm"),
    "layer": Style(VERMILION, "^", "-", "LayerNorm"),
    "rms": Style(ORANGE, "v", (0, (4, 2)), "RMSNorm"),
    "group": Style(GREEN, "D", "-", "GroupNorm"),
    "instance": Style(PURPLE, "P", (0, (4, 2)), "InstanceNorm"),
}
_CYCLE = [
    Style(BLUE, "o", "-", ""), Style(VERMILION, "s", "-", ""), Style(GREEN, "^", "-", ""),
    Style(ORANGE, "D", "-", ""), Style(PURPLE, "v", "-", ""), Style(SKY, "P", "-", ""), Style(BLACK,
    "X", "-", ""),
]  # fmt: skip


def use_theme() -> None:
    """Set the book's look for every figure of this notebook, as crisp vector graphics."""
    sns.set_theme(
        style="whitegrid",
        palette=[style.color for style in _CYCLE],
        rc={
            "figure.figsize": (6.4, 3.8),
            "figure.facecolor": PAPER,
            "axes.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "text.color": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.edgecolor": INK,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "axes.titlesize": 12,
            "grid.color": GRID,
            "grid.linewidth": 0.6,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "lines.markersize": 5.5,
            "svg.fonttype": "none",  # text stays text: a third of the size, and selectable
            "svg.hashsalt": "nbutils",
        },
    )
    set_matplotlib_formats("svg")


def style_of(name: object, position: int = 0) -> Style:
    """The style of a norm by its name in `networks`, else the palette's next under that name."""
    if name in STYLES:
        return STYLES[name]
    return _CYCLE[position % len(_CYCLE)]._replace(label=str(name))


def summary(frame: pd.DataFrame, by: Sequence[str] | str, value: str) -> pd.DataFrame:
    """What `value` is per setting: mean, low, high (95 % interval, Student's t), n, diverged.

    Rows of one setting are taken as repetitions (seeds). Those that the column `diverged` marks, or
    whose value is not finite, are counted in `diverged`; mean, interval and `n` are of the others.
    Raises KeyError for a column that is not there.
    """
    by = [by] if isinstance(by, str) else list(by)
    missing = [name for name in [*by, value] if name not in frame]
    if missing:
        raise KeyError(f"no column {missing} in the measurements; there are {list(frame.columns)}")
    values = frame[value].astype(float)
    lost = ~np.isfinite(values)
    if "diverged" in frame and value != "diverged":
        lost |= frame["diverged"].astype(bool)
    groups = frame[by].assign(_value=values.mask(lost), _lost=lost).groupby(by, sort=True)
    table = groups["_value"].agg(["mean", "std", "count"])
    half = half_width(table["std"].to_numpy(), table["count"].to_numpy())
    return pd.DataFrame({
        "mean": table["mean"],
        "low": table["mean"] - half,
        "high": table["mean"] + half,
        "n": table["count"],
        "diverged": groups["_lost"].sum(),
    }).reset_index()  # fmt: skip


def curve(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    hue: str | None = None,
    theory: Callable[[np.ndarray], np.ndarray] | Mapping[object, Callable] | None = None,
    line: bool = True,
    points: bool = True,
    ax: Axes | None = None,
    **labels: object,
) -> Axes:
    """Measurement as points with a 95 % interval over rows (seeds) of a setting, theory as a line.

    `theory` maps x to the prediction, or names such a function for each series of `hue`; it is
    drawn dashed over the range of x. With `line=False` the points of a series are not joined, so
    that the theory stands alone. With `points=False`, for many x, a line in a band takes their
    place. The count of seeds is written below the axes. Runs that diverged (see `summary`) are
    crosses at the bottom edge, one row for each series, and counted below the axes. `labels`
    (title, xlabel, yscale, ylim ...) go to `Axes.set`; a logarithmic y shows whole powers of ten.
    Raises KeyError for a column that is not there.
    """
    if ax is None:
        _, ax = plt.subplots()
    names = [None] if hue is None else list(dict.fromkeys(frame[hue])) if hue in frame else [None]
    table = summary(frame, [x] if hue is None else [hue, x], y)
    for position, name in enumerate(names):
        rows = table if hue is None else table[table[hue] == name]
        style = style_of("measured" if name is None else name, position)
        if points:
            ax.errorbar(
                rows[x], rows["mean"], yerr=[rows["mean"] - rows["low"], rows["high"] -
                rows["mean"]], color=style.color, marker=style.marker, linestyle=style.dash if line
                else "none", capsize=2.5, elinewidth=1.2, label=style.label,
            )  # fmt: skip
        else:
            ax.plot(
                rows[x], rows["mean"], color=style.color, linestyle=style.dash, label=style.label
            )
            ax.fill_between(
                rows[x], rows["low"], rows["high"], color=style.color, alpha=0.2, linewidth=0
            )
        if isinstance(theory, Mapping):
            _predict(ax, theory[name], rows[x], style.color, None)
    if theory is not None:
        common = None if isinstance(theory, Mapping) else theory
        _predict(ax, common, table[x], INK, "predicted")
    ax.set(**{"xlabel": x.replace("_", " "), "ylabel": y.replace("_", " ")} | labels)
    if labels.get("yscale") == "log":
        ax.yaxis.set_major_locator(LogLocator(base=10, numticks=9))
        ax.yaxis.set_minor_formatter(NullFormatter())
    runs = table["n"] + table["diverged"]
    few, many = runs.min(), runs.max()
    count = str(few) if few == many else f"{few} to {many}"
    spread = f", {'bars' if points else 'bands'}: 95 % interval" if few > 1 else ""
    crosses = _mark_diverged(ax, table, x, hue, names)
    note(ax, f"n = {count} {'seeds' if many > 1 else 'seed'}{spread}{crosses}")
    if hue is not None or theory is not None:
        ax.legend()
    return ax


def _predict(
    ax: Axes, theory: Callable | None, x: pd.Series, color: str, label: str | None
) -> None:
    """The dashed line of a theory over the range of x; without one, its entry in the legend."""
    grid = np.linspace(x.min(), x.max(), 300) if theory is not None else []
    values = theory(grid) if theory is not None else []
    ax.plot(grid, values, color=color, linestyle=(0, (5, 2)), linewidth=1.3, label=label, zorder=1)


def _mark_diverged(
    ax: Axes, table: pd.DataFrame, x: str, hue: str | None, names: Sequence[object]
) -> str:
    """A cross at the bottom edge for each setting with diverged runs; what the note says of them.

    In a row per series, so that no cross hides another.
    """
    told = []
    for name in names:
        rows = table if hue is None else table[table[hue] == name]
        lost = rows[rows["diverged"] > 0]
        if lost.empty:
            continue
        ax.plot(
            lost[x], [0.03 + 0.05 * len(told)] * len(lost), color=DIVERGED, marker="x",
            linestyle="none", markersize=7, markeredgewidth=2, clip_on=False, zorder=5,
            transform=ax.get_xaxis_transform(),
        )  # fmt: skip
        count = f"{lost['diverged'].sum()} of {(rows['n'] + rows['diverged']).sum()} diverged"
        told.append(count if hue is None else f"{style_of(name).label}: {count}")
    return f"\n× {', '.join(told)}" if told else ""


def heatmap(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    value: str,
    label: str,
    annotate: bool = True,
    ax: Axes | None = None,
    **labels: object,
) -> Axes:
    """Mean of `value` over the rows (seeds) of each cell, colours from 0 to 1; y grows upwards.

    `label` names the colour scale; `annotate` writes the number into each cell; `labels` go to
    `Axes.set`. Text labels of `y` stand in the order of their first appearance, from the top.
    A cell in which runs diverged (see `summary`) is hatched, and filled if all did; a combination
    that was not run stays empty. Raises KeyError for a missing column.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6.8, 4.2))
    table = summary(frame, [y, x], value)
    grid = table.pivot(index=y, columns=x, values="mean").sort_index(ascending=False)
    if not pd.api.types.is_numeric_dtype(frame[y]):
        grid = grid.loc[list(dict.fromkeys(frame[y]))]
    sns.heatmap(
        grid, ax=ax, cmap="cividis", vmin=0, vmax=1, annot=annotate, fmt=".2f",
        annot_kws={"size": 9}, linewidths=0.5, linecolor=PAPER, cbar_kws={"label": label},
    )  # fmt: skip
    ax.grid(False)
    ax.tick_params(axis="y", rotation=0)
    ax.set(**labels)
    lost = _hatch_diverged(ax, table, grid, x, y)
    runs = table["n"] + table["diverged"]
    note(ax, f"mean of n = {runs.min()} seeds in each cell{lost}")
    return ax


def _hatch_diverged(ax: Axes, table: pd.DataFrame, grid: pd.DataFrame, x: str, y: str) -> str:
    """Hatch the cells with diverged runs, fill those without another; what the note says of it."""
    rows = table[table["diverged"] > 0]
    for row in rows.to_dict("records"):
        corner = grid.columns.get_loc(row[x]), grid.index.get_loc(row[y])
        fill, lines = (DIVERGED, PAPER) if row["n"] == 0 else ("none", DIVERGED)
        ax.add_patch(Rectangle(corner, 1, 1, facecolor=fill, edgecolor=lines, hatch="//", lw=0))
    if rows.empty:
        return ""
    runs = (table["n"] + table["diverged"]).sum()
    return f"\nhatched: {rows['diverged'].sum()} of {runs} runs diverged, left out of the means"


def note(ax: Axes, text: str) -> None:
    """A small line below the axes: how many seeds, what the bars are."""
    ax.annotate(
        text, xy=(1, 0), xycoords="axes fraction", xytext=(0, -38), textcoords="offset points",
        ha="right", va="top", fontsize=8.5, color="#52606d",
    )  # fmt: skip

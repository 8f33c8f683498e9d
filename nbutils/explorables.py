"""Figures to push with a finger: one HTML output over measured data, no library, no network.

The same output works in the book, in JupyterLab and in Colab, by mouse, touch and keyboard. Where
scripts are off, the table below it says the same in numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import HTML

_STYLE = """
.nbu {margin: 1em 0}
.nbu-controls {display: flex; flex-wrap: wrap; gap: .4em 2em; margin-bottom: .4em}
.nbu-controls label {display: flex; align-items: center; gap: .5em; min-height: 2.75em}
.nbu-controls input {width: min(15em, 50vw)}
.nbu-controls output {min-width: 3em; font-weight: 600}
.nbu-panels {display: grid; grid-template-columns: repeat(auto-fit, minmax(17em, 1fr)); gap: .5em}
.nbu svg {width: 100%; height: auto; color: inherit}
.nbu text {fill: currentColor; font-size: 13px}
.nbu-grid {stroke: currentColor; stroke-opacity: .18}
.nbu-0 {color: #2b8cd6}
.nbu-1 {color: #d5690a; --nbu-dash: 7 4; --nbu-border: dashed}
.nbu-2 {color: #159c76; --nbu-dash: 2 3; --nbu-border: dotted}
.nbu-line {stroke: currentColor; stroke-width: 2; stroke-dasharray: var(--nbu-dash); fill: none}
.nbu-dot {fill: currentColor}
.nbu-key {display: inline-flex; align-items: center; gap: .4em; margin-right: 1.5em}
.nbu-key span {display: inline-block; width: 2em; border-top: 3px var(--nbu-border, solid)}
.nbu figcaption {font-weight: 600; min-height: 3em}
.nbu table {font-variant-numeric: tabular-nums}
"""
_LINES = 3  # kinds of line in _STYLE


def curves(
    frame: pd.DataFrame,
    *,
    controls: Sequence[str],
    x: str,
    y: str,
    start: Mapping[str, object],
    caption: Callable[[pd.DataFrame], str],
    hue: str | None = None,
    panel: str | None = None,
    yscale: str = "linear",
    labels: Mapping[object, str] | None = None,
) -> HTML:
    """Sliders over measured curves: choose each of `controls`, see `y` against `x`.

    `frame` has one row for every combination of the controls, every x, and every line and panel
    (average over seeds first). `hue` names the column of the lines, at most three, the first one
    solid; `panel` the column of the plots, each with axes of its own that fit all combinations.
    `start` gives the first choice. `caption` gets the rows of one combination and returns the
    sentence that answers; it is also the row of the table for readers without scripts. `labels`
    gives columns, panels and lines another name for the reader.

    Raises KeyError for a missing column; ValueError for a combination that is missing, a y that is
    not finite (with yscale="log", not positive), more than three lines, an unknown scale, or a
    start that was not measured.
    """
    columns = [*controls, x, y, *(each for each in (hue, panel) if each is not None)]
    missing = [name for name in columns if name not in frame]
    if missing:
        raise KeyError(f"no column {missing} in the measurements; there are {list(frame.columns)}")
    if yscale not in ("linear", "log"):
        raise ValueError(f"yscale must be 'linear' or 'log', got {yscale!r}")
    if not frame[y].map(math.isfinite).all() or (yscale == "log" and not (frame[y] > 0).all()):
        needed = "positive, because its axis is logarithmic" if yscale == "log" else "finite"
        raise ValueError(f"column {y!r} must be {needed}")
    values = [_values(frame[name]) for name in controls]
    for name, each in zip(controls, values, strict=True):
        if start.get(name) not in each:
            raise ValueError(
                f"start[{name!r}] = {start.get(name)} was not measured; there are {each}"
            )
    labels = dict(labels or {})
    frame = frame.reset_index(drop=True)
    drawn = pd.DataFrame({
        "x": frame[x],
        "y": frame[y] if yscale == "linear" else frame[y].map(math.log10),
        "line": "" if hue is None else frame[hue],
        "plot": "" if panel is None else frame[panel],
    })  # fmt: skip
    lines = list(dict.fromkeys(drawn.line))
    if len(lines) > _LINES:
        raise ValueError(f"column {hue!r} has {len(lines)} lines; {_LINES} can be told apart")
    panels = {plot: _panel(rows, yscale) for plot, rows in drawn.groupby("plot", sort=False)}
    answers, chosen = {}, {}
    for key, rows in frame.groupby(list(controls), sort=False):
        answers[key] = caption(rows)
        here = drawn.loc[rows.index]
        chosen[key] = [answers[key]] + [
            [_curve(here[(here["plot"] == plot) & (here.line == line)], grid) for line in lines]
            for plot, grid in ((plot, each["x"]) for plot, each in panels.items())
        ]
    titles = [str(labels.get(plot, plot)) for plot in panels]
    data = {
        "controls": [[str(value) for value in each] for each in values],
        "x": str(labels.get(x, x)),
        "y": str(labels.get(y, y)),
        "log": yscale == "log",
        "panels": [
            {"title": title, **each} for title, each in zip(titles, panels.values(), strict=True)
        ],
        "curves": _nested(chosen, values),
    }
    names = [labels.get(name, name) for name in controls]
    sliders = "".join(
        f'<label>{escape(label)} <input type="range" min="0" max="{len(each) - 1}" step="1" '
        f'value="{each.index(start[name])}"> <output></output></label>'
        for name, label, each in zip(controls, names, values, strict=True)
    )
    pictures = "".join(
        f'<svg role="img" aria-label="{escape(title or data["y"])}, {escape(data["x"])}"></svg>'
        for title in titles
    )
    keys = "".join(
        f'<span class="nbu-key"><span class="nbu-{i}"></span>{escape(str(labels.get(line, line)))}'
        "</span>"
        for i, line in enumerate(lines)
        if hue is not None
    )
    return _figure(
        "curves",
        data,
        f'<div class="nbu-controls">{sliders}</div><div class="nbu-panels">{pictures}</div>{keys}',
        _table(answers, names),
    )


def _values(column: pd.Series) -> list:
    """What a slider can choose: numbers by size, words in the order of their first appearance."""
    values = column.unique().tolist()
    return sorted(values) if pd.api.types.is_numeric_dtype(column) else values


def _panel(rows: pd.DataFrame, yscale: str) -> dict:
    """The axes of one plot: all its x, and limits of y that fit every combination."""
    low, high = rows.y.min(), rows.y.max()
    if yscale == "log":
        low, high = math.floor(low), math.ceil(high + 1e-9)
    else:
        margin = 0.04 * (high - low) or 1.0
        low, high = low - margin, high + margin
    return {"x": sorted({_short(value) for value in rows.x}), "low": low, "high": high}


def _curve(rows: pd.DataFrame, grid: Sequence[float]) -> list[float | None]:
    """One line: y at each x of the grid, None where it was not measured."""
    at = {_short(place): _short(value) for place, value in zip(rows.x, rows.y, strict=True)}
    return [at.get(place) for place in grid]


def _short(value: float) -> float:
    """Four digits, as many as a screen can show."""
    return float(f"{value:.4g}")


def _nested(chosen: dict, values: list[list], key: tuple = ()) -> list:
    """Combinations as nested lists in the order of the controls' values: indices as keys."""
    if len(key) == len(values):
        if key not in chosen:
            raise ValueError(
                f"no measurement for the combination {key}: every slider position needs one"
            )
        return chosen[key]
    return [_nested(chosen, values, (*key, value)) for value in values[len(key)]]


def _table(answers: dict, names: Sequence[str]) -> str:
    """The text equivalent: the answer at every position of the sliders."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(
        "<tr>" + "".join(f"<td>{part}</td>" for part in key) + f"<td>{escape(answer)}</td></tr>"
        for key, answer in answers.items()
    )
    return (
        "<details><summary>The same in words</summary>"
        f"<table><thead><tr>{head}<th>measured</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></details>"
    )


def _figure(script: str, data: dict, body: str, text: str) -> HTML:
    """One <figure class="nbu"> with its style, its script from nbutils/js, and its data."""
    blob = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("</", "<\\/")
    name = "nbu-" + hashlib.sha256(blob.encode()).hexdigest()[:10]
    code = (Path(__file__).parent / "js" / f"{script}.js").read_text(encoding="utf-8")
    function = code[code.index("(root, data) =>") :].rstrip().rstrip(";")
    return HTML(
        f'<figure class="nbu" id="{name}"><style>{_STYLE}</style>{body}'
        '<figcaption aria-live="polite">The controls need JavaScript; the table below says '
        f"the same.</figcaption>{text}</figure>"
        f'<script>({function})(document.getElementById("{name}"),{blob});</script>'
    )


# --- the axes cube of chapter 03 ---

_AXES = {"N": "examples", "C": "channels", "G": "the group's channels", "P": "positions"}
_CUBE_STYLE = """
.nbu-cube-grid {width: fit-content; max-width: 100%; margin: .5em 0; padding: 4px}
.nbu-cube-grid:focus-visible {outline: 3px solid #2b8cd6}
.nbu-cube-cell {fill: transparent; stroke: currentColor; stroke-opacity: .45; cursor: pointer}
.nbu-cube-cell.nbu-same {fill: #2b8cd6; stroke-opacity: 1}
.nbu-cube-cell.nbu-chosen {fill: #e69f00; stroke-opacity: 1; stroke-width: 4}
.nbu-cube select {font: inherit; min-height: 2.2em; color: CanvasText; background: Canvas}
"""


def sharing(axes: str, shape: Sequence[int], groups: int = 1) -> np.ndarray:
    """Which elements share statistics: booleans (elements, elements), for an input (N, C, P).

    `axes` names what a statistic averages over: N (examples), C (channels), P (positions), or G,
    the channels of one of `groups` groups. Two elements share unless they differ elsewhere.
    Raises ValueError for another letter, both C and G, or groups that do not divide C.
    """
    _check_axes(axes)
    channels = shape[1]
    if groups < 1 or channels % groups:
        raise ValueError(f"groups must divide the {channels} channels, got {groups}.")
    example, channel, position = (index.ravel() for index in np.indices(shape))
    kept = [index for letter, index in (("N", example), ("P", position)) if letter not in axes]
    if "C" not in axes:
        kept.append(channel // (channels // groups) if "G" in axes else channel)
    return np.all([index[:, None] == index for index in [np.zeros_like(channel), *kept]], axis=0)


def axes_cube(
    norms: Mapping[str, str],
    *,
    shape: Sequence[int] = (4, 6, 9),
    groups: int = 3,
    uncentered: Sequence[str] = ("RMSNorm",),
) -> HTML:
    """Choose a norm, a shape and an element; see which elements share its statistics.

    `norms` maps each name to the axes that it averages over, letters as for `sharing`. `shape` is
    the first (examples, channels, positions), at most (4, 8, 9); `groups` the first number of
    groups for norms over G. The norms in `uncentered` subtract no mean.

    Raises ValueError for axes that `sharing` refuses, no norm over G, a shape out of bounds, or
    groups that do not divide the channels.
    """
    for axes in norms.values():
        _check_axes(axes)
    if not any("G" in axes for axes in norms.values()):
        raise ValueError("one of the norms must average over groups, G, for the slider of groups.")
    lowest, highest = (1, 2, 1), (4, 8, 9)
    if len(shape) != 3 or not all(lowest[i] <= shape[i] <= highest[i] for i in range(3)):
        raise ValueError(f"shape must lie between {lowest} and {highest}, got {tuple(shape)}.")
    if groups < 1 or shape[1] % groups:
        raise ValueError(f"groups must divide the {shape[1]} channels, got {groups}.")
    options = "".join(f"<option>{escape(name)}</option>" for name in norms)
    controls = f'<label>norm <select data-role="norm">{options}</select></label>'
    for role, label, low, high, value in (
        ("N", "examples N", lowest[0], highest[0], shape[0]),
        ("C", "channels C", lowest[1], highest[1], shape[1]),
        ("P", "positions H·W", lowest[2], highest[2], shape[2]),
        ("G", "groups", 0, 1, 0),
    ):
        controls += (
            f'<label>{label} <input type="range" data-role="{role}" min="{low}" max="{high}" '
            f'step="1" value="{value}"> <output></output></label>'
        )
    body = (
        f'<style>{_CUBE_STYLE}</style><div class="nbu-cube"><div class="nbu-controls">{controls}'
        '</div><div class="nbu-cube-grid" tabindex="0" role="group" aria-label="Elements: choose '
        "one with the arrow keys (left and right: position, up and down: channel, Page Up and Page "
        'Down: example) or by a click"><svg aria-hidden="true"></svg></div></div>'
    )
    data = {
        "norms": [
            {"name": name, "axes": axes, "centered": name not in uncentered}
            for name, axes in norms.items()
        ],
        "groups": groups,
    }
    return _figure("axes_cube", data, body, _cube_table(norms, shape, groups))


def _check_axes(axes: str) -> None:
    if not axes or set(axes) - set(_AXES) or {"C", "G"} <= set(axes):
        raise ValueError(f"axes are letters of {list(_AXES)}, C or G but not both; got {axes!r}.")


def _cube_table(norms: Mapping[str, str], shape: Sequence[int], groups: int) -> str:
    """The text equivalent: what each norm averages over, how many values, how many statistics."""
    examples, channels, positions = shape
    sizes = {"N": examples, "C": channels, "G": channels // groups, "P": positions}
    rows = ""
    for name, axes in norms.items():
        over = ", ".join(_AXES[axis] for axis in _AXES if axis in axes)
        values = math.prod(sizes[axis] for axis in axes)
        cells = (escape(name), over, values, math.prod(shape) // values)
        rows += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    head = "".join(
        f"<th>{text}</th>"
        for text in ("norm", "averages over", "values per statistic", "number of statistics")
    )
    return (
        f"<details><summary>The same in numbers, for ({examples}, {channels}, {positions}) and "
        f"{groups} groups</summary><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
        "</table></details>"
    )

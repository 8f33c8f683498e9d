"""Figures to push with a finger: one HTML output over measured data, no library, no network.

The same output works in the book, in JupyterLab and in Colab, by mouse, touch and keyboard. Where
scripts are off, the table below it says the same in numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
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
.nbu svg {width: 100%; max-width: 46em; height: auto; color: inherit}
.nbu text {fill: currentColor; font-size: 13px}
.nbu-grid {stroke: currentColor; stroke-opacity: .18}
.nbu-line {stroke: #2b8cd6; stroke-width: 2; fill: none}
.nbu-dot {fill: #2b8cd6}
.nbu figcaption {font-weight: 600; min-height: 3em}
.nbu table {font-variant-numeric: tabular-nums}
"""


def profiles(
    frame: pd.DataFrame,
    *,
    controls: Sequence[str],
    x: str,
    y: str,
    start: Mapping[str, float],
    caption: str,
    labels: Mapping[str, str] | None = None,
) -> HTML:
    """Sliders over measured profiles: choose each of `controls`, see `y` against `x`, log scale.

    `frame` has one row for every combination of the controls and every x (average over seeds
    first), x = 1, 2, …. `start` gives the first choice. `caption` is the sentence that answers,
    with {control} for each control and {ratio} for the first y over the last. `labels` gives
    columns another name for the reader.

    Raises KeyError for a missing column, ValueError for a y that is not positive, a combination
    that is missing, or a start that was not measured.
    """
    missing = [name for name in [*controls, x, y] if name not in frame]
    if missing:
        raise KeyError(f"no column {missing} in the measurements; there are {list(frame.columns)}")
    if not (frame[y] > 0).all():
        raise ValueError(
            f"column {y!r} must be positive, because it is drawn on a logarithmic axis"
        )
    labels = {name: name for name in frame} | dict(labels or {})
    values = [sorted(frame[name].unique().tolist()) for name in controls]
    for name, each in zip(controls, values, strict=True):
        if start[name] not in each:
            raise ValueError(f"start[{name!r}] = {start[name]} was not measured; there are {each}")
    curves = {
        key: rows.sort_values(x)[y].map(math.log10).round(2).tolist()
        for key, rows in frame.groupby(list(controls))
    }
    decades = frame[y].map(math.log10)
    data = {
        "controls": [
            {"name": name, "values": each} for name, each in zip(controls, values, strict=True)
        ],
        "profiles": _nested(curves, values),
        "x": labels[x],
        "y": labels[y],
        "caption": caption,
        "low": math.floor(decades.min()),
        "high": math.ceil(decades.max() + 1e-9),
        "longest": max(map(len, curves.values())),
    }
    sliders = "".join(
        f'<label>{escape(labels[name])} <input type="range" min="0" max="{len(each) - 1}" step="1" '
        f'value="{each.index(start[name])}"> <output></output></label>'
        for name, each in zip(controls, values, strict=True)
    )
    picture = (
        '<svg viewBox="0 0 640 300" role="img" '
        f'aria-label="{escape(labels[y])} against {escape(labels[x])}">'
        '<g class="nbu-axes"></g><g class="nbu-marks"></g></svg>'
    )
    return _figure(
        "profiles",
        data,
        f'<div class="nbu-controls">{sliders}</div>{picture}',
        _table(curves, controls, labels),
    )


def _nested(curves: dict, values: list[list], chosen: tuple = ()) -> list:
    """Curves as nested lists in the order of the controls' values: indices, not floats, as keys."""
    if len(chosen) == len(values):
        if chosen not in curves:
            raise ValueError(
                f"no measurement for the combination {chosen}: every slider position needs one"
            )
        return curves[chosen]
    return [_nested(curves, values, (*chosen, value)) for value in values[len(chosen)]]


def _table(curves: dict, controls: Sequence[str], labels: Mapping[str, str]) -> str:
    """The text equivalent: first over last value for every position of the sliders."""
    head = "".join(f"<th>{escape(labels[name])}</th>" for name in controls)
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{part}</td>" for part in key)
        + f"<td>{10 ** (curve[0] - curve[-1]):.1e}</td></tr>"
        for key, curve in curves.items()
    )
    return (
        "<details><summary>The same in numbers</summary>"
        f"<table><thead><tr>{head}<th>first / last</th></tr></thead>"
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
        '<figcaption aria-live="polite">The sliders need JavaScript; the table below holds the '
        f"same numbers.</figcaption>{text}</figure>"
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

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

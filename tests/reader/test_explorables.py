"""Explorables: measured data in, one self-contained output out. The browser tests push them."""

import json
import re

import pandas as pd
import pytest

from nbutils import explorables

FRAME = pd.DataFrame(
    [(depth, gain, layer, 10.0 ** (gain * layer)) for depth in (2, 3) for gain in (0.5, 1.0)
     for layer in range(1, depth + 1)],
    columns=["depth", "gain", "layer", "size"],
)  # fmt: skip


def answer(rows):
    return f"depth {rows.depth.iloc[0]}, gain {rows.gain.iloc[0]}: up to {rows['size'].max():.4g}"


SETTINGS = {
    "controls": ["depth", "gain"], "x": "layer", "y": "size", "yscale": "log",
    "start": {"depth": 3, "gain": 1.0}, "caption": answer,
}  # fmt: skip


def data_of(html):
    return json.loads(re.search(r'getElementById\("[^"]+"\),(\{.*\})\);</script>', html, re.S)[1])


def test_the_data_are_those_measured():
    data = data_of(explorables.curves(FRAME, **SETTINGS).data)
    assert data["controls"] == [["2", "3"], ["0.5", "1.0"]]
    caption, panel = data["curves"][1][0]  # depth 3, gain 0.5
    assert caption == "depth 3, gain 0.5: up to 31.62"
    assert panel == [[0.5, 1.0, 1.5]]  # in decades
    assert data["panels"] == [{"title": "", "x": [1, 2, 3], "low": 0, "high": 4}]
    assert data["curves"][0][0][1] == [[0.5, 1.0, None]]  # depth 2 has no third layer


def test_lines_and_panels():
    frame = pd.DataFrame(
        [(n, kind, line, x, x * n + (kind == "var")) for n in (4, 2) for kind in ("mean", "var")
         for line in ("measured", "theory") for x in (0.5, 1.5)],
        columns=["n", "kind", "line", "x", "y"],
    )  # fmt: skip
    html = explorables.curves(
        frame, controls=["n"], x="x", y="y", hue="line", panel="kind", start={"n": 2},
        caption=lambda rows: f"n = {rows.n.iloc[0]}", labels={"var": "variance"},
    ).data  # fmt: skip
    data = data_of(html)
    assert data["controls"] == [["2", "4"]]
    assert [panel["title"] for panel in data["panels"]] == ["mean", "variance"]
    assert data["curves"][0] == ["n = 2", [[1.0, 3.0]] * 2, [[2.0, 4.0]] * 2]
    assert html.count("<svg") == 2
    assert html.count('class="nbu-key"') == 2
    assert data["panels"][0]["low"] < 1.0
    assert data["panels"][1]["high"] > 7.0


def test_words_keep_their_order():
    frame = FRAME.assign(gain=FRAME.gain.map({0.5: "small", 1.0: "large"}))
    settings = SETTINGS | {"start": {"depth": 3, "gain": "large"}}
    assert data_of(explorables.curves(frame, **settings).data)["controls"][1] == ["small", "large"]


@pytest.mark.parametrize(
    ("start", "places"),
    [({"depth": 2, "gain": 0.5}, ["0", "0"]), ({"depth": 2, "gain": 1.0}, ["0", "1"]),
     ({"depth": 3, "gain": 0.5}, ["1", "0"])],
)  # fmt: skip
def test_sliders_begin_at_the_start_and_end_at_the_last_value(start, places):
    html = explorables.curves(FRAME, **(SETTINGS | {"start": start})).data
    sliders = re.findall(r'min="0" max="(\d)" step="1" value="(\d)"', html)
    assert sliders == [("1", place) for place in places]


@pytest.mark.parametrize(
    ("value", "drawn"), [(1234.56, 1235), (0.00123456, 0.001235), (-2.0, -2), (12345678, 1.235e7)]
)
def test_data_have_four_digits(value, drawn):
    frame = pd.DataFrame({"n": 1, "x": [1.0, 3.14159], "y": [value, 0.0]})
    html = explorables.curves(
        frame, controls=["n"], x="x", y="y", start={"n": 1}, caption=lambda rows: "c"
    ).data
    assert data_of(html)["curves"][0] == ["c", [[drawn, 0]]]
    assert data_of(html)["panels"][0]["x"] == [1, 3.142]


def test_controls_and_text_equivalent():
    html = explorables.curves(FRAME, labels={"gain": "gain σ"}, **SETTINGS).data
    assert html.count('type="range"') == 2
    assert "gain σ" in html
    assert 'aria-live="polite"' in html
    assert "<td>3</td><td>1.0</td><td>depth 3, gain 1.0: up to 1000</td>" in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")


def test_nothing_in_the_data_ends_the_script():
    html = explorables.curves(FRAME, **(SETTINGS | {"caption": lambda rows: "</script>"})).data
    assert html.count("</script>") == 1


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"y": "weight"}, KeyError, "no column"),
        ({"hue": "colour"}, KeyError, "no column"),
        ({"start": {"depth": 4, "gain": 1.0}}, ValueError, "was not measured"),
        ({"start": {"depth": 3}}, ValueError, "was not measured"),
        ({"yscale": "symlog"}, ValueError, "yscale must be"),
    ],
)
def test_wrong_settings(change, error, words):
    with pytest.raises(error, match=words):
        explorables.curves(FRAME, **(SETTINGS | change))


def test_every_position_of_the_sliders_needs_a_measurement_that_can_be_drawn():
    with pytest.raises(ValueError, match="no measurement for the combination"):
        explorables.curves(FRAME[(FRAME.depth == 3) | (FRAME.gain == 1.0)], **SETTINGS)
    with pytest.raises(ValueError, match="must be positive"):
        explorables.curves(FRAME.assign(size=-1.0), **SETTINGS)
    with pytest.raises(ValueError, match="must be finite"):
        explorables.curves(FRAME.assign(size=float("nan")), **(SETTINGS | {"yscale": "linear"}))
    with pytest.raises(ValueError, match="has 10 lines; 3 can be told apart"):
        explorables.curves(FRAME.assign(hue=range(4, 14)), **(SETTINGS | {"hue": "hue"}))

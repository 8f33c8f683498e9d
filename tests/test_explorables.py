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
SETTINGS = {
    "controls": ["depth", "gain"], "x": "layer", "y": "size", "start": {"depth": 3, "gain": 1.0},
    "caption": "{depth} {gain}: {ratio}",
}  # fmt: skip


def data_of(html):
    return json.loads(re.search(r'getElementById\("[^"]+"\),(\{.*\})\);</script>', html, re.S)[1])


def test_the_data_are_those_measured():
    data = data_of(explorables.profiles(FRAME, **SETTINGS).data)
    assert [control["values"] for control in data["controls"]] == [[2, 3], [0.5, 1.0]]
    assert data["profiles"][1][0] == [0.5, 1.0, 1.5]  # depth 3, gain 0.5, in decades
    assert data["longest"] == 3
    assert data["low"] <= 0.5
    assert data["high"] >= 3.0


def test_controls_and_text_equivalent():
    html = explorables.profiles(FRAME, labels={"gain": "gain σ"}, **SETTINGS).data
    assert html.count('type="range"') == 2
    assert "gain σ" in html
    assert 'aria-live="polite"' in html
    assert "<td>3</td><td>1.0</td><td>1.0e-02</td>" in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")


def test_nothing_in_the_data_ends_the_script():
    html = explorables.profiles(FRAME, **(SETTINGS | {"caption": "</script>{ratio}"})).data
    assert html.count("</script>") == 1


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"y": "weight"}, KeyError, "no column"),
        ({"start": {"depth": 4, "gain": 1.0}}, ValueError, "was not measured"),
    ],
)
def test_wrong_settings(change, error, words):
    with pytest.raises(error, match=words):
        explorables.profiles(FRAME, **(SETTINGS | change))


def test_every_position_of_the_sliders_needs_a_positive_measurement():
    with pytest.raises(ValueError, match="no measurement for the combination"):
        explorables.profiles(FRAME[(FRAME.depth == 3) | (FRAME.gain == 1.0)], **SETTINGS)
    with pytest.raises(ValueError, match="must be positive"):
        explorables.profiles(FRAME.assign(size=-1.0), **SETTINGS)

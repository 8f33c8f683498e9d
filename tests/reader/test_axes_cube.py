"""The axes cube: its rule is that of the layers, and the picture follows the rule."""

import json
import re

import browser
import numpy as np
import pytest
import torch
from playwright.sync_api import Page, sync_playwright

from nbutils import explorables, layers

NORMS = {
    "BatchNorm": "NP",
    "LayerNorm": "CP",
    "LayerNorm of tokens": "C",
    "InstanceNorm": "P",
    "GroupNorm": "GP",
    "RMSNorm": "C",
}
SHAPE, GROUPS = (2, 4, 3), 2
FLAGS = ("--no-sandbox", "--disable-gpu")


def of_tokens(layer):
    return lambda x: layer(x.transpose(1, 2)).transpose(1, 2)


LAYERS = {
    "BatchNorm": layers.BatchNorm(4),
    "LayerNorm": layers.LayerNorm((4, 3)),
    "LayerNorm of tokens": of_tokens(layers.LayerNorm(4)),
    "InstanceNorm": layers.InstanceNorm(4),
    "GroupNorm": layers.GroupNorm(GROUPS, 4),
    "RMSNorm": of_tokens(layers.RMSNorm(4)),
}


@pytest.mark.parametrize("name", NORMS)
def test_the_rule_is_what_the_layer_does(name):
    """An output depends on an input exactly where the rule says that they share statistics."""
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    jacobian = torch.autograd.functional.jacobian(LAYERS[name], x)
    depends = jacobian.reshape(x.numel(), x.numel()).numpy() != 0
    assert np.array_equal(depends, explorables.sharing(NORMS[name], SHAPE, GROUPS))


@pytest.mark.parametrize("axes", ["", "X", "CG", "NX"])
def test_unknown_axes_are_refused(axes):
    with pytest.raises(ValueError, match="letters of"):
        explorables.sharing(axes, SHAPE)
    with pytest.raises(ValueError, match="letters of"):
        explorables.axes_cube({"wrong": axes, "GroupNorm": "GP"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": (5, 6, 9)}, "between"),
        ({"shape": (4, 1, 9)}, "between"),
        ({"shape": (4, 6)}, "between"),
        ({"groups": 4}, "groups must divide the 6 channels"),
        ({"norms": {"BatchNorm": "NP"}}, "over groups"),
    ],
)
def test_wrong_settings(options, words):
    with pytest.raises(ValueError, match=words):
        explorables.axes_cube(**({"norms": NORMS} | options))


def test_groups_must_divide():
    with pytest.raises(ValueError, match="groups must divide"):
        explorables.sharing("GP", SHAPE, 3)


def test_text_equivalent():
    html = explorables.axes_cube(NORMS).data
    assert 'aria-live="polite"' in html
    cell, number = "<td>([^<]*)</td>", r"<td>(\d+)</td>"
    rows = re.findall(f"<tr>{cell}{cell}{number}{number}</tr>", html)
    assert [row[0] for row in rows] == list(NORMS)
    assert rows[0][1:] == ("examples, positions", "36", "6")
    assert rows[4][1:] == ("the group's channels, positions", "18", "12")
    for name, _, values, statistics in rows:
        rule = explorables.sharing(NORMS[name], (4, 6, 9), 3)
        assert (rule.sum(0) == int(values)).all()
        assert len(np.unique(rule, axis=0)) == int(statistics)


def test_data():
    html = explorables.axes_cube(NORMS).data
    data = json.loads(re.search(r'getElementById\("[^"]+"\),(\{.*\})\);</script>', html, re.S)[1])
    assert [norm["axes"] for norm in data["norms"]] == list(NORMS.values())
    assert [norm["centered"] for norm in data["norms"]] == [True] * 5 + [False]
    assert html.count('type="range"') == 4


# --- in a browser ---


@pytest.fixture(scope="module")
def page():
    path = browser.find()
    assert path, browser.REMEDY
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium.new_page(viewport={"width": 360, "height": 740})
        chromium.close()


@pytest.fixture
def cube(page: Page) -> Page:
    page.set_content(explorables.axes_cube(NORMS).data)
    return page


def marked(cube: Page) -> np.ndarray:
    """Which cells are shown as sharing with the chosen one, in the order of the elements."""
    kinds = cube.locator(".nbu-cube-cell").evaluate_all("all => all.map(e => e.className.baseVal)")
    return np.array([bool(re.search("nbu-(same|chosen)", kind)) for kind in kinds])


def set_slider(cube: Page, role: str, value: int) -> None:
    slider = cube.locator(f"[data-role={role}]")
    slider.evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", str(value))


@pytest.mark.parametrize("name", NORMS)
def test_the_picture_follows_the_rule(cube, name):
    cube.locator("select").select_option(name)
    rule = explorables.sharing(NORMS[name], (4, 6, 9), 3)
    for element in (0, 100, 215):
        cube.locator(".nbu-cube-cell").nth(element).click()
        assert np.array_equal(marked(cube), rule[element])
        assert f"{rule[element].sum()} values in all" in cube.locator("figcaption").inner_text()


def test_shape_and_groups_follow_the_sliders(cube):
    set_slider(cube, "C", 8)  # 3 groups do not divide 8 channels: 2 do
    assert cube.locator("label:has([data-role=G]) output").inner_text() == "2"
    set_slider(cube, "N", 2)
    set_slider(cube, "P", 1)
    set_slider(cube, "G", 2)  # the third divisor of 8, and it chooses GroupNorm
    assert cube.locator("select").input_value() == "GroupNorm"
    assert np.array_equal(marked(cube), explorables.sharing("GP", (2, 8, 1), 4)[1])
    set_slider(cube, "G", 3)
    caption = cube.locator("figcaption").inner_text()
    assert "with no other" in caption
    assert "alone in its group" in caption


def test_keyboard_moves_the_choice(cube):
    caption = cube.locator("figcaption")
    cube.locator(".nbu-cube-grid").focus()
    assert "example 1, channel 2, position 3" in caption.inner_text()
    for key, words in (
        ("ArrowRight", "example 1, channel 2, position 4"),
        ("ArrowDown", "example 1, channel 3, position 4"),
        ("PageDown", "example 2, channel 3, position 4"),
        ("PageUp", "example 1, channel 3, position 4"),
        ("PageUp", "example 4, channel 3, position 4"),
    ):
        cube.keyboard.press(key)
        assert words in caption.inner_text()


def test_it_fits_a_phone(cube):
    assert cube.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for count in (1, 2, 3, 4):
        set_slider(cube, "N", count)
        assert cube.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

"""Every explorable of the built book answers to keyboard, mouse and touch."""

from __future__ import annotations

import pytest
from built import MODES, each_with_explorables, visit
from playwright.sync_api import Locator, expect


def controls(figure: Locator) -> list[Locator]:
    """What a reader can set in an explorable: sliders, choices, buttons."""
    return figure.locator("input, select, button").all()


def push_by_keyboard(control: Locator) -> None:
    """Change a control with the arrow keys, or a button with the space bar."""
    control.focus()
    if control.get_attribute("type") == "range":
        at_end = control.evaluate("e => Number(e.value) === Number(e.max)")
        control.press("ArrowLeft" if at_end else "ArrowRight")
    elif control.get_attribute("type") == "radio" or control.evaluate("e => e.tagName") == "SELECT":
        control.press("ArrowDown")
    else:
        control.press("Space")


def push_by_pointer(control: Locator, *, touch: bool) -> None:
    """Change a control by mouse or finger: a slider at the end that it is not near."""
    control.scroll_into_view_if_needed()
    position = None
    if control.get_attribute("type") == "range":
        part = control.evaluate("e => (e.value - e.min) / (e.max - e.min)")
        box = control.bounding_box()
        position = {"x": box["width"] * (0.1 if part > 0.5 else 0.9), "y": box["height"] / 2}
    if control.evaluate("e => e.tagName") == "SELECT":
        control.select_option(index=control.evaluate("e => e.selectedIndex ? 0 : 1"))
    elif touch:
        control.tap(position=position)
    else:
        control.click(position=position)


@each_with_explorables
@pytest.mark.parametrize("by", ["keyboard", "mouse", "touch"])
def test_explorables_answer(chromium, site, page, by):
    mode = MODES["phone" if by == "touch" else "light"]
    with chromium.new_context(**mode) as context:
        opened = visit(context, site, page).page
        figures = opened.locator("figure.nbu").all()
        assert figures
        for figure in figures:
            assert controls(figure)
            caption = figure.locator("[aria-live]")
            for control in controls(figure):
                if control.get_attribute("type") == "radio" and control.is_checked():
                    continue  # choosing what is chosen changes nothing
                before = caption.inner_text()
                if by == "keyboard":
                    push_by_keyboard(control)
                else:
                    push_by_pointer(control, touch=by == "touch")
                expect(caption).not_to_have_text(before, timeout=2000)
                assert caption.inner_text().strip()


@each_with_explorables
def test_explorables_speak_without_scripts(chromium, site, page):
    with chromium.new_context(java_script_enabled=False) as context:
        opened = context.new_page()
        opened.goto(site + page)
        figures = opened.locator("figure.nbu").all()
        assert figures
        for figure in figures:
            assert figure.locator("figcaption").inner_text().strip()
            assert figure.locator("table tbody tr").count() > 0

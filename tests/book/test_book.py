"""The built book, as a reader meets it: in a browser, in light, in dark, and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from urllib.parse import urlsplit

import pytest
from built import FIRST_VISIT, MODES, NEXT_PAGE, PAGES, READING_ORDER, Visit, visit
from playwright.sync_api import Browser

AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
# All of WCAG 2.2 A and AA, and axe's best practices; also label-content-name-mismatch, which is off
# unless its tag is asked for. `preload` would fetch the theme's style sheets from a wrong folder.
EVERYTHING = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# In the dark only the colours differ, and on a phone only they do not.
COLOURS = ["color-contrast", "link-in-text-block"]
RULES = {
    "light": {"runOnly": EVERYTHING},
    "dark": {"runOnly": COLOURS},
    "phone": {"runOnly": EVERYTHING, "rules": {rule: {"enabled": False} for rule in COLOURS}},
}
RUN_AXE = """(options) => axe.run({
  preload: false,
  ...options,
}).then((found) => found.violations.map(
  (v) => `${v.id} (${v.impact}): ${v.nodes.map((n) => n.html.slice(0, 200)).join("\\n    ")}`
))"""

# A page has thousands of code tokens in a dozen colours; one of each is enough for axe.
THIN_CODE = """() => {
  const kept = new Set();
  for (const token of document.querySelectorAll("article .highlight pre span")) {
    const kind = `${token.closest(".cell_output") ? "output" : "input"} ${token.className}`;
    if (kept.has(kind)) token.replaceWith(...token.childNodes);
    kept.add(kind);
  }
  for (const code of document.querySelectorAll("article .highlight pre")) code.normalize();
}"""


@pytest.fixture(scope="module", params=[(page, mode) for page in PAGES for mode in MODES], ids=str)
def seen(request: pytest.FixtureRequest, chromium: Browser, site: str) -> Iterator[Visit]:
    """Each page in each mode, opened once in a fresh profile."""
    page, mode = request.param
    with chromium.new_context(**MODES[mode]) as context:
        yield visit(context, site, page, mode)


def test_page_opens_without_trouble(seen):
    assert seen.troubles == []


def test_page_does_not_scroll_sideways(seen):
    # A hidden overflow would cut text off instead, so look at the elements too. MathML for screen
    # readers is clipped to a pixel, wherever it stands.
    outside = seen.page.evaluate("""() => {
        const scrolls = (e) => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
        const inScroller = (e) => e && (scrolls(e) || inScroller(e.parentElement));
        return [...document.querySelectorAll("article *")].filter((e) =>
            e.getBoundingClientRect().right > window.innerWidth + 1
            && getComputedStyle(e).position !== "absolute" && !inScroller(e.parentElement)
            && !e.closest("mjx-assistive-mml")
        ).map((e) => e.outerHTML.slice(0, 120));
    }""")
    assert outside == []
    assert seen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_wide_formulas_show_their_beginning(seen):
    hidden = seen.page.evaluate("""() =>
        [...document.querySelectorAll("article div.math mjx-math > *")].filter((e) =>
            e.getBoundingClientRect().left < e.closest("div.math").getBoundingClientRect().left - 1
        ).map((e) => e.closest("div.math").textContent)
    """)
    assert hidden == []


def test_images_have_a_text_that_is_no_file_name(seen):
    for image in seen.page.locator("article img").all():
        alt = image.get_attribute("alt") or ""
        assert len(alt) > 10, image.get_attribute("src")
        assert not re.search(r"\.(svg|png|jpe?g|webp)$|_images/", alt)


def test_mathematics_is_typeset(seen):
    assert seen.page.locator("article .math:not(:has(mjx-container))").count() == 0
    assert seen.page.locator("mjx-merror").count() == 0


def test_page_is_accessible(seen):
    seen.page.evaluate(THIN_CODE)
    seen.page.evaluate(AXE)
    assert seen.page.evaluate(RUN_AXE, RULES[seen.mode]) == []


def test_first_visit_is_light(seen):
    assert sum(seen.weights.values()) <= FIRST_VISIT, heaviest(seen.weights)


@pytest.fixture(scope="module")
def weights(chromium: Browser, site: str) -> dict[str, dict[str, int]]:
    """What each page loads, in reading order."""
    found = {}
    for page in READING_ORDER:
        with chromium.new_context(**MODES["light"]) as context:
            found[page] = visit(context, site, page).weights
    return found


@pytest.mark.parametrize("page", READING_ORDER[1:])
def test_next_page_is_light(weights, page):
    """What a page needs besides what the pages before it have loaded."""
    had = set().union(*(weights[earlier] for earlier in READING_ORDER[: READING_ORDER.index(page)]))
    new = {url: weight for url, weight in weights[page].items() if url not in had}
    assert any(url.endswith(page) for url in new)
    assert sum(new.values()) <= NEXT_PAGE, heaviest(new)


def heaviest(weights: dict[str, int]) -> str:
    ranked = sorted(weights.items(), key=lambda item: -item[1])[:8]
    lines = [f"{weight / 1000:7.1f} kB  {urlsplit(url).path}" for url, weight in ranked]
    return "\n".join([f"{sum(weights.values()) / 1000:.1f} kB in all", *lines])

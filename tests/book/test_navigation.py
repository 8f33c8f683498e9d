"""Finding one's way through the built book."""

from __future__ import annotations

import setup_cell
from built import BOOK, CHAPTERS, READING_ORDER, Links, each_chapter, visit
from playwright.sync_api import expect


def test_search_finds_the_gradient(desktop, site):
    opened = visit(desktop, site, "search.html?q=gradient").page
    first = opened.locator("#search-results ul.search li a").first
    expect(first).to_be_visible()
    results = opened.locator("#search-results ul.search li a").all()
    assert any(CHAPTERS[0] in (result.get_attribute("href") or "") for result in results)


def test_search_field_opens_by_button_and_by_keyboard(desktop, site):
    opened = visit(desktop, site, READING_ORDER[0]).page
    field = opened.locator("#pst-search-dialog input[type=search]")
    opened.locator(".search-button__button:visible").first.click()
    expect(field).to_be_visible()
    opened.keyboard.press("Escape")
    expect(field).to_be_hidden()
    opened.keyboard.press("Control+k")
    expect(field).to_be_visible()
    field.fill("gradient")
    field.press("Enter")
    opened.wait_for_url("**/search.html?q=gradient*")


def test_next_leads_through_the_book_and_previous_back(desktop, site):
    opened = visit(desktop, site, READING_ORDER[0]).page
    for page in READING_ORDER[1:]:
        opened.locator("a.right-next").click()
        opened.wait_for_url(f"**/{page}")
    for page in READING_ORDER[-2::-1]:
        opened.locator("a.left-prev").click()
        opened.wait_for_url(f"**/{page}")


def test_theme_switch_changes_the_theme_and_is_remembered(desktop, site):
    opened = visit(desktop, site, READING_ORDER[0]).page
    colour = "getComputedStyle(document.body).backgroundColor"
    seen = {opened.evaluate(colour)}
    for _ in range(3):  # auto, light, dark
        opened.locator(".theme-switch-button:visible").first.click()
        seen.add(opened.evaluate(colour))
        if opened.locator("html").get_attribute("data-theme") == "dark":
            break
    assert len(seen) == 2
    opened.goto(site + READING_ORDER[1])
    assert opened.locator("html").get_attribute("data-theme") == "dark"


@each_chapter
def test_chapter_offers_colab_download_and_repository(site, page):
    url = setup_cell.address()
    name = page.removesuffix(".html")
    repository = url.removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{repository}/blob/main/{name}.ipynb"
    offered = Links(BOOK / page).links
    for link in (colab, url, f"../_sources/{name}.ipynb"):
        assert link in offered


@each_chapter
def test_setup_cell_is_hidden(site, page):
    assert "NBUTILS_SOURCE" not in (BOOK / page).read_text(encoding="utf-8")

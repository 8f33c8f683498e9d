"""The built book, as a reader meets it: in a browser, in light, in dark, and on a phone."""

from __future__ import annotations

import functools
import gzip
import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import browser
import pytest
import setup_cell
from measured.execution import chapters, toc_files
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "_build/html"
READING_ORDER = [path.relative_to(ROOT).with_suffix(".html").as_posix() for path in toc_files(ROOT)]
CHAPTERS = [path.relative_to(ROOT).with_suffix(".html").as_posix() for path in chapters(ROOT)]
PAGES = [*READING_ORDER, "search.html", "genindex.html"]
FIRST_VISIT, NEXT_PAGE = 600_000, 120_000  # bytes, gzipped
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
MODES = {
    "light": {"color_scheme": "light", "viewport": DESKTOP},
    "dark": {"color_scheme": "dark", "viewport": DESKTOP},
    "phone": {"color_scheme": "light", "viewport": PHONE, "has_touch": True, "is_mobile": True},
}
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
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

each_chapter = pytest.mark.parametrize("page", CHAPTERS)
# Of the notebook, not of the page: an explorable that is not there must not go unnoticed.
each_with_explorables = pytest.mark.parametrize(
    "page",
    [
        page
        for page in CHAPTERS
        if "explorables." in (ROOT / page).with_suffix(".ipynb").read_text(encoding="utf-8")
    ],
)


class QuietServer(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Address of the book, built anew if it is stale."""
    build = [sys.executable, ROOT / "tools/build.py"]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    handler = functools.partial(QuietServer, directory=str(BOOK))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = browser.find()
    assert path, browser.REMEDY
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@dataclass
class Visit:
    """An open page, and what happened while it loaded."""

    page: Page
    mode: str
    troubles: list[str] = field(default_factory=list)
    weights: dict[str, int] = field(default_factory=dict)  # address: bytes, gzipped


def visit(context: BrowserContext, site: str, name: str, mode: str = "light") -> Visit:
    """Open a page, scroll to its end, and wait until mathematics and fonts are there."""
    seen = Visit(context.new_page(), mode)

    def note_response(response) -> None:
        if response.status >= 400:
            seen.troubles.append(f"{response.status} for {response.url}")
        if response.ok:
            body = response.body()
            seen.weights[response.url] = min(len(body), len(gzip.compress(body)))

    def note_request(request) -> None:
        if not request.url.startswith((site, "data:", "blob:")):
            seen.troubles.append(f"request to another host: {request.url}")

    def note_message(message) -> None:
        if message.type in ("error", "warning"):
            seen.troubles.append(f"console: {message.text}")

    seen.page.on("response", note_response)
    seen.page.on("request", note_request)
    seen.page.on("console", note_message)
    seen.page.on("pageerror", lambda error: seen.troubles.append(f"script error: {error}"))
    seen.page.goto(site + name, wait_until="load")
    seen.page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    seen.page.evaluate("window.MathJax && MathJax.startup && MathJax.startup.promise")
    seen.page.evaluate("document.fonts.ready")
    if seen.page.locator("link[rel=prefetch]").count():
        seen.page.wait_for_load_state("networkidle")
    return seen


@pytest.fixture(scope="module", params=[(page, mode) for page in PAGES for mode in MODES], ids=str)
def seen(request: pytest.FixtureRequest, chromium: Browser, site: str) -> Iterator[Visit]:
    """Each page in each mode, opened once in a fresh profile."""
    page, mode = request.param
    with chromium.new_context(**MODES[mode]) as context:
        yield visit(context, site, page, mode)


@pytest.fixture
def desktop(chromium: Browser) -> Iterator[BrowserContext]:
    with chromium.new_context(**MODES["light"]) as opened:
        yield opened


# --- every page, in every mode ---


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


# --- links, without a browser ---


class Links(HTMLParser):
    """The ids of a page, and what it refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.update(filter(None, (given.get("id"), given.get("name"))))
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag in ("link", "script", "img", "source", "iframe"):
            self.loads.extend(filter(None, (given.get("href"), given.get("src"))))


def test_every_link_and_every_anchor_leads_somewhere(site):
    pages = {path: Links(path) for path in BOOK.rglob("*.html")}
    broken = []
    for path, found in pages.items():
        for link in found.links + found.loads:
            if urlsplit(link).scheme in ("https", "mailto", "data", "javascript"):
                continue
            target, anchor = urldefrag(urljoin(path.as_uri(), link))
            there = Path(unquote(urlsplit(target).path))
            known = pages[there].ids if there in pages else None
            if not there.is_file() or (
                anchor and known is not None and unquote(anchor) not in known
            ):
                broken.append(f"{path.relative_to(BOOK)}: {link}")
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(site):
    for path in BOOK.rglob("*.html"):
        foreign = [load for load in Links(path).loads if urlsplit(load).netloc]
        assert foreign == [], path.name


def test_ids_are_unique_where_links_could_be_ambiguous(site):
    for path in BOOK.rglob("*.html"):
        evidence = re.findall(r'id="(evidence-[^"]+)"', path.read_text(encoding="utf-8"))
        assert len(evidence) == len(set(evidence)), path.name


# --- finding one's way ---


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


# --- explorables ---


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


# --- evidence ---


@each_chapter
def test_evidence_cards_are_in_the_ledger(site, page):
    cards = [name for name in Links(BOOK / page).ids if name.startswith("evidence-")]
    assert cards
    linked = Links(BOOK / "book/ledger.html").links
    for card in cards:
        assert f"../{page}#{card}" in linked

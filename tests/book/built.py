"""The built book: its pages, how a reader opens one, and what a page refers to."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
from measured.execution import chapters, toc_files
from playwright.sync_api import BrowserContext, Page

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

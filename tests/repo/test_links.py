"""Links lead somewhere, and nothing is loaded from the network."""

from __future__ import annotations

import re
from pathlib import Path

from repository import NOTEBOOKS, cells, tracked


def slug(heading: str) -> str:
    """The anchor that GitHub, and so the book, gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {slug(heading) for heading in headings}


CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_links_of_pages_and_chapters_lead_somewhere():
    pages = [path for path in tracked() if path.suffix == ".md"]
    texts = [(page, page.read_text(encoding="utf-8")) for page in pages]
    texts += [(n, "\n".join(c["source"] for c in cells(n, "markdown"))) for n in NOTEBOOKS]
    for path, text in texts:
        for link in LINK.findall(CODE.sub("", text)):
            if link.startswith("https://"):
                continue
            target, _, anchor = link.partition("#")
            page = (path.parent / target).resolve() if target else path
            assert page.is_file(), f"{path.name} links to {link}, which is not there"
            if anchor and page.suffix == ".md":
                assert anchor in anchors(page), f"{path.name} links to {link}: no such heading"


LOADS = re.compile(
    r"""(?:src\s*=|@import|url\(|import\s*\(|fetch\(|importScripts\(|urlopen\(|requests\.\w+\()"""
    r"""\s*["'(]*\s*(?:https?:)?//|\bfrom\s*["'](?:https?:)?//""",
    re.IGNORECASE,
)


def test_nothing_is_loaded_from_the_network():
    suffixes = {".py", ".js", ".css", ".html", ".svg"}
    texts = [(p, p.read_text(encoding="utf-8")) for p in tracked() if p.suffix in suffixes]
    texts += [(n, "\n".join(c["source"] for c in cells(n, "code")[1:])) for n in NOTEBOOKS]
    for path, text in texts:
        found = LOADS.search(text)
        assert not found, f"{path.name} loads something from the network: {found[0]}"

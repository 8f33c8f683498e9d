"""The links of the built book, without a browser."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from built import BOOK, Links, each_chapter


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


@each_chapter
def test_evidence_cards_are_in_the_ledger(site, page):
    cards = [name for name in Links(BOOK / page).ids if name.startswith("evidence-")]
    assert cards
    linked = Links(BOOK / "book/ledger.html").links
    for card in cards:
        assert f"../{page}#{card}" in linked

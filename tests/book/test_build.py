"""The build machinery, on a book of two short chapters: what it executes, and what it refuses."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from small_book import (
    CHECK,
    CLAIM,
    REVIEW,
    TEXT,
    Build,
    chapter,
    page,
    write_awaiting,
    write_book,
    write_claims,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small book, built once."""
    book = tmp_path_factory.mktemp("small") / "book"
    write_book(book)
    build = Build(book)
    assert build.status == 0, build.said
    assert build.executed == {"01-sky", "02-sea"}
    return book


@pytest.fixture
def book(built: Path, tmp_path: Path) -> Path:
    """A copy of the built book, to change."""
    return Path(shutil.copytree(built, tmp_path / "book"))


def test_ledger_links_the_measurement_to_its_cell(built):
    ledger, sky = page(built, "book/ledger"), page(built, "notebooks/01-sky")
    assert 'href="../notebooks/01-sky.html#evidence-sky-is-up"' in ledger
    assert 'id="evidence-sky-is-up"' in sky
    for text in ("1 claim", "<strong>up</strong>", "It was up each time.", "Said by everybody"):
        assert text in ledger
    assert re.search(r"1\.50? \[1\.25, 1\.75\], n = 5", ledger)


def test_progress_bars_leave_no_trace(built):
    sky = page(built, "notebooks/01-sky")
    assert "counted" in sky
    assert "it/s" not in sky
    assert "stderr" not in sky


def test_pages_are_without_the_icon_script_and_with_the_icons(built):
    static = built / "_build/html/_static"
    assert "fontawesome" not in page(built, "notebooks/01-sky")
    assert not [*static.rglob("fontawesome.js"), *static.rglob("fa-solid*")]
    assert "@font-face" not in (static / "styles/pydata-sphinx-theme.css").read_text()
    assert ".fa-magnifying-glass{--icon:url(" in (static / "icons.css").read_text()


def test_nothing_changed_executes_nothing(book):
    build = Build(book)
    assert build.status == 0, build.said
    assert build.executed == set()


def test_editing_one_chapter_executes_only_that_one(book):
    chapter(book / "notebooks/02-sea.ipynb", "Is the sea wet?", "20 + 22")
    build = Build(book)
    assert build.status == 0, build.said
    assert build.executed == {"02-sea"}
    assert "42" in page(book, "notebooks/02-sea")


def test_editing_nbutils_executes_all_chapters(book):
    (book / "nbutils/helper.py").write_text("ANSWER = 42\n")
    build = Build(book)
    assert build.status == 0, build.said
    assert build.executed == {"01-sky", "02-sea"}
    assert len(list((book / "_build/executed").iterdir())) == 1  # the older results are gone


def test_editing_the_look_changes_the_built_book(book):
    script = book / "book/_static/book.js"
    script.write_text(script.read_text(encoding="utf-8") + "// a new line\n", encoding="utf-8")
    build = Build(book)
    assert build.status == 0, build.said
    assert build.executed == set()
    assert "// a new line" in (book / "_build/html/_static/book.js").read_text(encoding="utf-8")


def test_chapter_that_raises_is_refused_with_its_cell(book):
    chapter(book / "notebooks/02-sea.ipynb", "Is the sea wet?", "1 + 1", "wet = 1 / 0  # the cell")
    Build(book).refused("notebooks/02-sea.ipynb", "1 / 0  # the cell", "ZeroDivisionError")


def test_warning_is_refused_also_the_second_time(book):
    text = f"# A small book\n\n{TEXT} [lost](nowhere.md)\n"
    (book / "book/preface.md").write_text(text, encoding="utf-8")
    for _ in range(2):
        Build(book).refused("preface.md", "nowhere.md")


def test_text_on_stderr_is_refused(book):
    source = "import sys\nprint('something is odd', file=sys.stderr)"
    chapter(book / "notebooks/02-sea.ipynb", "Is the sea wet?", source)
    Build(book).refused("02-sea.ipynb", "file=sys.stderr", "stderr:\nsomething is odd")


def test_claim_without_evidence_is_refused(book):
    write_claims(book, CLAIM, {**CLAIM, "id": "sky-is-green"})
    Build(book).refused("sky-is-green", "no chapter measured it")


def test_evidence_without_claim_is_refused(book):
    write_claims(book)
    Build(book).refused("sky-is-up", "has no such claim")


@pytest.mark.parametrize("state", ["under review", "passes again"])
def test_check_that_fell_is_under_review_in_the_ledger(book, state):
    write_awaiting(book, REVIEW)
    source = CHECK.replace('review=""', f'review="{state}"')
    chapter(book / "notebooks/01-sky.ipynb", "Is the sky up?", source)
    build = Build(book)
    assert build.status == 0, build.said
    assert build.executed == {"01-sky", "02-sea"}  # the cards say so too
    ledger = page(book, "book/ledger")
    assert "1 under review" in ledger
    assert "verdict under-review" in ledger
    assert "Under review: It was <strong>dark</strong>." in ledger
    assert re.search(r"1\.50? \[1\.25, 1\.75\], n = 5", ledger)
    assert "verdict holds" not in ledger
    assert "It was up each time." not in ledger
    told = {
        "under review": "under review since it fell with -1 (exact)",
        "passes again": "passes again (it fell with -1 (exact)): take it off book/awaiting.yml",
    }
    assert [text in ledger for text in told.values()] == [each == state for each in told]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "preface.md is empty"), ("# A small book\n", "preface is empty")],
    ids=["no text", "only a title"],
)
def test_empty_page_is_refused(book, text, said):
    (book / "book/preface.md").write_text(text, encoding="utf-8")
    Build(book).refused(said)


def test_missing_page_is_refused(book):
    (book / "notebooks/02-sea.ipynb").unlink()
    Build(book).refused("_toc.yml names notebooks/02-sea")

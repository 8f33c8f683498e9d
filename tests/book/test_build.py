"""The build machinery, on a book of two short chapters: what it executes, and what it refuses."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from measured.execution import EVIDENCE, as_terminal, erase_progress_bars
from measured.ledger import problems
from measured.pages import icon_css, theme_drawings
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parents[2]
CLAIM = {
    "id": "sky-is-up",
    "claim": "The sky is **up**.",
    "said_by": ["everybody"],
    "source": "[a book](https://example.org/sky)",
    "chapter": "01",
    "decided_by": "measurement",
    "verdict": "holds",
    "finding": "It was up each time.",
}
CHECK = f"""
from IPython.display import display
found = dict(claim="sky-is-up", anchor="evidence-sky-is-up", statement="height")
found |= dict(prediction="above 0", measured=1.5, low=1.25, high=1.75, n=5, exact=False)
card = '<div class="nbu-evidence" id="evidence-sky-is-up">It is up.</div>'
display({{"text/plain": "up", "text/html": card, "{EVIDENCE}": found}}, raw=True)
"""
PROGRESS = (
    "from tqdm import tqdm\nfor _ in tqdm(range(3), leave=False):\n    pass\nprint('counted')"
)
TEXT = "This chapter has enough words in it to count as a page that somebody may read."


def chapter(path: Path, title: str, *sources: str) -> None:
    """Write a notebook with a title, some text, and code cells."""
    cells = [nbformat.v4.new_markdown_cell(f"# {title}\n\n{TEXT}", id="title")]
    cells += [nbformat.v4.new_code_cell(s, id=f"code-{i}") for i, s in enumerate(sources)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, path)


def write_claims(book: Path, *claims: dict) -> None:
    (book / "book/claims.yml").write_text(yaml.safe_dump(list(claims)), encoding="utf-8")


def write_book(book: Path) -> None:
    """A small book under this repository's own settings."""
    for folder in ("notebooks", "nbutils", "book"):
        (book / folder).mkdir(parents=True)
    for folder in ("_static", "_templates"):
        shutil.copytree(ROOT / "book" / folder, book / "book" / folder)
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["sphinx"]["local_extensions"] = {"measured": str(ROOT / "book/_ext")}
    (book / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    files = ["notebooks/01-sky", "notebooks/02-sea", "book/ledger"]
    toc = {"format": "jb-book", "root": "book/preface", "chapters": [{"file": f} for f in files]}
    (book / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf-8")
    (book / "book/preface.md").write_text(f"# A small book\n\n{TEXT}\n", encoding="utf-8")
    (book / "book/ledger.md").write_text(f"# Ledger\n\n{TEXT}\n\n```{{ledger}}\n```\n")
    (book / "book/references.bib").touch()
    (book / "nbutils/helper.py").write_text("ANSWER = 41\n")
    write_claims(book, CLAIM)
    chapter(book / "notebooks/01-sky.ipynb", "Is the sky up?", CHECK, PROGRESS)
    chapter(book / "notebooks/02-sea.ipynb", "Is the sea wet?", "1 + 1")


class Build:
    """One run of the build: its exit status, what it said, and which chapters it executed."""

    def __init__(self, book: Path) -> None:
        command = [sys.executable, ROOT / "tools/build.py", book]
        done = subprocess.run(command, capture_output=True, text=True)
        self.status = done.returncode
        self.said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        self.executed = set(re.findall(r"^  (\S+): [0-9.]+ s", self.said, re.MULTILINE))

    def refused(self, *words: str) -> None:
        """Assert that the build failed, and said why, without a traceback."""
        assert self.status != 0, self.said
        for word in words:
            assert word in self.said
        assert "Traceback (most recent call last)" not in self.said.split("Extension error")[0]


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


def page(book: Path, name: str) -> str:
    return (book / "_build/html" / f"{name}.html").read_text(encoding="utf-8")


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


# --- parts of the machinery ---


def without(field: str) -> dict:
    return {name: value for name, value in CLAIM.items() if name != field}


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ([CLAIM, CLAIM], "2 claims have this id"),
        ([{**CLAIM, "verdict": "true"}], "the verdict 'true' is none of"),
        ([{**CLAIM, "verdict": False}], "the verdict False is none of"),
        ([{**CLAIM, "decided_by": "vote"}], "decided_by 'vote' is none of"),
        ([{**CLAIM, "chapter": 1}], "the chapter 1 has to be a string"),
        ([{**CLAIM, "said_by": "everybody"}], "said_by has to be a list"),
        ([without("finding")], "the fields finding are missing"),
        ([{**CLAIM, "colour": "blue"}], "unknown fields colour"),
        ([without("id")], "a claim without an id"),
    ],
)
def test_bad_claim_is_named(claims, said):
    assert any(said in problem for problem in problems(claims, []))


def test_claim_decided_by_citation_needs_no_evidence():
    assert problems([{**CLAIM, "decided_by": "citation"}], []) == []


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\r 10%|#\r100%|#####\r             \r", ""),
        ("loading\rdone", "doneing"),
        ("one\ntwo\r\nthree", "one\ntwo\nthree"),
    ],
)
def test_carriage_returns_go_back_as_on_a_terminal(written, shown):
    assert as_terminal(written) == shown


def test_only_erased_text_is_removed_from_stderr():
    outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="\r 50%|##"),
        nbformat.v4.new_output("stream", name="stdout", text="result"),
        nbformat.v4.new_output("stream", name="stderr", text="\r       \rtake care\n"),
    ]
    cell = nbformat.v4.new_code_cell("pass", outputs=outputs)
    erase_progress_bars(nbformat.v4.new_notebook(cells=[cell]))
    assert [(o.name, o.text.strip()) for o in cell.outputs] == [
        ("stderr", "take care"),
        ("stdout", "result"),
    ]


@pytest.fixture(scope="module")
def drawings() -> dict:
    return theme_drawings()


def test_icons_are_found_in_the_theme_by_style(drawings):
    assert "github" in drawings["brands"]
    assert "magnifying-glass" in drawings["solid"]
    assert drawings["regular"]["sun"] != drawings["solid"]["sun"]


def test_unknown_icon_is_refused(drawings):
    with pytest.raises(ExtensionError, match="fa-no-such-icon"):
        icon_css({("solid", "no-such-icon")}, drawings)


def test_an_icon_becomes_a_mask(drawings):
    css = icon_css({("solid", "bars")}, drawings)
    assert '.fa-bars{--icon:url("data:image/svg+xml,%3Csvg' in css

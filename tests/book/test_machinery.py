"""The parts of the build machinery, each alone: nothing here executes a chapter."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from measured import execution
from measured.execution import as_terminal, cache_key, erase_progress_bars
from measured.ledger import Evidence, problems
from measured.pages import icon_css, theme_drawings
from small_book import CLAIM, REVIEW
from sphinx.errors import ExtensionError

# --- what the outputs depend on ---

KEYED = ("nbutils/helper.py", "nbutils/js/figure.js", "book/claims.yml", "book/awaiting.yml")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in KEYED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("some text\n")
    return tmp_path


@pytest.mark.parametrize("name", KEYED)
def test_cache_follows_each_file_that_outputs_depend_on(root, name):
    before = cache_key(root)
    assert cache_key(root) == before
    (root / name).write_text("other text\n")
    assert cache_key(root) != before


@pytest.mark.parametrize(
    "new", ["nbutils/renamed.py", "nbutils/a/helper.py", "nbutils/questions/helper.py"]
)
def test_cache_follows_the_names_of_files(root, new):
    before = cache_key(root)
    (root / new).parent.mkdir(exist_ok=True)
    (root / KEYED[0]).rename(root / new)
    assert cache_key(root) != before


def test_cache_follows_its_own_source(root, monkeypatch):
    before, copy = cache_key(root), root / "execution.py"
    copy.write_text(Path(execution.__file__).read_text(encoding="utf-8") + "# edited\n")
    monkeypatch.setattr(execution, "__file__", str(copy))
    assert cache_key(root) != before


def test_cache_follows_the_seed(root, monkeypatch):
    keys = set()
    for seed in ("1", "2"):
        monkeypatch.setenv("NBUTILS_SEED", seed)
        keys.add(cache_key(root))
    monkeypatch.delenv("NBUTILS_SEED")
    assert len(keys | {cache_key(root)}) == 3


@pytest.mark.parametrize("library", ["torch", "numpy", "scipy", "pandas", "matplotlib", "seaborn"])
def test_cache_follows_the_versions_of_libraries(root, monkeypatch, library):
    before, version = cache_key(root), execution.version
    monkeypatch.setattr(
        execution, "version", lambda name: "0.1" if name == library else version(name)
    )
    assert cache_key(root) != before


def test_cache_ignores_what_python_compiled(root):
    before = cache_key(root)
    (root / "nbutils/helper.pyc").write_bytes(b"compiled")
    assert cache_key(root) == before


# --- claims and evidence ---


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


def evidence(**fields: object) -> Evidence:
    """What the chapter of the small book leaves."""
    found = {
        "page": "notebooks/01-sky", "claim": "sky-is-up", "part": None, "anchor": "sky",
        "statement": "height", "measured": 1.5, "low": 1.25, "high": 1.75, "n": 5, "exact": False,
        "review": "",
    }  # fmt: skip
    return Evidence(**{**found, **fields})


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([evidence(), evidence(statement="width")], "2 pieces of evidence have the anchor"),
        ([], "no chapter measured it"),
        ([evidence(), evidence(claim="sea", anchor="sea")], "notebooks/01-sky measured it, but"),
    ],
)
def test_evidence_that_does_not_fit_is_named(found, said):
    assert len(problems([CLAIM], found)) == 1
    assert said in problems([CLAIM], found)[0]


def test_anchors_are_of_one_page():
    assert problems([CLAIM], [evidence(), evidence(page="notebooks/02-sea")]) == []


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{"claim": "sky-is-up", "reason": "?"}], "an entry has the fields claim, number, part"),
        ([REVIEW, REVIEW], "sky-is-up, part None stands there twice"),
        ([{**REVIEW, "part": "width"}], "sky-is-up, part width: no chapter makes this check"),
        ([{**REVIEW, "claim": "sea"}], "sea, part None: no chapter makes this check"),
    ],
)
def test_bad_entry_of_the_list_under_review_is_named(entries, said):
    told = problems([CLAIM], [evidence()], entries)
    assert len(told) == 1
    assert said in told[0]
    assert problems([CLAIM], [evidence()], [REVIEW]) == []


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

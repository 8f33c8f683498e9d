"""Each chapter has the form of the others, in the file and on the page."""

from __future__ import annotations

import json
import re

import setup_cell
from measured.execution import chapters
from repository import NOTEBOOKS, ROOT, cells, each_notebook, run, tool

SHORTEST_ALT = 40  # characters


@each_notebook
def test_notebook_is_stripped(notebook):
    run(tool("nbstripout"), "--verify", "--keep-id", notebook)


@each_notebook
def test_notebook_is_saved_as_its_tools_save_it(notebook):
    read = json.loads(notebook.read_text(encoding="utf-8"))
    assert (read["nbformat"], read["nbformat_minor"]) == (4, 5)
    assert all(cell["id"] for cell in read["cells"])
    assert read["metadata"]["kernelspec"]["name"] == "python3"


def test_the_book_contains_every_chapter():
    assert NOTEBOOKS
    assert chapters(ROOT) == NOTEBOOKS


@each_notebook
def test_first_code_cell_is_the_setup_cell(notebook):
    first, *others = cells(notebook, "code")
    assert first["source"] == setup_cell.source(setup_cell.address())
    assert "remove-cell" in first["metadata"]["tags"]
    assert not [cell for cell in others if "find_spec" in cell["source"]]


@each_notebook
def test_chapter_opens_with_a_question(notebook):
    assert re.match(r"# [^\n]+\?\n", cells(notebook, "markdown")[0]["source"] + "\n")


@each_notebook
def test_chapter_has_evidence_and_exercises(notebook):
    code = "\n".join(cell["source"] for cell in cells(notebook, "code"))
    assert "evidence.check(" in code
    assert re.search(r"\bexercises\.\w+", code)


FIGURE = re.compile(
    r"\bfigures\.(?!use_theme|summary|style)\w+\(|\bsns\.\w+plot\(|\bplt\.\w+\(|\.plot\("
)


@each_notebook
def test_figures_have_alt_text(notebook):
    for cell in cells(notebook, "code"):
        definition = re.match(r"def |class |@", cell["source"])
        if FIGURE.search(cell["source"]) and not definition:
            alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt) > SHORTEST_ALT, f"no alt text for the figure of:\n{cell['source']}"


MYST = {
    "a directive": re.compile(r"^(```|~~~|:::+)\s*\{", re.MULTILINE),
    "a colon fence": re.compile(r"^:::", re.MULTILINE),
    "a role": re.compile(r"\{[\w:-]+\}`"),
    "a target": re.compile(r"^\([\w-]+\)=\s*$", re.MULTILINE),
    "a footnote": re.compile(r"\[\^[\w-]+\]"),
    "a labelled equation": re.compile(r"\$\$\s*\([\w:-]+\)\s*$", re.MULTILINE),
}


@each_notebook
def test_prose_is_plain_markdown(notebook):
    for cell in cells(notebook, "markdown"):
        found = [name for name, pattern in MYST.items() if pattern.search(cell["source"])]
        assert not found, (
            f"{found} shows as literal text in JupyterLab and Colab:\n{cell['source']}"
        )

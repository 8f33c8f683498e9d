"""A book of two short chapters, and one run of the build on it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml
from measured.execution import EVIDENCE

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
found = dict(claim="sky-is-up", part=None, anchor="evidence-sky-is-up", statement="height")
found |= dict(prediction="above 0", measured=1.5, low=1.25, high=1.75, n=5, exact=False, review="")
card = '<div class="nbu-evidence" id="evidence-sky-is-up">It is up.</div>'
display({{"text/plain": "up", "text/html": card, "{EVIDENCE}": found}}, raw=True)
"""
PROGRESS = (
    "from tqdm import tqdm\nfor _ in tqdm(range(3), leave=False):\n    pass\nprint('counted')"
)
REVIEW = {"claim": "sky-is-up", "part": None, "number": "-1 (exact)", "reason": "It was **dark**."}
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


def write_awaiting(book: Path, *entries: dict) -> None:
    (book / "book/awaiting.yml").write_text(yaml.safe_dump(list(entries)), encoding="utf-8")


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
    write_awaiting(book)
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


def page(book: Path, name: str) -> str:
    return (book / "_build/html" / f"{name}.html").read_text(encoding="utf-8")

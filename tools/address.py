"""Write the repository's address wherever it stands: make address URL=https://github.com/owner/repo

It stands in _config.yml, README.md, CITATION.cff, and the first code cell of every chapter.
Standard library only: it may be the first thing that is run after cloning.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import setup_cell

ROOT = setup_cell.ROOT
GITHUB = re.compile(r"https://github\.com/[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+")
EXAMPLE = "make address URL=https://github.com/owner/repository"


def places(root: Path) -> list[Path]:
    """The files that hold the address."""
    fixed = [root / name for name in ("_config.yml", "README.md", "CITATION.cff")]
    return fixed + sorted((root / "notebooks").glob("*.ipynb"))


def cleaned(url: str) -> str:
    """The address in the form that is written.

    Raises: ValueError that says what is wrong with it.
    """
    url = url.strip().removesuffix("/").removesuffix(".git")
    if not url:
        raise ValueError(f"No address given. Usage: {EXAMPLE}")
    if not GITHUB.fullmatch(url):
        raise ValueError(
            f"{url} is not the address of a GitHub repository, from which Colab could open the "
            f"chapters. It has to look like this: {EXAMPLE}"
        )
    return url


def rewrite(root: Path, old: str, new: str) -> list[Path]:
    """Replace the address in all its places; return the files that changed."""
    changed = []
    # Not inside a longer name: https://github.com/a/b is no part of https://github.com/a/b-c.
    whole = re.compile(re.escape(old) + r"(?![A-Za-z0-9_-])")
    for path in places(root):
        text = path.read_text(encoding="utf-8")
        replaced = whole.sub(new, text)
        if replaced != text:
            path.write_text(replaced, encoding="utf-8")
            changed.append(path)
    return changed


def main() -> None:
    try:
        new = cleaned(sys.argv[1] if len(sys.argv) > 1 else "")
    except ValueError as error:
        sys.exit(str(error))
    old = setup_cell.address()
    if new == old:
        print(f"The address is {new} already.")
        return
    for path in rewrite(ROOT, old, new):
        print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

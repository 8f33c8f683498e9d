"""The first code cell of every chapter: it makes nbutils available, in Colab too.

`source(url)` is its text for the repository at `url`; a test holds all notebooks equal to it.
Run `python tools/setup_cell.py` to print it for the address in _config.yml.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = "https://github.com/OWNER/REPO"
TEMPLATE = """\
# Makes nbutils available where it is missing, as in Colab. Nothing to change here.
import importlib.util
import os
import subprocess
import sys

found = importlib.util.find_spec("nbutils")
place = str(found and found.origin).removesuffix("__init__.py")
if found is None:
    source = os.environ.get("NBUTILS_SOURCE", "git+{url}@main")
    if "/OWNER/REPO" in source:
        raise ModuleNotFoundError(
            "This chapter needs the package nbutils: run `pip install -e .` in the "
            "course's folder, or set NBUTILS_SOURCE to it, and run this cell again."
        )
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, source], check=True)
    importlib.invalidate_caches()
elif not os.path.isfile(place + "evidence.py"):
    raise ImportError(
        f"Another package named nbutils is installed, at {{place}}: run "
        "`pip uninstall nbutils`, restart the kernel, and run this cell again."
    )
"""


def address() -> str:
    """The repository's address, from _config.yml."""
    text = (ROOT / "_config.yml").read_text(encoding="utf-8")
    return re.search(r"^repository:\n  url: (\S+)$", text, re.MULTILINE)[1]


def source(url: str) -> str:
    """The cell's text, without a newline at its end, as notebooks store it."""
    return TEMPLATE.format(url=url).rstrip("\n")


if __name__ == "__main__":
    print(source(address()))

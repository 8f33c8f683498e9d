"""Build the book: run Jupyter Book so that every warning is an error, and say where the book is.

Usage: python tools/build.py [FOLDER]
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
JUPYTER_BOOK = Path(sys.executable).parent / "jupyter-book"
CAUSE = re.compile(r"Extension error|Exception occurred")


def build(folder: Path) -> int:
    """Run Jupyter Book on a folder and return its exit status.

    After an error that Sphinx has told, Jupyter Book adds a traceback through itself: left out.
    """
    command = (JUPYTER_BOOK, "build", ".", "-q", "-W", "-n", "--keep-going")
    told, traceback = False, False
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, **pipes) as run:
        for line in run.stderr:
            told = told or bool(CAUSE.search(line))
            traceback = traceback or (told and line.startswith("Traceback"))
            if not traceback:
                print(line, end="", file=sys.stderr, flush=True)
    return run.returncode


def main() -> None:
    folder = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    start = time.perf_counter()
    if build(folder):
        sys.exit("\nThe book was not built. The cause stands above.")
    index = folder / "_build/html/index.html"
    print(f"\nBuilt in {time.perf_counter() - start:.0f} s. Open {index} or run make serve.")


if __name__ == "__main__":
    main()

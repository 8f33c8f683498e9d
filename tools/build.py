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
CAUSE = re.compile(r"WARNING|ERROR|Extension error|Exception occurred")


def build(folder: Path) -> int:
    """Run Jupyter Book on a folder and return its exit status.

    Jupyter Book ends every failed build with a traceback through itself. It is shown only when
    nothing before it names a cause.
    """
    command = (JUPYTER_BOOK, "build", ".", "-q", "-W", "-n", "--keep-going")
    caused, traceback = False, []
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, **pipes) as run:
        for line in run.stderr:
            if traceback or line.startswith("Traceback"):
                traceback.append(line)
            else:
                caused = caused or bool(CAUSE.search(line))
                print(line, end="", file=sys.stderr, flush=True)
    if run.returncode and not caused:
        sys.stderr.writelines(traceback)
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

"""What the tests of the repository share: its files, its notebooks, and their cells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def cells(notebook: Path, kind: str) -> list[dict]:
    """The cells of one kind, with their source as one string."""
    read = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [
        {**cell, "source": "".join(cell["source"])} for cell in read if cell["cell_type"] == kind
    ]


def tracked() -> list[Path]:
    """The files that git knows, as they are on the disk now."""
    run = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in map(ROOT.joinpath, run.stdout.splitlines()) if path.is_file()]


def run(*command: str | Path) -> None:
    """Run a checker and fail with what it says."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[:2000]


def tool(name: str) -> Path:
    return Path(sys.executable).parent / name

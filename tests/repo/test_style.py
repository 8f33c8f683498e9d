"""Style, size of files, and who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from repository import ROOT, run, tool, tracked

# From the bottom up: each may import those before it, as a module or as a package of modules.
MODULES = (
    "data", "state", "norm", "layers", "weights", "networks", "transformer", "population",
    "probes", "diagnosis", "intervals", "figures", "evidence", "questions", "exercises",
    "explorables", "axes_cube", "conventions",
)  # fmt: skip
NBUTILS = ROOT / "nbutils"
LARGEST_FILE = 200_000  # bytes


def test_ruff_finds_nothing():
    run(tool("ruff"), "check", ".")


def test_ruff_would_not_reformat():
    run(tool("ruff"), "format", "--check", ".")


def test_no_large_file():
    large = [path for path in tracked() if path.stat().st_size > LARGEST_FILE]
    assert not large


def test_nothing_built_is_committed():
    built = {"_build", ".ipynb_checkpoints", "__pycache__", ".venv", ".venv-colab"}
    assert not [path for path in tracked() if built & set(path.relative_to(ROOT).parts)]


def test_modules_import_only_what_stands_below_them():
    for path in NBUTILS.rglob("*.py"):
        module = path.relative_to(NBUTILS).with_suffix("").parts[0]
        if module == "__init__":
            continue
        assert module in MODULES, f"where does nbutils.{module} stand? See MODULES here."
        below = MODULES[: MODULES.index(module) + 1]
        for imported in imports_of_nbutils(path):
            assert imported in below, f"nbutils.{module} imports nbutils.{imported}"


def imports_of_nbutils(path: Path) -> Iterator[str]:
    """The modules of nbutils that a file imports, however it names them."""
    package = ["nbutils", *path.relative_to(NBUTILS).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *filter(None, [node.module])]
            names = [".".join([*base, alias.name]) for alias in node.names]
        for name in names:
            room = name.split(".")
            if room[0] == "nbutils" and len(room) > 1:
                yield room[1]

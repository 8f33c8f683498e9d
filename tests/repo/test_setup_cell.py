"""The set-up cell where nbutils is, where it is missing, and where another package has its name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import setup_cell
from repository import ROOT


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the cell where only `folder` has packages of others, before the course has an address."""
    source = setup_cell.source(setup_cell.PLACEHOLDER)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment.pop("NBUTILS_SOURCE", None)
    command = [sys.executable, "-S", "-P", "-c", source]  # -S: without what this environment has
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_where_nbutils_is_nothing_happens():
    done = run(ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_missing_nbutils_is_told(tmp_path):
    done = run(tmp_path)
    assert done.returncode != 0
    assert "ModuleNotFoundError: This chapter needs the package nbutils" in done.stderr


@pytest.mark.parametrize("file", ["nbutils/__init__.py", "nbutils.py", "nbutils/other.py"])
def test_another_package_of_this_name_is_told_with_its_place(tmp_path, file):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.touch()
    done = run(tmp_path)
    assert done.returncode != 0
    assert "ImportError: Another package named nbutils is installed, at" in done.stderr
    assert "pip uninstall nbutils" in done.stderr
    if path.stem != "other":  # a folder without __init__.py has no place
        assert str(path).removesuffix("__init__.py") in done.stderr

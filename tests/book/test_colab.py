"""nbval runs every chapter in a simulated Colab: an empty folder, other seeds, no nbutils."""

from __future__ import annotations

from pathlib import Path

import colab
import nbformat
import pytest
import setup_cell

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapter_runs_in_colab_and_keeps_its_verdicts_under_other_seeds(notebook):
    done = colab.run(notebook, NBUTILS_SOURCE=str(ROOT), NBUTILS_SEED="1")
    assert done.returncode == 0, done.stdout


def setup_notebook(folder: Path) -> Path:
    """A notebook with nothing but the set-up cell, before the repository has an address."""
    path = folder / "setup.ipynb"
    cell = nbformat.v4.new_code_cell(setup_cell.source(setup_cell.PLACEHOLDER))
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def test_missing_nbutils_is_told_in_one_sentence(tmp_path):
    done = colab.run(setup_notebook(tmp_path))
    assert done.returncode != 0
    assert "This chapter needs the package nbutils: run `pip install -e .`" in done.stdout


def test_source_that_cannot_be_installed_fails(tmp_path):
    done = colab.run(setup_notebook(tmp_path), NBUTILS_SOURCE=str(tmp_path / "nowhere"))
    assert done.returncode != 0
    assert "CalledProcessError" in done.stdout

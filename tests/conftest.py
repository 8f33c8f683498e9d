"""What all tests share: one thread per process, no deadlines, and who runs on which worker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"
settings.register_profile("course", deadline=None)  # a slow machine is no failure
settings.load_profile("course")

# Modules whose tests share something costly (a built book) and so belong on one worker.
TOGETHER = ("test_book", "test_build")


def pytest_itemcollected(item: pytest.Item) -> None:
    path = Path(item.path)
    if path.suffix == ".ipynb" or path.stem in TOGETHER:
        item.add_marker(pytest.mark.xdist_group(path.stem))

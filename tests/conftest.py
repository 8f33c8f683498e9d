"""What all tests share: one thread per process, no deadlines, and who runs on which worker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

os.environ["OMP_NUM_THREADS"] = "1"
settings.register_profile("course", deadline=None)  # a slow machine is no failure
settings.load_profile("course")

# Modules whose tests share something costly (a built book), and so belong on one worker.
BUILT = ("test_book", "test_book_links", "test_navigation", "test_pushing")
TOGETHER = {"test_build": "a small book", **dict.fromkeys(BUILT, "the built book")}


class Scheduling(LoadScopeScheduling):
    """Cells of one notebook, and tests of some modules, stay on one worker; others are free."""

    def _split_scope(self, nodeid: str) -> str:
        path = Path(nodeid.partition("::")[0])
        return str(path) if path.suffix == ".ipynb" else TOGETHER.get(path.stem, nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    return Scheduling(config, log)

"""The book's own Sphinx extension: what `jupyter-book build` has to do here besides building.

- execution: executes the chapters that changed, in parallel, before any page is read
- ledger:    holds claims and executed evidence against each other, and renders the ledger page
- pages:     refuses empty pages, and keeps the others light
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

from . import execution, ledger, pages


def setup(app: Sphinx) -> dict[str, Any]:
    execution.setup(app)
    ledger.setup(app)
    pages.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

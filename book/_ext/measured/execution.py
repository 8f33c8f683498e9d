"""Execute the chapters that changed, in parallel, before Sphinx reads the pages.

jupyter-cache recognizes a notebook by its code cells alone, so an edit of nbutils would leave stale
outputs. Therefore the cache folder is named by a hash of all that the outputs depend on besides the
notebook: nbutils, the claims, the list of checks under review, the base seed, and the versions of
the libraries that compute and draw.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import nbformat
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

LIBRARIES = (
    "torch", "numpy", "scipy", "pandas", "scikit-learn", "matplotlib", "seaborn", "flax", "keras",
    "onnxruntime",
)  # fmt: skip
EVIDENCE = "application/vnd.nbutils.evidence+json"  # left by nbutils.evidence.check
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Run:
    """One executed notebook: its seconds, and what went wrong, if anything did."""

    notebook: nbformat.NotebookNode
    seconds: float
    failure: str = ""


def cache_key(root: Path) -> str:
    """Hash of everything besides the notebook that its outputs depend on."""
    digest = hashlib.sha256(Path(__file__).read_bytes())  # it edits the outputs
    package = (path for path in (root / "nbutils").rglob("*") if path.suffix != ".pyc")
    lists = (root / "book/claims.yml", root / "book/awaiting.yml")
    for path in filter(Path.is_file, sorted((*package, *lists))):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(path.read_bytes() + b"\0")
    digest.update(f"NBUTILS_SEED={os.environ.get('NBUTILS_SEED', '')}\n".encode())
    for library in LIBRARIES:
        try:
            digest.update(f"{library}={version(library)}\n".encode())
        except PackageNotFoundError:
            digest.update(f"{library} is missing\n".encode())
    return digest.hexdigest()[:16]


def toc_files(root: Path) -> list[Path]:
    """The files that _toc.yml names, in reading order.

    Raises: ExtensionError for a file that does not exist or is empty.
    """

    def names(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                if key in ("root", "file"):
                    yield value
                else:
                    yield from names(value)
        elif isinstance(node, list):
            for item in node:
                yield from names(item)

    files, problems = [], []
    for name in names(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))):
        found = [p for p in (root / f"{name}.ipynb", root / f"{name}.md") if p.is_file()]
        if not found:
            problems.append(f"_toc.yml names {name}, but there is no {name}.ipynb or {name}.md.")
        elif not found[0].read_text(encoding="utf-8").strip():
            problems.append(f"{found[0].relative_to(root)} is empty.")
        files += found[:1]
    if problems:
        raise ExtensionError("Pages are missing.\n" + "\n".join(problems))
    return files


def chapters(root: Path) -> list[Path]:
    """The notebooks that _toc.yml names, in reading order."""
    return [path for path in toc_files(root) if path.suffix == ".ipynb"]


def known_seconds(root: Path) -> dict[str, float]:
    """Seconds per chapter, as `make times` last measured them."""
    path = root / "book/times.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as lines:
        return {row["Chapter"]: float(row["Seconds"]) for row in csv.DictReader(lines)}


def as_terminal(text: str) -> str:
    """What a terminal shows of a text: a carriage return goes back to the start of the line."""
    shown = []
    for line in text.split("\n"):
        visible = ""
        for part in line.split("\r"):
            visible = part + visible[len(part) :]
        shown.append(visible.rstrip())
    return "\n".join(shown)


def erase_progress_bars(notebook: nbformat.NotebookNode) -> None:
    """Remove what progress bars wrote to stderr and erased again; anything else stays."""
    for output_cell in code_cells(notebook):
        errors = [output for output in output_cell.outputs if is_stderr(output)]
        if not errors:
            continue
        # One bar writes many small pieces; only together do they show what a terminal shows.
        errors[0].text = as_terminal(ANSI.sub("", "".join(error.text for error in errors)))
        gone = errors[1:] if errors[0].text.strip() else errors
        output_cell.outputs = [o for o in output_cell.outputs if not any(o is e for e in gone)]


def set_evidence_aside(notebook: nbformat.NotebookNode) -> None:
    """Move evidence from an output's data to its metadata; myst-nb warns of unknown types."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if EVIDENCE in output.get("data", {}):
                output.metadata[EVIDENCE] = output.data.pop(EVIDENCE)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def complaint(notebook: nbformat.NotebookNode) -> str:
    """What a chapter wrote to stderr, such as a warning: a reader should not have to meet it."""
    texts = [o.text for cell in code_cells(notebook) for o in cell.outputs if is_stderr(o)]
    return f"It wrote to stderr:\n{texts[0].strip()}" if texts else ""


def is_stderr(output: nbformat.NotebookNode) -> bool:
    return output.output_type == "stream" and output.name == "stderr"


def failing_cell(notebook: nbformat.NotebookNode) -> str:
    """The source of the cell that raised or complained, or of the first that never ran."""
    code = code_cells(notebook)
    for cell in code:
        if any(output.output_type == "error" or is_stderr(output) for output in cell.outputs):
            return cell.source
    unfinished = [cell for cell in code if cell.execution_count is None and cell.source.strip()]
    return unfinished[0].source if unfinished else "(unknown)"


def run(path: Path, timeout: int) -> Run:
    """Execute one notebook in its folder, in a kernel of its own."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=timeout,
        record_timing=False,  # it would go into the metadata, by which the cache knows a notebook
        resources={"metadata": {"path": path.parent}},
    )
    failure = ""
    start = time.perf_counter()
    # What the kernel's process itself says (it talks about its sockets) matters only if it dies.
    with tempfile.TemporaryFile() as log:
        try:
            client.execute(stderr=log)
        except CellExecutionError as error:
            failure = ANSI.sub("", error.traceback).strip()
        except CellTimeoutError as error:
            failure = str(error).strip()
        except DeadKernelError:
            log.seek(0)
            said = log.read().decode(errors="replace").strip()
            failure = f"The kernel died. Is there enough memory?\n{said}"
    seconds = time.perf_counter() - start
    erase_progress_bars(notebook)
    set_evidence_aside(notebook)
    return Run(notebook, seconds, failure or complaint(notebook))


def report(line: str) -> None:
    """Tell the person who waits; Sphinx's own log may be quiet."""
    print(line, file=sys.stderr, flush=True)


def store(cache: JupyterCacheAbstract, path: Path, done: Run) -> None:
    bundle = CacheBundleIn(done.notebook, str(path), data={"execution_seconds": done.seconds})
    cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def is_cached(cache: JupyterCacheAbstract, path: Path) -> bool:
    try:
        cache.match_cache_notebook(nbformat.read(path, as_version=4))
    except KeyError:
        return False
    return True


def executed(cache_path: str, path: Path) -> nbformat.NotebookNode:
    """A notebook with its outputs from the cache.

    Raises: KeyError when it is not in the cache.
    """
    _, notebook = get_cache(cache_path).merge_match_into_notebook(nbformat.read(path, as_version=4))
    return notebook


def name_cache(app: Sphinx, config: Config) -> None:
    """Point myst-nb at the cache folder of this state of nbutils; drop those of older states."""
    root = Path(app.srcdir)
    caches = root / "_build" / "executed"
    here = caches / cache_key(root)
    for old in caches.glob("*"):
        if old != here:
            shutil.rmtree(old)
    here.mkdir(parents=True, exist_ok=True)
    config.nb_execution_cache_path = str(here)


def execute_stale(app: Sphinx) -> None:
    """Execute all chapters that are not in the cache, as many at once as there are cores.

    Raises: ExtensionError naming each failed chapter, its cell and the error.
    """
    root = Path(app.srcdir)
    cache = get_cache(app.config.nb_execution_cache_path)
    stale = [path for path in chapters(root) if not is_cached(cache, path)]
    if not stale:
        return
    seconds = known_seconds(root)
    stale.sort(key=lambda path: -seconds.get(path.stem, float("inf")))  # the longest first
    os.environ["OMP_NUM_THREADS"] = "1"  # for the kernels; parallelism is over chapters
    failures = []
    report(f"Executing {len(stale)} of {len(chapters(root))} chapters …")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        timeout = app.config.nb_execution_timeout
        waiting = {pool.submit(run, path, timeout): path for path in stale}
        for future in as_completed(waiting):
            path, done = waiting[future], future.result()
            state = ", then it failed" if done.failure else ""
            report(f"  {path.stem}: {done.seconds:.1f} s{state}")
            if done.failure:
                failures.append((path, done))
            else:
                store(cache, path, done)
    if failures:
        told = [
            f"{path.relative_to(root)}, in this cell:\n\n"
            f"{failing_cell(done.notebook)}\n\n{done.failure}"
            for path, done in failures
        ]
        raise ExtensionError("A chapter did not run.\n\n" + "\n\n".join(told))


def setup(app: Sphinx) -> None:
    app.connect("config-inited", name_cache)
    # Before myst-nb and the ledger, which read the outputs.
    app.connect("builder-inited", execute_stale, priority=100)

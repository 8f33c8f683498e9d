"""The repository keeps its own rules. Nothing here needs a kernel."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import address
import pytest
import setup_cell
import yaml
from measured.execution import chapters
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = (
    "data",
    "norm",
    "layers",
    "weights",
    "networks",
    "transformer",
    "population",
    "probes",
    "diagnosis",
    "figures",
    "evidence",
    "exercises",
    "explorables",
    "conventions",
)
LARGEST_FILE = 200_000  # bytes
SHORTEST_ALT = 40  # characters

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


# --- dependencies ---


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_environment_yml_lists_nothing_but_python_pip_and_the_extras():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, block = environment["dependencies"]
    assert re.fullmatch(r"python=3\.(1[1-9])", python)
    assert pip == "pip"
    extras = ",".join(project()["optional-dependencies"])
    assert block == {"pip": ["-c constraints.txt", f"-e .[{extras}]"]}


def test_make_installs_the_same_extras():
    import setup  # of tools/

    assert f".[{','.join(project()['optional-dependencies'])}]" == setup.EXTRAS


def test_environment_yml_resolves():
    """pip accepts the block of environment.yml, from the folder that conda would run it in."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    block = " ".join(environment["dependencies"][-1]["pip"]).split()
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", *block]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if re.search(r"NewConnectionError|Name or service not known|getaddrinfo", done.stderr):
        pytest.skip("pip cannot reach the package index, so whether the block resolves is unknown")
    assert done.returncode == 0, done.stderr


def test_constraints_pin_every_direct_dependency_within_its_range():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pairs}
    extras = project()["optional-dependencies"].values()
    declared = [*project()["dependencies"], *(item for extra in extras for item in extra)]
    for requirement in map(Requirement, declared):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin, f"constraints.txt has no version for {requirement.name}"
        assert requirement.specifier.contains(pin), f"{requirement} does not admit {pin}"


# --- style ---


def test_ruff_finds_nothing():
    run(tool("ruff"), "check", ".")


def test_ruff_would_not_reformat():
    run(tool("ruff"), "format", "--check", ".")


@each_notebook
def test_notebook_is_stripped(notebook):
    run(tool("nbstripout"), "--verify", "--keep-id", notebook)


@each_notebook
def test_notebook_is_saved_as_its_tools_save_it(notebook):
    read = json.loads(notebook.read_text(encoding="utf-8"))
    assert (read["nbformat"], read["nbformat_minor"]) == (4, 5)
    assert all(cell["id"] for cell in read["cells"])
    assert read["metadata"]["kernelspec"]["name"] == "python3"


def test_no_large_file():
    large = [path for path in tracked() if path.stat().st_size > LARGEST_FILE]
    assert not large


def test_nothing_built_is_committed():
    built = {"_build", ".ipynb_checkpoints", "__pycache__", ".venv", ".venv-colab"}
    assert not [path for path in tracked() if built & set(path.relative_to(ROOT).parts)]


def test_modules_import_only_what_stands_above_them():
    for module in (ROOT / "nbutils").glob("*.py"):
        if module.stem == "__init__":
            continue
        assert module.stem in MODULES, f"where does nbutils.{module.stem} stand? See MODULES here."
        above = MODULES[: MODULES.index(module.stem)]
        for imported in imports_of_nbutils(module):
            assert imported in above, f"nbutils.{module.stem} imports nbutils.{imported}"


def imports_of_nbutils(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("nbutils.")]
            yield from (name.split(".")[1] for name in names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield from [node.module] if node.module else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "nbutils":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nbutils."):
            yield node.module.split(".")[1]


# --- chapters ---


def test_the_book_contains_every_chapter():
    assert NOTEBOOKS
    assert chapters(ROOT) == NOTEBOOKS


@each_notebook
def test_first_code_cell_is_the_setup_cell(notebook):
    first, *others = cells(notebook, "code")
    assert first["source"] == setup_cell.source(setup_cell.address())
    assert "remove-cell" in first["metadata"]["tags"]
    assert not [cell for cell in others if "find_spec" in cell["source"]]


@each_notebook
def test_chapter_opens_with_a_question(notebook):
    assert re.match(r"# [^\n]+\?\n", cells(notebook, "markdown")[0]["source"] + "\n")


@each_notebook
def test_chapter_has_evidence_and_exercises(notebook):
    code = "\n".join(cell["source"] for cell in cells(notebook, "code"))
    assert "evidence.check(" in code
    assert re.search(r"\bexercises\.\w+", code)


FIGURE = re.compile(
    r"\bfigures\.(?!use_theme|summary|style)\w+\(|\bsns\.\w+plot\(|\bplt\.\w+\(|\.plot\("
)


@each_notebook
def test_figures_have_alt_text(notebook):
    for cell in cells(notebook, "code"):
        definition = re.match(r"def |class |@", cell["source"])
        if FIGURE.search(cell["source"]) and not definition:
            alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt) > SHORTEST_ALT, f"no alt text for the figure of:\n{cell['source']}"


MYST = {
    "a directive": re.compile(r"^(```|~~~|:::+)\s*\{", re.MULTILINE),
    "a colon fence": re.compile(r"^:::", re.MULTILINE),
    "a role": re.compile(r"\{[\w:-]+\}`"),
    "a target": re.compile(r"^\([\w-]+\)=\s*$", re.MULTILINE),
    "a footnote": re.compile(r"\[\^[\w-]+\]"),
    "a labelled equation": re.compile(r"\$\$\s*\([\w:-]+\)\s*$", re.MULTILINE),
}


@each_notebook
def test_prose_is_plain_markdown(notebook):
    for cell in cells(notebook, "markdown"):
        found = [name for name, pattern in MYST.items() if pattern.search(cell["source"])]
        assert not found, (
            f"{found} shows as literal text in JupyterLab and Colab:\n{cell['source']}"
        )


def slug(heading: str) -> str:
    """The anchor that GitHub, and so the book, gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {slug(heading) for heading in headings}


CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_links_of_pages_and_chapters_lead_somewhere():
    pages = [path for path in tracked() if path.suffix == ".md"]
    texts = [(page, page.read_text(encoding="utf-8")) for page in pages]
    texts += [(n, "\n".join(c["source"] for c in cells(n, "markdown"))) for n in NOTEBOOKS]
    for path, text in texts:
        for link in LINK.findall(CODE.sub("", text)):
            if link.startswith("https://"):
                continue
            target, _, anchor = link.partition("#")
            page = (path.parent / target).resolve() if target else path
            assert page.is_file(), f"{path.name} links to {link}, which is not there"
            if anchor and page.suffix == ".md":
                assert anchor in anchors(page), f"{path.name} links to {link}: no such heading"


# --- offline, and the address ---

LOADS = re.compile(
    r"""(?:src\s*=|@import|url\(|import\s*\(|fetch\(|importScripts\(|urlopen\(|requests\.\w+\()"""
    r"""\s*["'(]*\s*(?:https?:)?//|\bfrom\s*["'](?:https?:)?//""",
    re.IGNORECASE,
)


def test_nothing_is_loaded_from_the_network():
    suffixes = {".py", ".js", ".css", ".html", ".svg"}
    texts = [(p, p.read_text(encoding="utf-8")) for p in tracked() if p.suffix in suffixes]
    texts += [(n, "\n".join(c["source"] for c in cells(n, "code")[1:])) for n in NOTEBOOKS]
    for path, text in texts:
        found = LOADS.search(text)
        assert not found, f"{path.name} loads something from the network: {found[0]}"


@pytest.mark.parametrize("path", address.places(ROOT), ids=lambda path: path.name)
def test_address_is_the_same_everywhere(path):
    url = setup_cell.address()
    text = path.read_text(encoding="utf-8")
    assert url in text
    if url != setup_cell.PLACEHOLDER:
        assert setup_cell.PLACEHOLDER not in text


@pytest.mark.parametrize(
    "url",
    ["", "github.com/a/b", "http://github.com/a/b", "https://github.com/a", "https://x.org/a/b"],
)
def test_bad_address_is_refused_with_an_example(url):
    with pytest.raises(ValueError, match=re.escape(address.EXAMPLE)):
        address.cleaned(url)


def test_address_is_rewritten_in_all_places_and_back(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for path in address.places(ROOT):
        copy = tmp_path / path.relative_to(ROOT)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    before = {path: path.read_text(encoding="utf-8") for path in address.places(tmp_path)}
    old = setup_cell.address()
    new = old.replace("https://github.com/", "https://github.com/moved-")
    assert address.rewrite(tmp_path, old, address.cleaned(f"{new}.git")) == list(before)
    assert all(new in path.read_text(encoding="utf-8") for path in before)
    assert all(old not in path.read_text(encoding="utf-8") for path in before)
    address.rewrite(tmp_path, new, old)
    assert {path: path.read_text(encoding="utf-8") for path in before} == before


def test_no_claim_says_a_thing_twice():
    """YAML keeps the last of two equal keys and is silent about the first; so would an id."""
    source = (ROOT / "book/claims.yml").read_text(encoding="utf-8")
    entries = yaml.compose(source).value
    for entry in entries:
        keys = [key.value for key, _ in entry.value]
        assert len(keys) == len(set(keys)), f"line {entry.start_mark.line + 1}: {keys}"
    names = [claim["id"] for claim in yaml.safe_load(source)]
    assert sorted(names) == sorted(set(names))


def test_claims_stand_in_the_order_of_the_chapters():
    claims = yaml.safe_load((ROOT / "book/claims.yml").read_text(encoding="utf-8"))
    order = [claim["chapter"] for claim in claims]
    assert order == sorted(order)


def test_references_are_complete_entries():
    source = (ROOT / "book/references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{([\w:-]+),\n(?:  \w+ = \{.*\},?\n)+\}$", source, re.MULTILINE)
    assert len(entries) == source.count("\n@") + source.startswith("@")
    assert len(entries) == len(set(entries))

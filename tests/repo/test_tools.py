"""The tools behind make: what they install, when again, and what they leave alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import browser
import colab
import pytest
import setup
import times
from measured.execution import Run

INDEX = "https://example.org/cpu"


# --- setup.py ---


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("torch==2.0\n")
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_environment_is_made_again_when_what_it_has_to_hold_changes(project, name):
    before = setup.wanted("constraints.txt")
    assert setup.wanted("constraints.txt") == before
    (project / name).write_text("something else\n")
    assert setup.wanted("constraints.txt") != before


def test_environment_without_constraints_is_another_one(project):
    free = setup.wanted("")
    assert free != setup.wanted("constraints.txt")
    (project / "constraints.txt").unlink()
    assert setup.wanted("") == free


@pytest.fixture
def installs(monkeypatch):
    """What pip is asked for, in order; `answers` are its failures, none at first."""
    asked: list[tuple[str, ...]] = []

    def pip(venv: Path, *arguments: str) -> str:
        asked.append(arguments)
        return pip.answers.pop(0) if pip.answers else ""

    pip.answers = []
    monkeypatch.setattr(setup, "pip", pip)
    return pip, asked


@pytest.mark.parametrize("unreachable", [False, True])
def test_only_torch_sees_the_index_of_cpu_builds(installs, unreachable):
    pip, asked = installs
    pip.answers = ["ERROR: no route"] if unreachable else []
    setup.install(Path("venv"), "constraints.txt", INDEX)
    with_index = [each for each in asked if INDEX in each]
    assert [each[-2:] for each in with_index] == [("--no-deps", "torch")]
    assert asked[-1][-2:] == ("--editable", setup.EXTRAS)
    assert all(each[each.index("-c") + 1] == "constraints.txt" for each in asked)
    assert len(asked) == 2 + unreachable


@pytest.mark.parametrize("answers", [["no", "no"], ["", "no"]])
def test_an_install_that_failed_is_told(installs, answers):
    installs[0].answers = answers
    with pytest.raises(setup.SetupError, match="Could not install"):
        setup.install(Path("venv"), "", INDEX)


# --- times.py ---


@pytest.fixture
def timed(tmp_path, monkeypatch):
    """The measurement of two chapters, of which those named in `failing` fail."""
    (tmp_path / "book").mkdir()
    table = tmp_path / "book/times.csv"
    table.write_text("as it was\n")
    failing = set()

    def run(path: Path, timeout: int) -> Run:
        return Run(None, 12.34, "it broke" if path.stem in failing else "")

    monkeypatch.setattr(times, "ROOT", tmp_path)
    monkeypatch.setattr(times, "stay_on_one_core", lambda: None)
    monkeypatch.setattr(times, "chapters", lambda root: [Path("01-a.ipynb"), Path("08-b.ipynb")])
    monkeypatch.setattr(times, "run", run)
    return table, failing


def test_times_are_written_with_their_budgets(timed):
    times.main()
    assert timed[0].read_text() == "Chapter,Seconds,Budget\n01-a,12.3,40\n08-b,12.3,90\n"


@pytest.mark.parametrize("failing", [{"01-a"}, {"08-b"}, {"01-a", "08-b"}])
def test_times_stay_as_they_were_when_a_chapter_failed(timed, failing):
    timed[1].update(failing)
    with pytest.raises(SystemExit, match="left as it was"):
        times.main()
    assert timed[0].read_text() == "as it was\n"


# --- colab.py ---


def test_simulated_colab_inherits_nothing_of_this_project(tmp_path, monkeypatch):
    monkeypatch.setattr(colab, "base", lambda: Path(sys.prefix))
    mine = ("PYTHONPATH", "VIRTUAL_ENV", "NBUTILS_SOURCE", "NBUTILS_SEED")
    for name in mine:
        monkeypatch.setenv(name, "of this project")
    environment = colab.prepare(tmp_path)
    assert "of this project" not in environment.values()
    assert set(mine) & set(environment) == {"PYTHONPATH"}  # which leads to the fake google.colab
    assert (Path(environment["PYTHONPATH"]) / "google/colab/__init__.py").is_file()


def test_a_run_gets_the_variables_that_it_names(monkeypatch, tmp_path):
    monkeypatch.setattr(colab, "prepare", lambda folder: {"NBUTILS_SEED": "0", "OTHER": "1"})
    given = {}
    monkeypatch.setattr(subprocess, "run", lambda command, **options: given.update(options))
    notebook = tmp_path / "chapter.ipynb"
    notebook.touch()
    colab.run(notebook, NBUTILS_SEED="5")
    assert given["env"] == {"NBUTILS_SEED": "5", "OTHER": "1"}


# --- browser.py ---


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """A machine whose PATH holds one browser, named chromium."""
    for name in ("here/chromium", "elsewhere/mine"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "here"))
    monkeypatch.delenv("CHROMIUM", raising=False)
    return tmp_path


def test_the_browser_that_is_named_comes_first(on_path, monkeypatch):
    assert browser.find() == str(on_path / "here/chromium")
    monkeypatch.setenv("CHROMIUM", str(on_path / "elsewhere/mine"))
    assert browser.find() == str(on_path / "elsewhere/mine")


def test_a_named_browser_that_is_missing_is_not_replaced(on_path, monkeypatch):
    monkeypatch.setenv("CHROMIUM", str(on_path / "nowhere"))
    assert browser.find() is None


def test_no_browser(on_path, monkeypatch):
    monkeypatch.setattr(browser, "APPLICATIONS", ())
    (on_path / "here/chromium").unlink()
    assert browser.find() is None

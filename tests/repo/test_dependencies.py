"""What is installed is listed once, and every other list says the same."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from repository import ROOT


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


def test_an_installed_nbutils_has_the_lists_that_it_reads():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    targets = settings["tool"]["hatch"]["build"]["targets"]
    read = set(re.findall(r'_read\("([\w.]+)"\)', (ROOT / "nbutils/evidence.py").read_text()))
    assert read == {"claims.yml", "awaiting.yml"}
    for name in read:
        assert targets["wheel"]["force-include"][f"book/{name}"] == f"nbutils/{name}"
        assert f"book/{name}" in targets["sdist"]["include"]

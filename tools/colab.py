"""Let nbval execute a chapter as in Colab: its packages, an empty folder, only the notebook.

Usage: python tools/colab.py --prepare | notebooks/01-….ipynb

The environment .venv-colab holds the versions of tests/colab-constraints.txt and no nbutils. Each
run gets a thin environment on top of it, so that the chapter's first cell installs into that one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import setup

ROOT = setup.ROOT
BASE = ROOT / ".venv-colab"
CONSTRAINTS = "tests/colab-constraints.txt"
# What Colab has installed and the chapters use, and what runs a notebook.
PACKAGES = (
    "torch", "numpy", "pandas", "scipy", "matplotlib", "seaborn", "scikit-learn", "tqdm",
    "ipython", "pyyaml", "ipywidgets", "ipykernel",
)  # fmt: skip
# nbval, with a kernel that lives in the other environment. This project's own settings of pytest
# are not for it.
NBVAL = (
    "-m", "pytest", "-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider", "-p", "no:xdist",
    "--nbval-lax", "--nbval-kernel-name", "colab", "--nbval-cell-timeout", "600", "-q", "-x",
)  # fmt: skip


def base() -> Path:
    """The environment with Colab's packages, made on first use and after its list changes.

    Raises: SetupError.
    """
    wanted = hashlib.sha256((ROOT / CONSTRAINTS).read_bytes() + repr(PACKAGES).encode()).hexdigest()
    stamp = BASE / ".installed"
    if not stamp.is_file() or stamp.read_text() != wanted:
        print("Creating .venv-colab for the simulated Colab …", flush=True)
        setup.create(BASE)
        cpu_index = "https://download.pytorch.org/whl/cpu"
        quick = ("--retries", "1", "--timeout", "15", "--extra-index-url", cpu_index)
        failed = setup.pip(BASE, *quick, "-c", CONSTRAINTS, "--no-deps", "torch")
        failed = failed and setup.pip(BASE, "-c", CONSTRAINTS, "--no-deps", "torch")
        failed = failed or setup.pip(BASE, "-c", CONSTRAINTS, *PACKAGES)
        if failed:
            raise setup.explain("the packages of the simulated Colab", failed)
        stamp.write_text(wanted)
    return BASE


def site_packages(venv: Path) -> Path:
    return next(venv.glob("lib/python3*/site-packages"))


def prepare(folder: Path) -> dict[str, str]:
    """Lay an environment, a fake google.colab and a kernel into a folder; return the variables."""
    fake = folder / "fake/google/colab"
    fake.mkdir(parents=True)
    (fake / "__init__.py").touch()
    venv = folder / "venv"
    # Without pip of its own: it finds the one of the base, and installs into itself.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (site_packages(venv) / "base.pth").write_text(f"{site_packages(base())}\n")
    kernel = folder / "jupyter/kernels/colab"
    kernel.mkdir(parents=True)
    argv = [str(setup.python_of(venv)), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Colab", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    mine = ("PYTHONPATH", "VIRTUAL_ENV", "NBUTILS_SOURCE", "NBUTILS_SEED")
    environment = {name: value for name, value in os.environ.items() if name not in mine}
    environment.update(
        PATH=f"{venv / 'bin'}{os.pathsep}{environment['PATH']}",
        PYTHONPATH=str(folder / "fake"),
        JUPYTER_PATH=str(folder / "jupyter"),
        IPYTHONDIR=str(folder / "ipython"),
        COLAB_RELEASE_TAG="simulated",
        OMP_NUM_THREADS="1",
        MPLBACKEND="module://matplotlib_inline.backend_inline",
    )
    return environment


def run(notebook: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Execute a notebook under the given environment variables; stdout tells why it failed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**prepare(folder), **variables}
        content = folder / "content"
        content.mkdir()
        shutil.copy(notebook, content)
        command = [sys.executable, *NBVAL, notebook.name]
        return subprocess.run(command, cwd=content, env=environment, capture_output=True, text=True)


def main() -> None:
    if sys.argv[1:] == ["--prepare"]:
        try:
            base()
        except setup.SetupError as error:
            sys.exit(str(error))
        return
    done = run(Path(sys.argv[1]), NBUTILS_SOURCE=str(ROOT))
    if done.returncode:
        sys.exit(done.stdout)
    print(f"{sys.argv[1]} runs in the simulated Colab.")


if __name__ == "__main__":
    main()

"""Create the virtual environment and install the course into it.

Usage: python tools/setup.py VENV [--constraints FILE] [--torch-index URL]

Runs before anything is installed, so it uses the standard library only. It does nothing when the
environment already holds what pyproject.toml and the constraints ask for.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ".[book,lab,test,lint,frameworks]"
NO_NETWORK = re.compile(
    r"NewConnectionError|Name or service not known|Temporary failure in name resolution|"
    r"getaddrinfo failed|Connection refused|timed out|Network is unreachable|No route to host"
)


class SetupError(Exception):
    """A step failed; the text names the cause and the remedy."""


def python_of(venv: Path) -> Path:
    """The interpreter inside a virtual environment."""
    scripts = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
    return venv / scripts


def wanted(constraints: str) -> str:
    """What the environment has to hold, as one hash."""
    inputs = hashlib.sha256(sys.version.encode())
    for name in filter(None, ("pyproject.toml", constraints)):
        inputs.update((ROOT / name).read_bytes())
    return inputs.hexdigest()


def create(venv: Path) -> None:
    """Make an empty virtual environment, replacing a broken one.

    Raises: SetupError when this Python cannot make one.
    """
    run = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True
    )
    if run.returncode == 0:
        return
    text = run.stdout + run.stderr
    if "ensurepip" in text or "No module named venv" in text:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SetupError(
            f"{sys.executable} comes without the venv module, so no environment can be made.\n"
            f"On Debian and Ubuntu: apt install python{version}-venv. "
            "Elsewhere: take a Python from https://www.python.org/downloads/."
        )
    raise SetupError(
        f"Could not create the environment {venv}:\n{text.strip()}\n"
        "Is the disk full, or the folder read-only?"
    )


def pip(venv: Path, *arguments: str) -> str:
    """Run pip install; return its output when it failed, else an empty string."""
    command = [str(python_of(venv)), "-m", "pip", "install", "--disable-pip-version-check"]
    run = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    return "" if run.returncode == 0 else run.stdout + run.stderr


def explain(step: str, output: str) -> SetupError:
    """Turn pip's output into a cause and a remedy."""
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    told = "\n".join(errors or output.splitlines()[-5:])
    if NO_NETWORK.search(output):
        remedy = "The package index cannot be reached: check the network, then run make again."
    elif "No space left on device" in output:
        remedy = "The disk is full: the environment needs about 3 GB."
    elif "No matching distribution" in output or "Could not find a version" in output:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        remedy = (
            f"A pinned version does not exist for Python {version} on this machine: try another "
            "Python (make PYTHON=…), or loosen that line of constraints.txt."
        )
    else:
        remedy = "The lines above are pip's. Mend what they name, then run make again."
    return SetupError(f"Could not install {step}.\n{told}\n{remedy}")


def install(venv: Path, constraints: str, torch_index: str) -> None:
    """Install torch, then everything else, under the constraints if there are any.

    torch goes first and alone: only this step may use the index with CPU builds. An index that
    cannot be reached costs seconds per package, so the second step never sees it.

    Raises: SetupError.
    """
    under = ("-c", constraints) if constraints else ()
    print("Installing torch (about 200 MB) …", flush=True)
    failed = "not tried"
    if torch_index:
        quick = ("--retries", "1", "--timeout", "15", "--extra-index-url", torch_index)
        failed = pip(venv, *quick, *under, "--no-deps", "torch")
    if failed:
        failed = pip(venv, *under, "--no-deps", "torch")
    if failed:
        raise explain("torch", failed)
    print("Installing the course and its tools (about a minute) …", flush=True)
    failed = pip(venv, *under, "--editable", EXTRAS)
    if failed:
        raise explain("the course's dependencies", failed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("venv", type=Path)
    parser.add_argument("--constraints", default="", help="file of exact versions")
    parser.add_argument("--torch-index", default="", help="index with CPU builds of torch")
    arguments = parser.parse_args()
    venv = arguments.venv.absolute()
    stamp = venv / ".installed"
    if stamp.is_file() and stamp.read_text() == wanted(arguments.constraints):
        stamp.touch()
        return
    try:
        print(f"Creating {arguments.venv} with Python {sys.version.split()[0]} …", flush=True)
        create(venv)
        install(venv, arguments.constraints, arguments.torch_index)
    except SetupError as error:
        sys.exit(f"\nSet-up failed. {error}")
    except KeyboardInterrupt:
        sys.exit("\nSet-up stopped. Run make again to go on.")
    stamp.write_text(wanted(arguments.constraints))


if __name__ == "__main__":
    main()

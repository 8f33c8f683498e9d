"""Find the browser for the tests, or install one where that is allowed.

Usage: python tools/browser.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
REMEDY = (
    "The tests of the built book need Chromium or Chrome, and none was found.\n"
    "Install one (Debian, Ubuntu: apt install chromium; macOS: brew install --cask chromium), or "
    "set CHROMIUM=/path/to/it, then run make test again."
)


def find() -> str | None:
    """Path of a Chromium or Chrome: the variable CHROMIUM, the PATH, the usual places."""
    named = os.environ.get("CHROMIUM")
    if named:
        return shutil.which(named)
    on_path = (shutil.which(name) for name in NAMES)
    usual = (path for path in APPLICATIONS if Path(path).is_file())
    return next((path for path in (*on_path, *usual) if path), None)


def install() -> bool:
    """Install Debian's chromium if this machine lets us; say whether it worked."""
    may = shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0
    if not may:
        return False
    print("Installing chromium for the tests of the built book …", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    steps = (
        ("apt-get", "update", "-qq"),
        ("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"),
    )
    for step in steps:
        run = subprocess.run(step, env=environment, capture_output=True, text=True)
        if run.returncode:
            print(f"{' '.join(step)} failed:\n{run.stderr.strip()}", file=sys.stderr)
            return False
    return True


def main() -> None:
    if not find() and not (install() and find()):
        sys.exit(REMEDY)


if __name__ == "__main__":
    main()

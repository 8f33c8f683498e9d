"""What the tests of the built book share: the book itself, on a server, and a browser."""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator

import browser
import pytest
from built import BOOK, FLAGS, MODES, ROOT
from playwright.sync_api import Browser, BrowserContext, sync_playwright


class QuietServer(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """Address of the book, built anew if it is stale."""
    build = [sys.executable, ROOT / "tools/build.py"]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    handler = functools.partial(QuietServer, directory=str(BOOK))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")  # two at once in one process do not work
def chromium() -> Iterator[Browser]:
    path = browser.find()
    assert path, browser.REMEDY
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def desktop(chromium: Browser) -> Iterator[BrowserContext]:
    with chromium.new_context(**MODES["light"]) as opened:
        yield opened

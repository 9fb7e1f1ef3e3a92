"""A browser, and the explorer served in a thread, for the tests in test_explorer_browser.py."""

import dataclasses
import shutil
import socket
import threading
from contextlib import contextmanager

import pytest

from alphabar.cli import demo
from alphabar.explorer.answers import Page
from alphabar.explorer.pictures import Album
from alphabar.explorer.reverse import Run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
TIMEOUT = 30_000  # milliseconds, of whatever is waited for: a busy machine is slow


def page_of(trained=None, image=None, language="en", seconds=2.0):
    """A page whose digits train for a moment, on a small network."""
    config = dataclasses.replace(demo.CONFIG, seconds=seconds, steps=60, batch_size=32, channels=(8, 16))
    return Page(Album(image), Run(trained, config), language)


@contextmanager
def served(page):
    """The address of a page that is served while the block runs."""
    import uvicorn

    from alphabar.explorer.server import application

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application(page), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listening.close()


@contextmanager
def browser():
    """Headless Chromium; skipped with a reason where it or Playwright is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    pytest.importorskip("uvicorn", reason="the explore extra is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield opened
        finally:
            opened.close()

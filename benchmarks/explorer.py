"""How long the explorer's controls take to answer in a browser: from the key or slider to the new picture.

``python -m benchmarks.explorer`` prints what it finds, and writes nothing. It needs the extra ``explore``,
Playwright and Chromium. The picture is one of scikit-learn's photographs, 512×512.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.request import urlopen

__all__ = ["main"]

PORT = 7869
ROUNDS = 15
TURNS: Mapping[str, Mapping[str, tuple[str, Sequence[str]]]] = {
    "forward": {
        "t, in one jump": ("f-t", ("100", "500", "900")),
        "the seed": ("f-seed", ("1", "2", "3")),
    },
    "schedules": {"T": ("s-steps", ("1000", "500", "250"))},
    "plane": {"t": ("p-t", ("100", "400", "800")), "x": ("p-x", ("-1", "0", "1"))},
    "samplers": {
        "evaluations": ("t-0-evaluations", ("10", "20", "30")),
        "sampler": ("t-1-sampler", ("ddim", "unipc", "deis")),
    },
}
"""By tab and name of the control: its id, and the values it is turned to."""
ANSWERED = """([id, value, tab]) => new Promise((done) => {
  const control = document.getElementById(id), panel = document.getElementById(tab);
  const began = performance.now();
  const seen = new MutationObserver(async () => {
    if (panel.getAttribute("aria-busy") !== "false") return;
    seen.disconnect();
    await Promise.all([...panel.querySelectorAll("img")].map((image) => image.decode()));
    requestAnimationFrame(() => done(performance.now() - began));
  });
  seen.observe(panel, { attributes: true, attributeFilter: ["aria-busy"] });
  control.value = value;
  for (const kind of ["input", "change"]) control.dispatchEvent(new Event(kind, { bubbles: true }));
})"""
"""Resolves to milliseconds, once the panel is no longer busy and its pictures can be seen."""


def main() -> None:
    """Print median and largest time of each control."""
    with served() as address, opened(address) as page:
        for tab, controls in TURNS.items():
            page.locator(f"#tab-{tab}").click()
            page.wait_for_selector(f"#{tab}[aria-busy=false]")
            for name, (control, values) in controls.items():
                turns = [values[k % len(values)] for k in range(ROUNDS)]
                times = [page.evaluate(ANSWERED, [control, value, tab]) for value in turns]
                print(f"{tab}, {name}: median {statistics.median(times):.0f} ms, largest {max(times):.0f} ms")


@contextmanager
def served() -> Iterator[str]:
    """Yield the address of an explorer in a process of its own."""
    command = [sys.executable, "-m", "alphabar", "explore", "--port", str(PORT)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{PORT}"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def opened(address: str) -> Iterator[Any]:
    """Yield the page in Chromium, once the server answers."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(600):
            try:
                urlopen(address).close()
                break
            except OSError:
                time.sleep(0.1)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}/?lang=en")
        page.wait_for_selector("body[data-ready]")
        yield page
        browser.close()


if __name__ == "__main__":
    main()

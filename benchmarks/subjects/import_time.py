"""Import time: what `import alphabar` adds to `import torch`, in fresh interpreters that take turns."""

from __future__ import annotations

import compileall
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import alphabar
from benchmarks import peers
from benchmarks.measure import Result, Settings

TITLE = "Import time"
ABOUT = (
    "What an import adds to `import torch`, in fresh interpreters that take turns; all is compiled to "
    "bytecode, as installing leaves them."
)
ROUNDS = 9
LIMIT = 0.05  # seconds
IMPORTS = {
    "alphabar": "import alphabar",
    "diffusers": "from diffusers import DDPMScheduler, DDIMScheduler",
    "azula": "import azula.noise, azula.denoise, azula.sample",
}
PROGRAM = """
import time, torch
began = time.perf_counter()
{}
print(time.perf_counter() - began)
"""


def run(settings: Settings) -> Iterator[Result]:
    """Measure whatever is installed."""
    compileall.compile_dir(Path(alphabar.__file__).parent, quiet=1)
    there = [name for name in IMPORTS if name == "alphabar" or peers.library(name)]
    samples: dict[str, list[float]] = {name: [] for name in there}
    for _ in range(ROUNDS):
        for name in there:
            samples[name].append(_seconds(IMPORTS[name]))
    aims = {"limit": 1.0}
    samples["limit"] = [LIMIT] * ROUNDS
    yield Result("import, after torch", samples, aims)


def _seconds(line: str) -> float:
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(line)], capture_output=True, check=True)
    return float(done.stdout.split()[-1])

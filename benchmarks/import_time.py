"""What `import alphabar` adds to `import torch`: medians over fresh interpreters, taken in turn.

python -m benchmarks.import_time
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys

import torch

RUNS = 15
PROGRAM = """
import time, torch
began = time.perf_counter()
import alphabar
print(time.perf_counter() - began)
"""


def seconds() -> float:
    """What a fresh interpreter needs."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Print the median and the range."""
    added = sorted(seconds() for _ in range(RUNS))
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {RUNS} interpreters")
    print(f"import alphabar: {statistics.median(added):.3f} s more ({added[0]:.3f} … {added[-1]:.3f})")


if __name__ == "__main__":
    main()

"""Time to quality where the network is told the labels, as ``alphabar train`` does unasked."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Result, Settings
from benchmarks.subjects.quality import TUNED, compared, ours, plain

TITLE = "Time to quality, told the labels"
ABOUT = (
    "*alphabar* is `alphabar train` with no other setting than the time, which chooses its network and is "
    "told the labels; *diffusers, tuned* is that loop, network and settings of *Time to quality*, told the "
    "labels too. Both draw the ten classes in turn; data, samples and score are those of *Time to quality*."
)
SEEDS = range(3)
RUNS = {f"alphabar, seed {seed}": ours(chooses=True, seed=seed) for seed in SEEDS} | {
    f"diffusers, tuned, seed {seed}": plain(TUNED, told=True, seed=seed) for seed in SEEDS
}


def run(settings: Settings) -> Iterator[Result]:
    """Train and score, run by run."""
    chosen = settings.runs or tuple(RUNS)
    return compared(settings, {name: RUNS[name] for name in chosen}, (*RUNS, "real"))

"""Peak memory: how many tensors of the data's size live at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.denoise.denoiser import Denoiser
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.dpm import DPMSolver
from alphabar.samplers.loop import sample
from alphabar.samplers.plan import Sampler
from alphabar.schedule.noise_schedule import NoiseSchedule
from benchmarks import peers
from benchmarks.measure import Result, Settings
from benchmarks.subjects.noising import LARGE, example, fresh, with_out

TITLE = "Peak memory"
ABOUT = (
    "The most memory in use during a call, in tensors of the data's size, arguments included: noising "
    "holds x_0, the noise and the output; sampling the state, x̂_0, what a multistep method remembers, "
    "the network's output and the next state. The floor is their number. On the CPU it is the process's "
    "peak as the system counts it."
)
STEPS = 8
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def run(settings: Settings) -> Iterator[Result]:
    """Measure noising and sampling, where the system tells."""
    if settings.device == "cpu" and not RESET.exists():
        return
    data = example(LARGE, torch.float32, settings.device)
    own = ("alphabar", "by hand")  # the peers cannot write into a given output
    into = {name: call for name, call in with_out(data).items() if name in own}
    yield _result("noising, into out", into, data[0], held=3, least=3)
    yield _result("noising, fresh", fresh(data), data[0], held=2, least=3)
    for name, sampler, options, past in SAMPLINGS:
        entrants = peers.named(alphabar=_sampling(sampler, data[0]), diffusers=_peer(name, options, data[0]))
        # The caller's start, the state, the output, x̂_0 and its history; x_s takes the output's place.
        yield _result(f"sampling, {name}", entrants, data[0], held=1, least=4 + past)


SAMPLINGS: tuple[tuple[str, Sampler, dict[str, Any], int], ...] = (
    ("DDIM", DDIM(STEPS), {"clip_sample": False}, 0),
    ("DPMSolverMultistep", DPMSolver(STEPS, order=3), {"solver_order": 3}, 2),
)


def _network(x_t: Tensor, t: Any) -> Tensor:
    return x_t * 0.5


def _sampling(sampler: Sampler, x_t: Tensor) -> Callable[[], Tensor]:
    denoiser = Denoiser(_network, NoiseSchedule.linear())
    return lambda: sample(denoiser, x_t.shape, sampler, x_t=x_t, seed=0, progress=False)


def _peer(name: str, options: dict[str, Any], x_t: Tensor) -> Callable[[], Tensor] | None:
    if (library := peers.library("diffusers")) is None:
        return None
    scheduler = getattr(library, f"{name}Scheduler")(**options)

    def run() -> Tensor:
        scheduler.set_timesteps(STEPS, device=x_t.device)
        x = x_t
        for t in scheduler.timesteps:
            x = scheduler.step(_network(x, t), t, x).prev_sample
        return x

    return run


def _result(name: str, calls: dict[str, Callable[[], Any]], like: Tensor, held: int, least: int) -> Result:
    size = like.numel() * like.element_size()
    peaks = {
        who: [held + peak(call, like.device.type) / size for _ in range(3)]
        for who, call in calls.items()
        if who != "floor"
    }
    return Result(name, {**peaks, "floor": [float(least)] * 3}, {"floor": 0.95}, unit="tensors")


@torch.no_grad()
def peak(call: Callable[[], Any], device: str) -> int:
    """Return the bytes that a call has in use at its worst moment, beyond those in use before."""
    call()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    before = _resident("VmRSS")
    RESET.write_text("5")  # the highest mark starts again from here
    call()
    return _resident("VmHWM") - before


def _resident(which: str) -> int:
    found = re.search(rf"{which}:\s*(\d+) kB", STATUS.read_text())
    return int(found[1]) * 1024 if found else 0

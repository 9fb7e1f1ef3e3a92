"""Steps: what a sampler does between two evaluations of the network, at three sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from alphabar.samplers.adams import DEIS, LMS, PNDM
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.ddpm import DDPM
from alphabar.samplers.dpm import DPMSolver
from alphabar.samplers.euler import Euler, EulerAncestral, Heun
from alphabar.samplers.plan import X_0, Row, Sampler
from alphabar.samplers.unipc import UniPC
from alphabar.schedule.noise_schedule import NoiseSchedule
from benchmarks import ours, peers
from benchmarks.measure import Case, Result, Settings, measure

TITLE = "Steps"
ABOUT = (
    "From the network's output to the next state: x̂_0, fresh noise where the sampler wants some (ours by "
    "address, theirs from torch's stream), and the sum. Ours writes it into a tensor that is there, as "
    "`sample` does and theirs cannot. 50 steps on the linear schedule, ε-prediction, no clipping. The floor "
    "is one `torch.add` into a given output. The last lines compare our own samplers "
    "with one another: those whose rows add up as many tensors cost the same, whatever their names; the "
    "ratio there is that of the fastest to the slowest."
)
SHAPES = ((1, 3, 32, 32), (16, 3, 32, 32), (4, 3, 256, 256))
PICTURED = "16×3×32×32"
STEPS = 50
ALIKE = 1 / 1.2
"""Samplers with as many tensors are within 20 % of one another."""
SAMPLERS: dict[str, tuple[Sampler, str, dict[str, Any], tuple[float, ...]]] = {
    "DDPM": (DDPM(STEPS), "DDPMScheduler", {"clip_sample": False}, (6, 6, 6)),
    "DDIM": (DDIM(STEPS), "DDIMScheduler", {"clip_sample": False}, (5, 5, 3)),
    "Euler": (Euler(STEPS), "EulerDiscreteScheduler", {}, ()),
    "Euler ancestral": (EulerAncestral(STEPS), "EulerAncestralDiscreteScheduler", {}, ()),
    "Heun": (Heun(STEPS), "HeunDiscreteScheduler", {}, ()),
    "DPM-Solver++ 2M": (DPMSolver(STEPS), "DPMSolverMultistepScheduler", {}, ()),
    "DPM-Solver++ 3M": (
        DPMSolver(STEPS, order=3),
        "DPMSolverMultistepScheduler",
        {"solver_order": 3},
        (),
    ),
    "UniPC 2": (UniPC(STEPS), "UniPCMultistepScheduler", {}, ()),
    "UniPC 3": (UniPC(STEPS, order=3), "UniPCMultistepScheduler", {"solver_order": 3}, ()),
    "DEIS 3": (DEIS(STEPS), "DEISMultistepScheduler", {"solver_order": 3}, ()),
    "LMS 4": (LMS(STEPS), "LMSDiscreteScheduler", {}, ()),
    "PNDM": (PNDM(STEPS), "PNDMScheduler", {}, ()),
}
"""Ours, theirs with its settings, and the ratio to reach at each shape."""


def run(settings: Settings) -> Iterator[Result]:
    """Measure every sampler at every shape, then ours beside one another."""
    schedule = NoiseSchedule.linear()
    for place, shape in enumerate(SHAPES):
        size = "×".join(map(str, shape))
        x_t, output, out = torch.randn(3, *shape, device=settings.device).unbind()
        for name, (sampler, theirs, options, aims) in SAMPLERS.items():
            entrants = peers.named(
                alphabar=ours.step(ours.middle_row(sampler, schedule), schedule, x_t, output),
                diffusers=peer_step(theirs, options, x_t, output),
                azula=azula_step(name, x_t, output),
                floor=partial(torch.add, x_t, output, out=out),
            )
            aim = {"diffusers": aims[place]} if aims else {}
            yield measure(Case(f"{name}, {size}", entrants, aim), settings)
        yield from _alike(schedule, x_t, output, size, settings)


def peer_step(name: str, options: dict[str, Any], x_t: Tensor, output: Tensor) -> Callable[[], Any] | None:
    """Return a diffusers scheduler's step, in runs whose beginnings cost nothing: steps are compared."""
    if (library := peers.library("diffusers")) is None:
        return None
    scheduler = getattr(library, name)(**options)
    scheduler.set_timesteps(STEPS, device=x_t.device)
    scheduler.is_scale_input_called = True  # or those that scale their input would log a warning each time
    fresh = {key: copy.copy(value) for key, value in vars(scheduler).items()}

    def restart() -> None:
        vars(scheduler).update(
            (key, list(held) if isinstance(held, list) else held) for key, held in fresh.items()
        )

    return running(scheduler, x_t, output, restart)


def running(scheduler: Any, x_t: Tensor, output: Tensor, restart: Callable[[], None]) -> Callable[[], Any]:
    """Return a call that steps through a run, again and again: a multistep scheduler knows no other way."""
    place, ts = 0, list(scheduler.timesteps)

    def step() -> None:
        nonlocal place
        if place == len(ts):
            restart()
            place = 0
        scheduler.step(output, ts[place], x_t, return_dict=False)
        place += 1

    return step


def azula_step(name: str, x_t: Tensor, output: Tensor) -> Callable[[], Tensor] | None:
    """Return azula's step, where it has that sampler."""
    kind = {"DDPM": "DDPMSampler", "DDIM": "DDIMSampler", "Euler": "EulerSampler"}.get(name)
    if kind is None or peers.library("azula") is None:
        return None
    sampler = getattr(peers.library("azula"), kind)(peers.azula_denoiser(output), steps=STEPS, silent=True)
    t, s = sampler.timesteps.to(x_t.device)[STEPS // 2 :][:2]
    return lambda: sampler.step(x_t, t, s)


def _kind(row: Row) -> tuple[int, bool, bool]:
    """What the cost is made of: how many tensors are added up, whether noise is drawn, whether ε̂ is kept."""
    count = sum(number != 0 for number in (row.x, *row.history, row.z))
    return count, row.is_random, row.keeps != X_0


def _alike(
    schedule: NoiseSchedule, x_t: Tensor, output: Tensor, size: str, settings: Settings
) -> Iterator[Result]:
    rows = {name: ours.middle_row(sampler, schedule) for name, (sampler, *_) in SAMPLERS.items()}
    for kind, group in groupby(
        sorted(rows, key=lambda name: _kind(rows[name])), lambda name: _kind(rows[name])
    ):
        names = list(group)
        if len(names) > 1:
            calls = {name: ours.step(rows[name], schedule, x_t, output) for name in names}
            yield _slowest_to_fastest(kind, measure(Case("", calls), settings), size)


def _slowest_to_fastest(kind: tuple[int, bool, bool], result: Result, size: str) -> Result:
    count, is_random, keeps_eps = kind
    by_time = sorted(result.samples, key=lambda name: sum(result.samples[name]))
    name = f"{count} tensors{', noise' * is_random}{', ε̂ kept' * keeps_eps}, {size}"
    samples = {"alphabar": result.samples[by_time[-1]], "fastest of ours": result.samples[by_time[0]]}
    told = {"slowest": by_time[-1], "fastest": by_time[0], "samplers": ", ".join(result.samples)}
    return Result(name, samples, {"fastest of ours": ALIKE}, notes=told)

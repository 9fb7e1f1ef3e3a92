"""Correctness: the largest error against float64, in units in the last place of the result."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from alphabar import kernels as ops
from alphabar.process import addressed
from alphabar.process.forward import add_noise
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.ddpm import DDPM
from alphabar.samplers.unipc import UniPC
from alphabar.schedule.noise_schedule import NoiseSchedule
from benchmarks import peers
from benchmarks.measure import Result, Settings

TITLE = "Correctness"
ABOUT = (
    "Errors against the same sum in float64, in units in the last place of the result: a number rounded "
    "once is off by half of one at most (*floor*), by a quarter in the middle. The largest is given for "
    "ours alone: where a sum nearly cancels its last place is small, and arithmetic in the precision of "
    "the data is off by millions. The CPU kernels add two tensors of bfloat16 in float32, with the rounding "
    "errors carried along: those may be off by 2⁻⁷ more. Normals are compared with Philox and Box–Muller in "
    "float64, in units of 2⁻²³."
)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPE, BEST = (256, 3, 32, 32), 0.5  # half a unit


def run(settings: Settings) -> Iterator[Result]:
    """Compare noising in every precision, steps and normals."""
    schedule = NoiseSchedule.linear()
    for dtype in DTYPES:
        x_0, z = torch.randn(2, *SHAPE, device=settings.device).to(dtype).unbind()
        t = torch.randint(0, len(schedule), SHAPE[:1], device=settings.device)
        a, b = (
            part.to(x_0.device)[t].view(-1, 1, 1, 1) for part in (schedule.signal_scale, schedule.noise_scale)
        )
        exact = a * x_0.double() + b * z.double()
        name = f"noising, {str(dtype).removeprefix('torch.')}"
        made = {"alphabar": add_noise(schedule, x_0, z, t)} | _peer(x_0, z, t)
        yield _largest(name, made["alphabar"], exact)
        medians = {who: [float(units(result, exact).median())] for who, result in made.items()}
        yield Result(f"{name}, median", medians, unit="ulp")
    yield from _steps(schedule, settings.device)
    yield _normals(settings.device)


def units(result: Tensor, exact: Tensor) -> Tensor:
    """Return the errors in units in the last place of the result's precision."""
    facts = torch.finfo(result.dtype)
    exponent = torch.frexp(exact).exponent - 1
    place = torch.ldexp(torch.full_like(exact, facts.eps), exponent).clamp(
        min=facts.smallest_normal * facts.eps
    )
    return (result.double() - exact).abs() / place


def _largest(name: str, result: Tensor, exact: Tensor) -> Result:
    samples = {"alphabar": [float(units(result, exact).max())], "floor": [BEST]}
    return Result(f"{name}, largest", samples, {"floor": 0.98}, unit="ulp")


def _peer(x_0: Tensor, z: Tensor, t: Tensor) -> dict[str, Tensor]:
    library = peers.library("diffusers")
    return {"diffusers": library.DDPMScheduler().add_noise(x_0, z, t)} if library else {}


def _steps(schedule: NoiseSchedule, device: str) -> Iterator[Result]:
    for name, sampler in (("DDIM", DDIM(50)), ("DDPM", DDPM(50)), ("UniPC 3", UniPC(50, order=3))):
        rows = sampler.plan(schedule).rows
        row = rows[len(rows) // 2]  # a multistep method has its full history there
        x_t, z, *past = torch.randn(2 + len(row.history), *SHAPE, device=device).unbind()
        terms = zip((row.x, row.z, *row.history), (x_t, z, *past), strict=True)
        exact = torch.stack([number * tensor.double() for number, tensor in terms]).sum(0)
        yield _largest(f"step of {name}, float32", row.advance(x_t, past, z), exact)


def _normals(device: str) -> Result:
    samples, size, seed, stream = 64, 4096, 3, 5
    made = addressed.normal((samples, size), seed=seed, stream=stream, device=device).cpu()
    block, zero = (
        torch.arange(size // 4).expand(samples, -1),
        torch.zeros(samples, size // 4, dtype=torch.int64),
    )
    counter = (block, zero + stream, zero + torch.arange(samples)[:, None], zero)
    words = ops.philox4x32(counter, (seed, 0))
    # The uniform numbers are float32 by definition; from there on float64.
    u = [(word.float() * 2**-32 + 2**-33).double() for word in words]
    pairs = [(((-2 * u[k].log()).sqrt()), 2 * math.pi * u[k + 1]) for k in (0, 2)]
    exact = torch.stack(
        [radius * turn(angle) for radius, angle in pairs for turn in (torch.cos, torch.sin)], -1
    )
    away = float((made.double() - exact.flatten(1)).abs().max()) / torch.finfo(torch.float32).eps
    return Result("normals, float32, in units of 2⁻²³", {"alphabar": [away]}, unit="ulp")

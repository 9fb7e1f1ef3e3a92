"""Images a second: whole chains through a U-Net of MNIST's size, each entrant in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from alphabar.cli._memory import keep_memory
from alphabar.denoise.denoiser import Denoiser
from alphabar.denoise.guidance import Clipped
from alphabar.samplers.cores import on_each_core
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.loop import sample
from alphabar.schedule.noise_schedule import NoiseSchedule
from alphabar.training.data import to_uint8
from alphabar.training.network import unet
from benchmarks import peers
from benchmarks.measure import OURS, Case, Result, Settings, measure

TITLE = "Images a second"
ABOUT = (
    "DDIM through a `UNet2DModel` of 6.5 M parameters for 28×28, from noise to 8-bit images, as `alphabar "
    "sample` does it between its files: in bfloat16 where the processor has it, each core with a part of the "
    "batch, and with freed memory kept by the process; in float32 with that; in float32 with all cores in "
    "each layer and glibc's defaults. Beside them diffusers' `DDIMPipeline` in its defaults. Each has a "
    "process of its own, since a process has one allocator."
)
BATCH, STEPS = 250, 2
WIDTHS = (64, 128, 128)
AS_IT_IS = "float32, glibc's defaults"
AIMS = {AS_IT_IS: 2.5, "diffusers": 2.0}
ENTRANTS = (OURS, "float32", AS_IT_IS, "diffusers")
Chain = Callable[[], Any]


def run(settings: Settings) -> Iterator[Result]:
    """Measure whole chains of few steps, of which each costs as much as one of many."""
    if peers.library("diffusers") is None:
        return
    with ExitStack() as running:
        entrants = {name: running.enter_context(Served(name, settings)) for name in ENTRANTS}
        name = f"DDIM, {STEPS} evaluations, {BATCH}×1×28×28"
        yield measure(Case(name, entrants, AIMS, work=(BATCH, "images")), settings)


class Served:
    """A process that draws a batch at each call."""

    def __init__(self, name: str, settings: Settings, size: tuple[int, int] = (BATCH, STEPS)) -> None:
        context = get_context("spawn")
        self.asking, self.asked = context.Pipe()
        given = (name, settings.device, settings.threads, size, self.asked)
        self.process = context.Process(target=serve, args=given, daemon=True)

    def __enter__(self) -> Served:
        self.process.start()
        self.asked.close()  # so that asking a process that has failed ends with an error
        return self

    def __call__(self) -> object:
        """Return what the process answers once its batch is drawn."""
        self.asking.send(True)
        return self.asking.recv()

    def __exit__(self, *error: object) -> None:
        self.asking.send(False)
        self.process.join()


def serve(name: str, device: str, threads: int, size: tuple[int, int], asked: Connection) -> None:
    """Draw a batch whenever one is asked for, in a process that was begun for this."""
    torch.set_num_threads(threads)
    if name in (OURS, "float32"):
        keep_memory()
    chain = {"diffusers": pipeline}.get(name, ours)(name, device, *size)
    while asked.recv():
        asked.send(len(chain()))


def ours(name: str, device: str, batch: int, steps: int) -> Chain:
    """Return how ``alphabar sample`` draws a batch."""
    precision = "auto" if name == OURS else "float32"
    network = small(device)
    denoiser = Clipped(Denoiser(network, NoiseSchedule.linear(), precision=precision))
    options: dict[str, Any] = {"seed": 0, "device": device, "progress": False}

    def draw(block: range) -> Tensor:
        return sample(denoiser, (len(block), 1, 28, 28), DDIM(steps), first=block.start, **options)

    made = draw if name == AS_IT_IS else on_each_core(draw, torch.device(device))
    return lambda: to_uint8(made(range(batch))).cpu()


def pipeline(name: str, device: str, batch: int, steps: int) -> Chain:
    """Return diffusers' pipeline of the same network and sampler."""
    from diffusers import DDIMPipeline, DDIMScheduler

    made = DDIMPipeline(unet=small(device), scheduler=DDIMScheduler())
    made.set_progress_bar_config(disable=True)
    return lambda: made(batch_size=batch, num_inference_steps=steps).images


def small(device: str) -> Any:
    """Return the network, with the same random weights each time."""
    torch.manual_seed(0)
    return unet((1, 28, 28), channels=WIDTHS).to(device).eval()

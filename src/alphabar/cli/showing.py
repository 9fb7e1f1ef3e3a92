"""The commands that need no trained network: noise, schedule, samplers, demo, info."""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from tyro.conf import Positional

import alphabar
from alphabar.cli import demo, plots
from alphabar.cli._arguments import check_picture, check_seed, counts, made_schedule, one_of, readable, wrote
from alphabar.cli._networks import list_networks
from alphabar.denoise.files import check_free, check_writable, replaced_files
from alphabar.errors import ConfigError
from alphabar.kernels import backend, cpu
from alphabar.samplers import ranking
from alphabar.schedule import FAMILIES
from alphabar.training import has_bfloat16, read_image, to_unit

DEMO = "demo.json"  # lists the files of a demo

__all__ = ["Demo", "Info", "Noise", "Samplers", "Schedule"]


@readable
@dataclass(frozen=True)
class Noise:
    """Show a picture dissolving into noise: x_t at chosen t, with ᾱ_t and the signal-to-noise ratio."""

    image: Positional[Path]
    """A picture in any common format."""
    t: tuple[int, ...] = ()
    """Which t to show, increasing; by default eight from 0 to T−1."""
    schedule: str = one_of(FAMILIES, "linear")
    """Noise schedule."""
    diffusion_steps: int = 1000
    """T, the number of noise levels."""
    size: int = 256
    """Pixels of the shorter side."""
    seed: int = 0
    """Of the noise."""
    gif: bool = False
    """Write the whole chain as an animation too."""
    out: Path = Path("noise.png")
    """Where to write; the animation goes beside it."""

    def __call__(self) -> None:
        """Write the strip, and the animation."""
        check_picture(self.out, self.image)
        if self.gif:
            check_picture(self.out.with_suffix(".gif"), self.image)
        check_seed(self.seed)
        schedule = made_schedule(self.schedule, self.diffusion_steps)
        x_0 = to_unit(read_image(self.image, size=self.size))
        for path in demo.noise_strip(x_0, schedule, self.out, ts=self.t, seed=self.seed, gif=self.gif):
            wrote(path)


@readable
@dataclass(frozen=True)
class Schedule:
    """Draw β, ᾱ and the log-SNR of noise schedules side by side."""

    names: Positional[tuple[str, ...]] = one_of(FAMILIES, ("linear", "cosine"))  # noqa: RUF009  a field
    """Which to draw."""
    diffusion_steps: int = 1000
    """T, the number of noise levels."""
    out: Path = Path("schedule.png")
    """Where to write."""

    def __call__(self) -> None:
        """Print the ends of each schedule and write the curves."""
        check_picture(self.out)
        schedules = {name: made_schedule(name, self.diffusion_steps) for name in self.names}
        for name, schedule in schedules.items():
            beta, alpha_bar = schedule.beta, schedule.alpha_bar
            print(
                f"{name:14} T {len(schedule)}   β {beta[0]:.3g} … {beta[-1]:.3g}   "
                f"ᾱ {alpha_bar[0]:.6f} … {alpha_bar[-1]:.3g}   log-SNR {schedule.log_snr[0]:.2f} … "
                f"{schedule.log_snr[-1]:.2f}"
            )
        plots.schedule_curves(schedules, self.out)
        wrote(self.out)


@readable
@dataclass(frozen=True)
class Samplers:
    """Rank the solvers on Gaussian data, where their error is known exactly, and draw error against cost."""

    schedule: str = one_of(FAMILIES, "linear")
    """Noise schedule."""
    diffusion_steps: int = 1000
    """T, the number of noise levels."""
    evals: str = "5,10,20,50"
    """Evaluations of the network, with commas between."""
    out: Path = Path("samplers.png")
    """Where to write the picture."""

    def __call__(self) -> None:
        """Print each solver's least error over the spacings, the best solver at the last count first."""
        check_picture(self.out)
        evaluations = counts(self.evals)
        schedule = made_schedule(self.schedule, self.diffusion_steps)
        best = [{score.solver: score for score in reversed(ranking(schedule, n))} for n in evaluations]
        known = dict.fromkeys(solver for scores in best for solver in scores)
        order = sorted(known, key=lambda solver: best[-1][solver].error if solver in best[-1] else math.inf)
        print(f"{'error at evaluations':22}" + "".join(f"{n:>18}" for n in evaluations))
        for solver in order:
            rows = (scores.get(solver) for scores in best)  # Fitted has no table for every count
            cells = (f"{row.error:9.5f} {row.spacing:8}" if row else f"{'—':>9}{'':9}" for row in rows)
            print(f"{solver:22}" + "".join(cells).rstrip())
        curves = {name: [(s[name].evaluations, s[name].error) for s in best if name in s] for name in order}
        plots.error_curves(curves, self.out)
        wrote(self.out)


@readable
@dataclass(frozen=True)
class Demo:
    """Run the whole story: noise a photograph, train on digits, sample new ones, and score them."""

    out: Path = Path("demo")
    """The folder to write; open its index.html."""
    seconds: float = 80.0
    """Longest training."""
    seed: int = 0
    """Of everything."""

    def __call__(self) -> None:
        """Write the pictures, the numbers, and the page that shows them."""
        check_seed(self.seed)
        check_free(self.out, list(demo.WRITTEN), DEMO)
        check_writable(self.out)
        with replaced_files(self.out, DEMO) as draft:
            demo.run(draft, seconds=self.seconds, seed=self.seed)
        wrote(self.out / "index.html")


@readable
@dataclass(frozen=True)
class Info:
    """Say what this machine offers, and which kernels do the arithmetic; or which networks there are."""

    networks: bool = False
    """List the networks, with the parameters and the multiply-adds of one evaluation."""
    shape: tuple[int, ...] = ()
    """Of the data for which they are listed, channels first; by default an example of each kind."""
    width: int | None = None
    """Of the networks; by default each its own."""

    def __call__(self) -> None:
        """Print versions, processors and backends, or the networks."""
        if self.networks:
            list_networks(self.shape, self.width)
            return
        if self.shape or self.width is not None:
            raise ConfigError("shape and width are those of --networks: add it, or leave them out")
        python, cuda = platform.python_version(), torch.cuda.is_available()
        rows = {
            "alphabar": f"{alphabar.__version__}, Python {python}, torch {torch.__version__}",
            "CPU": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
            "CPU kernels": cpu.REASON or "native, built with the package",
            "GPU kernels": "Triton" if backend(torch.device("cuda")) else "none: triton is not installed",
            "GPU": torch.cuda.get_device_name() if cuda else "none",
            "networks in": "bfloat16" if has_bfloat16(PartialState().device) else "float32",
        }
        for name, fact in rows.items():
            print(f"{name:12} {fact}")

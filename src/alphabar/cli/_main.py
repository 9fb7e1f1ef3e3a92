"""The command line: ``alphabar noise | schedule | samplers | train | sample | edit | … | demo``.

Every command is a dataclass: its fields are the arguments, and calling it does the work. Those that take a
trained network are in ``sampling.py``. The training command is the :class:`alphabar.training.TrainConfig` of
the Python API with a place to write to. A wrong argument is one line on stderr and exit code 2.
"""

from __future__ import annotations

import contextlib
import io
import math
import platform
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import torch
import tyro
from accelerate import PartialState
from tyro.conf import FlagCreatePairsOff, Positional, arg

import alphabar
from alphabar.checks import check_count
from alphabar.cli import demo, plots
from alphabar.cli.convert import Convert
from alphabar.cli.sampling import Edit, Inpaint, Interpolate, Sample, wrote
from alphabar.errors import AlphabarError, ConfigError, look_up
from alphabar.kernels import backend, cpu
from alphabar.samplers import ranking, track
from alphabar.schedule import FAMILIES, NoiseSchedule
from alphabar.training import TrainConfig, checkpoint, has_bfloat16, load_data, read_image, to_unit, train

__all__ = ["COMMANDS", "run"]

LOSS = "loss.png"  # of a run, the curve of its loss
KNOWN = ", ".join(FAMILIES)  # the names of schedules, for help texts


@dataclass(frozen=True)
class Noise:
    """Show a picture dissolving into noise: x_t at chosen t, with ᾱ_t and the signal-to-noise ratio."""

    image: Positional[Path]
    """A picture in any common format."""
    t: tuple[int, ...] = ()
    """Which t to show, increasing; by default eight from 0 to T−1."""
    schedule: Annotated[str, arg(help=f"Noise schedule: {KNOWN}.")] = "linear"
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
        schedule = _schedule(self.schedule, self.diffusion_steps)
        x_0 = to_unit(read_image(self.image, size=self.size))
        for path in demo.noise_strip(x_0, schedule, self.out, ts=self.t, seed=self.seed, gif=self.gif):
            wrote(path)


@dataclass(frozen=True)
class Schedule:
    """Draw β, ᾱ and the log-SNR of noise schedules side by side."""

    names: Positional[Annotated[tuple[str, ...], arg(help=f"Any of {KNOWN}.")]] = ("linear", "cosine")
    diffusion_steps: int = 1000
    """T, the number of noise levels."""
    out: Path = Path("schedule.png")
    """Where to write."""

    def __call__(self) -> None:
        """Print the ends of each schedule and write the curves."""
        schedules = {name: _schedule(name, self.diffusion_steps) for name in self.names}
        for name, schedule in schedules.items():
            beta, alpha_bar = schedule.beta, schedule.alpha_bar
            print(
                f"{name:14} T {len(schedule)}   β {beta[0]:.3g} … {beta[-1]:.3g}   "
                f"ᾱ {alpha_bar[0]:.6f} … {alpha_bar[-1]:.3g}   log-SNR {schedule.log_snr[0]:.2f} … "
                f"{schedule.log_snr[-1]:.2f}"
            )
        plots.schedule_curves(schedules, self.out)
        wrote(self.out)


@dataclass(frozen=True)
class Samplers:
    """Rank the solvers on Gaussian data, where their error is known exactly, and draw error against cost."""

    schedule: Annotated[str, arg(help=f"Noise schedule: {KNOWN}.")] = "linear"
    diffusion_steps: int = 1000
    """T, the number of noise levels."""
    evals: str = "5,10,20,50"
    """Evaluations of the network, with commas between."""
    out: Path = Path("samplers.png")
    """Where to write the picture."""

    def __call__(self) -> None:
        """Print each solver's least error over the spacings, the best solver at the last count first."""
        counts = _counts(self.evals)
        schedule = _schedule(self.schedule, self.diffusion_steps)
        best = [{score.solver: score for score in reversed(ranking(schedule, n))} for n in counts]
        known = dict.fromkeys(solver for scores in best for solver in scores)
        order = sorted(known, key=lambda solver: best[-1][solver].error if solver in best[-1] else math.inf)
        print(f"{'error at evaluations':22}" + "".join(f"{n:>18}" for n in counts))
        for solver in order:
            rows = (scores.get(solver) for scores in best)  # Fitted has no table for every count
            cells = (f"{row.error:9.5f} {row.spacing:8}" if row else f"{'—':>9}{'':9}" for row in rows)
            print(f"{solver:22}" + "".join(cells).rstrip())
        curves = {name: [(s[name].evaluations, s[name].error) for s in best if name in s] for name in order}
        plots.error_curves(curves, self.out)
        wrote(self.out)


@dataclass(frozen=True)
class Train(TrainConfig):
    """Train a network and write it as a folder that diffusers opens too."""

    data: Positional[str] = "digits"
    """What to train on: "digits", a folder of images, a .parquet file, or a Hugging Face dataset."""
    out: Path = Path("runs/latest")
    """The folder to write."""

    def __call__(self) -> None:
        """Train with a progress bar, then write the averaged network and the curve of the loss."""
        config = TrainConfig(**{each.name: getattr(self, each.name) for each in fields(TrainConfig)})
        main_process = PartialState().is_main_process
        check_apart(config.data, self.out)
        if main_process:  # two that try at once would be in each other's way
            checkpoint.check_place(self.out, also=(LOSS,))
        shown = None if main_process else False
        data = load_data(
            config.data,
            size=config.size,
            skip_broken=config.skip_broken,
            progress=lambda rows: track(rows, len(list(rows)), "reading", shown=shown),
        )
        steps = list(track(train(config, data=data), config.steps, "training", shown=shown))
        if not main_process:
            return
        if data.skipped:
            print(f"left out {len(data.skipped)} images that cannot be read: {', '.join(data.skipped)[:200]}")
        losses, last = [step.loss for step in steps], steps[-1]
        trained = last.snapshot()
        checkpoint.save(self.out, trained, also=lambda draft: plots.loss_curve(losses, draft / LOSS))
        mean = sum(losses[-50:]) / len(losses[-50:])
        print(f"{last.step} steps, {last.images} images, loss {mean:.4f} over the last {len(losses[-50:])}")
        wrote(self.out)


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
        demo.run(self.out, seconds=self.seconds, seed=self.seed)
        wrote(self.out / "index.html")


@dataclass(frozen=True)
class Info:
    """Say what this machine offers, and which kernels do the arithmetic."""

    def __call__(self) -> None:
        """Print versions, processors and backends."""
        python, cuda = platform.python_version(), torch.cuda.is_available()
        rows = {
            "alphabar": f"{alphabar.__version__}, Python {python}, torch {torch.__version__}",
            "CPU": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
            "CPU kernels": cpu.REASON or "native, built with the package",
            "GPU kernels": "Triton" if backend(torch.device("cuda")) else "none: triton is not installed",
            "GPU": torch.cuda.get_device_name() if cuda else "none",
            "training in": "bfloat16" if has_bfloat16(PartialState().device) else "float32",
        }
        for name, fact in rows.items():
            print(f"{name:12} {fact}")


def check_apart(data: str, out: Path) -> None:
    """Refuse a place to write to inside the data, or the data inside it.

    Raises:
        ConfigError: with both places.
    """
    images, run = Path(data).resolve(), out.resolve()
    if Path(data).exists() and (images in (run, *run.parents) or run in images.parents):
        raise ConfigError(
            f"out is {out}, and the data are in {data}: one lies in the other, choose another out"
        )


COMMANDS: dict[str, Callable[..., Callable[[], None]]] = {
    "noise": Noise,
    "schedule": Schedule,
    "samplers": Samplers,
    "train": Train,
    "sample": Sample,
    "edit": Edit,
    "inpaint": Inpaint,
    "interpolate": Interpolate,
    "convert": Convert,
    "demo": Demo,
    "info": Info,
}


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 2 after one line on stderr that says what would be right."""
    command = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _note  # type: ignore[assignment]
            command()
    except (AlphabarError, OSError) as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return _complain("interrupted; nothing half-written was left behind")
    return 0


def _parse(arguments: Sequence[str]) -> Callable[[], None]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(  # type: ignore[no-any-return]
                COMMANDS,
                prog="alphabar",
                description="Denoising diffusion models from one sequence of numbers.",
                args=list(arguments),
                config=(FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if stop.code:
            _complain(_one_line(said.getvalue()))
        raise


def _one_line(box: str) -> str:
    lines = [re.sub(r"[│╭╮╰╯─]+|-{3,}|^\||\|$", " ", line).strip() for line in box.splitlines()[1:]]
    text = " ".join(line for line in lines if line)
    return re.sub(r"\s*For full helptext, (run|see):?", "; see", text)


def _note(message: Warning | str, category: type[Warning], *where: object) -> None:
    if issubclass(category, UserWarning):  # what is meant for developers stays out of a user's sight
        print(f"alphabar: note: {message}", file=sys.stderr)


def _complain(text: str) -> int:
    print(f"alphabar: {text}".replace("\n", " "), file=sys.stderr)
    return 2


def _schedule(name: str, steps: int) -> NoiseSchedule:
    return look_up(FAMILIES, name, "schedule")(steps)


def _counts(text: str) -> list[int]:
    try:
        counts = sorted(map(int, text.split(",")))
    except ValueError:
        raise ConfigError(
            f"evals is {text!r}: give whole numbers with commas between, as in 5,10,20"
        ) from None
    check_count(evals=counts[0])
    return counts

"""Fits the tables of ``alphabar.samplers.Fitted`` and writes src/alphabar/samplers/fitted.json.

    python research/fit.py                          all schedules, all of 5 … 50 (forty minutes, one thread)
    python research/fit.py linear cosine            these
    python research/fit.py --write                  only write the JSON from what was fitted so far

Free numbers: where the sampler stops in λ, half the log-SNR, and what each row adds to the w of order 3 or 4
(as many estimates in a row), in units of 1 − e^{−h}. The loss:

    (1 − r − p) log(mean distance) + r log(rms distance), averaged over the mixtures
    + p log(rms distance over all mixtures)                       all three in those of a hand-made table
    + ``gaussian_weight`` · log(Gaussian error + .3 · goal)
    + ``regularisation`` · (‖additions‖² + .1 ‖second differences of log h‖²)

Distances are to a 600-step run from the same start. Each has the variance added that independent errors of
the estimates, of standard deviation ``noise`` · (6/n)^1.5 around λ = −1, would cause: networks are not smooth
in λ. Descent: L-BFGS in float64, in stages: from the best of a few starts (hand-made spacings and the two
tables fitted before whose n is nearest), and from there on more starts, with crowded mixtures. The n that are
not in ``first`` have a third stage: from the better of the table of n − 1, stretched, and of their neighbours
in ``first``, stretched and averaged. What was fitted is kept in build/fits/: a run resumes.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
import torch
from problems import WIDTHS, Problems, fitted_on, gaussian, joined, roughened
from rows import influence, of_order, run
from settings import GOALS, SETTINGS
from torch import Tensor, nn

from alphabar.schedule import spacing
from alphabar.schedule.levels import levels_at, t_of_log_snr
from alphabar.schedule.noise_schedule import FAMILIES, NoiseSchedule

FOLDER = Path(__file__).parents[1] / "build/fits"
PACKAGED = Path(__file__).parents[1] / "src/alphabar/samplers/fitted.json"
Ends = tuple[float, float]
Start = tuple[Tensor, Tensor]
Fits = dict[int, Start]


def goal(name: str, n: int) -> float:
    """The Gaussian error to aim at."""
    known = GOALS[name]
    return float(np.exp(np.interp(n, list(known), [math.log(value) for value in known.values()])))


class Table(nn.Module):
    """A table with its free numbers."""

    def __init__(self, ends: Ends, estimates: int, level: Tensor, added: Tensor | None = None) -> None:
        super().__init__()
        n, self.ends, self.estimates = len(level), ends, estimates
        h = level.diff()
        reach = ((level[-1] - level[0]) / (ends[1] - ends[0])).clamp(max=0.997)
        self.log_h = nn.Parameter((h / h.mean()).log())
        self.reach = nn.Parameter((reach / (1 - reach)).log())
        self.added = nn.Parameter(torch.zeros(n, 3, dtype=torch.float64) if added is None else added)
        free = [[k < min(i, estimates - 1) for k in range(3)] for i in range(n)]
        self.free = torch.tensor(free, dtype=torch.float64)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return λ, (n,), and w, (n, 3)."""
        h = self.log_h.softmax(0) * self.reach.sigmoid() * (self.ends[1] - self.ends[0])
        first = h.new_tensor([self.ends[0]])
        level = torch.cat([first, first + h.cumsum(0)])
        unit = torch.cat([-torch.expm1(-h), h.new_ones(1)])
        return level, of_order(level, self.estimates) + self.added * self.free * unit[:, None]


@dataclass
class Fit:
    """One table on its problems."""

    problems: Problems
    truth: Tensor
    goal: float
    table: Table
    stage: dict[str, Any]
    regularisation: float
    noise: float
    gaussian_weight: float
    usual: tuple[Tensor, Tensor]  # mean-like and root mean square distance of the hand-made table, (M,)

    def squares(self, level: Tensor, w: Tensor) -> Tensor:
        """Squared distances to the truth per dimension, (M, B)."""
        return squares(self.problems, self.truth, level, w)

    def loss(self) -> Tensor:
        """The loss of the module's docstring."""
        level, w = self.table()
        error = run(level, w, torch.ones_like(WIDTHS), gaussian) / WIDTHS - 1
        near_minus_1 = torch.exp(-(((level + 1) / 3) ** 2))
        noise = self.noise * (6 / len(level)) ** 1.5
        away = self.squares(level, w) + noise**2 * (influence(level, w).square() * near_minus_1).sum()
        median, rms = self.usual
        mean = (away + (0.1 * median[:, None]) ** 2).sqrt().mean(1)
        of_rms, of_pool = self.stage["rms"], self.stage["pooled"]
        on_mixtures = (1 - of_rms - of_pool) * (mean / median).log().mean()
        on_mixtures = on_mixtures + of_rms * (away.mean(1).sqrt() / rms).log().mean()
        if of_pool:
            on_mixtures = on_mixtures + of_pool * (away.mean() / rms.square().mean()).sqrt().log()
        on_widths = (error.square() + (0.05 * self.goal) ** 2).sqrt().mean()
        size = (self.table.added * self.table.free).square().sum()
        size = size + 0.1 * self.table.log_h.diff().diff().square().sum()
        on_widths = (on_widths + 0.3 * self.goal).log()
        return on_mixtures + self.gaussian_weight * on_widths + self.regularisation * size

    def descend(self, steps: int) -> float:
        """Take so many steps of L-BFGS; return the loss."""
        free = list(self.table.parameters())

        def put(numbers: np.ndarray) -> None:
            nn.utils.vector_to_parameters(torch.tensor(numbers), free)

        def value(numbers: np.ndarray) -> tuple[float, np.ndarray]:
            put(numbers)
            self.table.zero_grad()
            loss = self.loss()
            loss.backward()
            slope = torch.cat([parameter.grad.flatten() for parameter in free]).numpy()
            good = math.isfinite(loss.item()) and np.isfinite(slope).all()
            return (loss.item(), slope) if good else (1e3, np.zeros_like(slope))

        ranges = {"log_h": (-4, 4), "reach": (-4, 7), "added": (-4, 4)}
        bounds = [ranges[name] for name, p in self.table.named_parameters() for _ in range(p.numel())]
        options = {"maxiter": steps, "maxfun": int(steps * 1.4), "maxcor": 50, "maxls": 30}
        first = torch.cat([parameter.detach().flatten() for parameter in free]).numpy().copy()
        limits = {"bounds": bounds, "options": options | {"ftol": 1e-12, "gtol": 1e-9}}
        found = scipy.optimize.minimize(value, first, jac=True, method="L-BFGS-B", **limits)
        put(found.x)
        return float(found.fun)


def squares(problems: Problems, truth: Tensor, level: Tensor, w: Tensor) -> Tensor:
    """Squared distances to the truth per dimension, (M, B)."""
    ends = run(level, w, problems.start, problems.denoise)
    return (ends - truth).square().sum(-1) / problems.dimensions[:, None]


def usual(problems: Problems, truth: Tensor, ends: Ends, n: int) -> tuple[Tensor, Tensor]:
    """Median and root mean square distance of the hand-made table, per mixture the better of two spacings."""
    even = torch.linspace(*ends, n, dtype=torch.float64)
    noise = torch.linspace(math.exp(-ends[0] / 7), math.exp(-ends[1] / 7), n, dtype=torch.float64)
    made = [squares(problems, truth, level, of_order(level, 3)) for level in (even, -7 * noise.log())]
    medians, means = (
        [f(away).sqrt() for away in made] for f in (lambda d: d.median(1)[0], lambda d: d.mean(1))
    )
    return torch.minimum(*medians), torch.minimum(*means)


def spaced(ends: Ends, n: int, width: float, floor: float) -> Tensor:
    """λ as dense as exp(−((λ − 1)/width)²) + floor."""
    fine = torch.linspace(ends[0], ends[1] - 0.03, 4001, dtype=torch.float64)
    share = (torch.exp(-(((fine - 1) / width) ** 2)) + floor).cumsum(0)
    share = (share - share[0]) / (share[-1] - share[0])
    return torch.tensor(np.interp(np.linspace(0, 1, n), share.numpy(), fine.numpy()))


def stretched(fit: Start, n: int) -> Start:
    """A fitted table as the start for another number of evaluations."""
    level, added = fit
    place, known = np.linspace(0, 1, n), np.linspace(0, 1, len(level))
    curves = [torch.tensor(np.interp(place, known, curve.numpy())) for curve in (level, *added.T)]
    return curves[0], torch.stack(curves[1:], 1)


def fit_schedule(name: str, way: str, number: int) -> None:
    """Fit and keep the tables of a schedule, a way and a stage that are not yet kept."""
    settings = SETTINGS["ways"][way]
    log_snr = FAMILIES[name](1000).log_snr
    ends = float(log_snr[-1]) / 2, float(log_snr[0]) / 2
    stage = settings["stages"][number]
    problems = joined(*(fitted_on(seed, stage["starts"], stage["crowded"]) for seed in settings["seeds"]))
    if settings["rough"]:
        problems = roughened(problems, 77, settings["rough"])
    fine = torch.linspace(ends[0], 7.5, 600, dtype=torch.float64)
    truth = run(fine, of_order(fine, 4), problems.start, problems.denoise)
    before, done = kept(name, way, number - 1), kept(name, way, number)
    first = settings["first"]
    order = [n for n in range(5, 51) if n not in first] if number == 2 else first
    for n in (n for n in order if n not in done):
        began = time.monotonic()
        beside = settings.get("beside")
        starts = [moved(name, n, **beside)] if beside else starts_of(first, ends, n, before, done)
        scale = 1.0 if n <= 20 else SETTINGS["share_of_steps_beyond_20"]
        with torch.no_grad():
            hand = usual(problems, truth, ends, n)
        tables = [Table(ends, settings["estimates"], *start) for start in starts]
        weights = settings["regularisation"], settings["noise"], settings["gaussian_weight"]
        fits = [Fit(problems, truth, goal(name, n), table, stage, *weights, hand) for table in tables]
        losses = [fit.descend(int(scale * stage["choose"])) if len(fits) > 1 else 0.0 for fit in fits]
        best = fits[losses.index(min(losses))]
        loss = best.descend(int(scale * stage["steps"]))
        done[n] = best.table()[0].detach(), (best.table.added * best.table.free).detach()
        FOLDER.mkdir(parents=True, exist_ok=True)
        torch.save(done, FOLDER / f"{name}-{way}-{number}.pt")
        print(f"{name} {way} {n}: loss {loss:.4f}, {time.monotonic() - began:.0f} s", flush=True)


def moved(name: str, n: int, way: str, trailing: float) -> Start:
    """The table of another way, moved towards one without additions whose spacing is ``trailing``."""
    level, added = last(name, way)[n]
    schedule = FAMILIES[name](1000)
    even = [each.half_log_snr for each in levels_at(schedule, spacing.trailing(schedule, n))]
    return mean_of((level, added), (level.new_tensor(even), torch.zeros_like(added)), trailing)


def between(done: Fits, first: Sequence[int], n: int) -> Start:
    """The tables of the next smaller and the next larger n in ``first``, stretched to n and averaged."""
    low, high = max(k for k in first if k < n), min(k for k in first if k > n)
    share = math.log(n / low) / math.log(high / low)
    return mean_of(stretched(done[low], n), stretched(done[high], n), share)


def mean_of(one: Start, other: Start, share: float) -> Start:
    """Return the mean of two tables, the other counting for ``share``."""
    return (1 - share) * one[0] + share * other[0], (1 - share) * one[1] + share * other[1]


def kept(name: str, way: str, number: int) -> Fits:
    """What was fitted in a stage so far."""
    file = FOLDER / f"{name}-{way}-{number}.pt"
    return torch.load(file) if file.exists() else {}


def last(name: str, way: str) -> Fits:
    """What was fitted in the stages of a way: of each n the last."""
    return {n: fit for number in range(3) for n, fit in kept(name, way, number).items()}


def starts_of(first: Sequence[int], ends: Ends, n: int, before: Fits, done: Fits) -> list[Any]:
    """Where the descent may start: the stage before, or hand-made spacings and the nearest tables so far."""
    if n in before:
        return [before[n]]
    if before:
        smaller = (before | done).get(n - 1)
        return [between(before, first, n), *([stretched(smaller, n)] if smaller else [])]
    nearest = sorted(done, key=lambda known: abs(math.log(known / n)))[:2]
    spacings = SETTINGS["spacings"][: 1 if nearest else None]
    return [(spaced(ends, n, *spacing),) for spacing in spacings] + [stretched(done[k], n) for k in nearest]


def numbers(schedule: NoiseSchedule, estimates: int, fit: Start) -> dict[str, Any]:
    """A fitted table as it is written: t, and the w of the earlier estimates of each row."""
    level, added = fit
    t = [float(f"{t:.6g}") for t in t_of_log_snr(schedule, 2 * level).tolist()]
    unit = torch.cat([-torch.expm1(-level.diff()), level.new_ones(1)])
    w = of_order(level, estimates) + added * unit[:, None]
    return {
        "t": [len(schedule) - 1, *t[1:]],
        "w": [[round(v, 5) for v in row[: min(i, estimates - 1)]] for i, row in enumerate(w.tolist())],
    }


def write() -> None:
    """Write what is kept into the package."""
    tables: dict[str, dict[int, Any]] = {}
    for way, settings in SETTINGS["ways"].items():
        for name in settings["schedules"]:
            done = last(name, way)
            if "beside" in settings:
                other = last(name, settings["beside"]["way"])
                done = {n: mean_of(other[n], fit, settings["share"]) for n, fit in done.items()}
            made = {n: numbers(FAMILIES[name](1000), settings["estimates"], done[n]) for n in done}
            if made:
                tables.setdefault(name, {}).update(made)
    head = {"about": "Tables of alphabar.samplers.Fitted; written by research/fit.py.", "settings": SETTINGS}
    lines = []
    for name, each in tables.items():
        rows = [f'"{n}": {json.dumps(each[n], separators=(",", ":"))}' for n in sorted(each)]
        lines.append(f'"{name}": {{\n' + ",\n".join(rows) + "\n}")
    text = json.dumps(head, indent=1)[:-2] + ',\n "tables": {\n' + ",\n".join(lines) + "\n}\n}\n"
    PACKAGED.write_text(text, encoding="utf-8")
    print(f"{PACKAGED}: {len(text) / 1000:.0f} kB", flush=True)


def main() -> None:
    """Fit the schedules named on the command line, by default all, and write the tables."""
    torch.set_num_threads(1)
    if "--write" not in sys.argv:
        for way, settings in SETTINGS["ways"].items():
            for name in (n for n in settings["schedules"] if n in sys.argv[1:] or not sys.argv[1:]):
                for number in range(len(settings["stages"])):
                    fit_schedule(name, way, number)
    write()


if __name__ == "__main__":
    main()

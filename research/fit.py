"""Fits the tables of ``alphabar.samplers.Fitted`` and writes src/alphabar/samplers/fitted.json.

    python research/fit.py                          all schedules, all of 5 … 50 (forty minutes, one thread)
    python research/fit.py linear cosine            these
    python research/fit.py --write                  only write the JSON from what was fitted so far

    x_s = σ_s/σ_t x_t + √ᾱ_s [(1 − e^{−h}) x̂_0 + Σ_k w_k (x̂_0⁽ᵏ⁾ − x̂_0)]

Free numbers: where the sampler stops in λ, half the log-SNR, and what each row adds to the w of order 3,
in units of 1 − e^{−h}. The loss:

    (1 − r − p) log(mean distance) + r log(rms distance), averaged over the mixtures
    + p log(rms distance over all mixtures)                       all three in those of a hand-made table
    + ½ log(Gaussian error + .3 · goal)
    + .01 (‖additions‖² + .1 ‖second differences of log h‖²)

Distances are to a 600-step run from the same start. Each has the variance added that independent errors of
the estimates, of standard deviation .02 (6/n)^1.5 around λ = −1, would cause: networks are not smooth in λ.
Descent: L-BFGS in float64, in stages (``SETTINGS``): from the best of a few starts (a hand-made spacing
and the two tables fitted before whose n is nearest) on the median, and from there on the rms, with crowded
mixtures. The n that are not in ``ORDER`` have a third stage, on fewer starts: from the better of the table of
n − 1, stretched, and of their neighbours in ``ORDER``, stretched and averaged. What was fitted is kept in
build/fits/: a run resumes.
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
from problems import WIDTHS, Problems, fitted_on, gaussian
from torch import Tensor, nn

from alphabar.levels import t_of_log_snr
from alphabar.schedule import FAMILIES, NoiseSchedule

SETTINGS: dict[str, Any] = {
    "seed": 1,
    "regularisation": 0.01,
    "noise": 0.02,
    "gaussian_weight": 0.5,
    "share_of_steps_beyond_20": 0.4,
    "stages": [
        {"crowded": 0, "starts": 10, "rms": 0.4, "pooled": 0.0, "choose": 70, "steps": 400},
        {"crowded": 18, "starts": 30, "rms": 0.2, "pooled": 0.7, "choose": 0, "steps": 300},
        {"crowded": 18, "starts": 5, "rms": 0.2, "pooled": 0.7, "choose": 5, "steps": 100},
    ],
}
SCHEDULES = ("linear", "cosine", "scaled_linear", "sigmoid")
ORDER = (10, 8, 7, 6, 5, 9, 12, 15, 20, 25, 30, 40, 50)
LINEAR_GOALS = {5: 0.0069, 6: 0.0069, 10: 0.0108, 20: 0.0037, 50: 0.001}
GOALS = {
    "linear": LINEAR_GOALS,
    "sigmoid": LINEAR_GOALS,
    "scaled_linear": {5: 0.008, 10: 0.008, 20: 0.0013, 50: 0.00055},
    "cosine": {5: 0.0143, 6: 0.0143, 10: 0.0078, 20: 0.0018, 50: 0.0027},
}
"""Gaussian errors at which the weight of that error fades; between them interpolated in the logarithm."""
FOLDER = Path(__file__).parents[1] / "build/fits"
PACKAGED = Path(__file__).parents[1] / "src/alphabar/samplers/fitted.json"
Start = tuple[Tensor, Tensor]


def goal(name: str, n: int) -> float:
    """The Gaussian error to aim at."""
    known = GOALS[name]
    return float(np.exp(np.interp(n, list(known), [math.log(value) for value in known.values()])))


def third_order(level: Tensor) -> Tensor:
    """The w of the estimates before, (n, 3): exact for polynomials in λ of degree 2; none in the last row."""
    h = level.diff()
    phi_1 = torch.expm1(-h) / -h
    phi_2 = (phi_1 - 1) / -h
    first, second = h * phi_2, 2 * h * (phi_2 - 0.5) / -h
    rows = [torch.zeros(3, dtype=torch.float64)]
    for i in range(1, len(h)):
        u = (level[i - 1] - level[i]) / h[i]
        if i == 1:
            rows.append(torch.stack([first[i] / u, u * 0, u * 0]))
            continue
        v = (level[i - 2] - level[i]) / h[i]
        w = (first[i] * v - second[i]) / (u * (v - u)), (second[i] - first[i] * u) / (v * (v - u))
        rows.append(torch.stack([*w, u * 0]))
    return torch.stack([*rows, torch.zeros(3, dtype=torch.float64)])


def forms(level: Tensor, w: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each row: its coefficient of x_t and those of the estimates, newest first."""
    signal, noise = torch.sigmoid(2 * level).sqrt(), torch.sigmoid(-2 * level).sqrt()
    rows = []
    for i in range(len(level)):
        last, k = i == len(level) - 1, min(i, 3)
        total = level.new_ones(()) if last else -torch.expm1(level[i] - level[i + 1])
        newest = (total - w[i, :k].sum())[None]
        of_x_t = level.new_zeros(()) if last else noise[i + 1] / noise[i]
        rows.append((of_x_t, torch.cat([newest, w[i, :k]]) * (1 if last else signal[i + 1])))
    return rows


def run(level: Tensor, w: Tensor, x: Tensor, denoise: Any) -> Tensor:
    """Return the end points."""
    history: list[Tensor] = []
    for here, (of_x_t, b) in zip(level, forms(level, w), strict=True):
        history = [denoise(x, here), *history][:4]
        x = of_x_t * x + sum(c * x_0 for c, x_0 in zip(b, history, strict=False))
    return x


def influence(level: Tensor, w: Tensor) -> Tensor:
    """How much of each estimate is in the end point, (n,), while estimates do not respond to each other."""
    n = len(level)
    x = level.new_zeros(n)
    for i, (of_x_t, b) in enumerate(forms(level, w)):
        x = of_x_t * x + torch.cat([x.new_zeros(i + 1 - len(b)), b.flip(0), x.new_zeros(n - 1 - i)])
    return x


class Table(nn.Module):
    """A table with its free numbers."""

    def __init__(self, ends: tuple[float, float], level: Tensor, added: Tensor | None = None) -> None:
        super().__init__()
        n, self.ends = len(level), ends
        h = level.diff()
        reach = ((level[-1] - level[0]) / (ends[1] - ends[0])).clamp(max=0.997)
        self.log_h = nn.Parameter((h / h.mean()).log())
        self.reach = nn.Parameter((reach / (1 - reach)).log())
        self.added = nn.Parameter(torch.zeros(n, 3, dtype=torch.float64) if added is None else added)
        self.free = torch.tensor([[k < min(i, 2) for k in range(3)] for i in range(n)], dtype=torch.float64)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return λ, (n,), and w, (n, 3)."""
        h = self.log_h.softmax(0) * self.reach.sigmoid() * (self.ends[1] - self.ends[0])
        first = h.new_tensor([self.ends[0]])
        level = torch.cat([first, first + h.cumsum(0)])
        unit = torch.cat([-torch.expm1(-h), h.new_ones(1)])
        return level, third_order(level) + self.added * self.free * unit[:, None]


@dataclass
class Fit:
    """One table on its problems."""

    problems: Problems
    truth: Tensor
    goal: float
    table: Table
    stage: dict[str, Any]
    usual: tuple[Tensor, Tensor]  # mean-like and root mean square distance of the hand-made table, (M,)

    def squares(self, level: Tensor, w: Tensor) -> Tensor:
        """Squared distances to the truth per dimension, (M, B)."""
        return squares(self.problems, self.truth, level, w)

    def loss(self) -> Tensor:
        """The loss of the module's docstring."""
        level, w = self.table()
        error = run(level, w, torch.ones_like(WIDTHS), gaussian) / WIDTHS - 1
        near_minus_1 = torch.exp(-(((level + 1) / 3) ** 2))
        noise = SETTINGS["noise"] * (6 / len(level)) ** 1.5
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
        return on_mixtures + SETTINGS["gaussian_weight"] * on_widths + SETTINGS["regularisation"] * size

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

        limits = {"log_h": (-4, 4), "reach": (-4, 7), "added": (-4, 4)}
        bounds = [limits[name] for name, p in self.table.named_parameters() for _ in range(p.numel())]
        options = {"maxiter": steps, "maxfun": int(steps * 1.4), "maxcor": 50, "maxls": 30}
        first = torch.cat([parameter.detach().flatten() for parameter in free]).numpy().copy()
        found = scipy.optimize.minimize(
            value,
            first,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={**options, "ftol": 1e-12, "gtol": 1e-9},
        )
        put(found.x)
        return float(found.fun)


def squares(problems: Problems, truth: Tensor, level: Tensor, w: Tensor) -> Tensor:
    """Squared distances to the truth per dimension, (M, B)."""
    ends = run(level, w, problems.start, problems.denoise)
    return (ends - truth).square().sum(-1) / problems.dimensions[:, None]


def usual(problems: Problems, truth: Tensor, ends: tuple[float, float], n: int) -> tuple[Tensor, Tensor]:
    """Median and root mean square distance of the hand-made table, per mixture the better of two spacings."""
    even = torch.linspace(*ends, n, dtype=torch.float64)
    noise = torch.linspace(math.exp(-ends[0] / 7), math.exp(-ends[1] / 7), n, dtype=torch.float64)
    made = [squares(problems, truth, level, third_order(level)) for level in (even, -7 * noise.log())]
    medians, means = (
        [f(away).sqrt() for away in made] for f in (lambda d: d.median(1)[0], lambda d: d.mean(1))
    )
    return torch.minimum(*medians), torch.minimum(*means)


def spaced(ends: tuple[float, float], n: int, width: float, floor: float) -> Tensor:
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


def fit_schedule(name: str, number: int, order: Sequence[int]) -> None:
    """Fit and keep the tables of a schedule and a stage that are not yet kept."""
    log_snr = FAMILIES[name](1000).log_snr
    ends = float(log_snr[-1]) / 2, float(log_snr[0]) / 2
    stage = SETTINGS["stages"][number]
    problems = fitted_on(SETTINGS["seed"], stage["starts"], stage["crowded"])
    fine = torch.linspace(ends[0], 7.5, 600, dtype=torch.float64)
    truth = run(fine, third_order(fine), problems.start, problems.denoise)
    before, done = kept(name, number - 1), kept(name, number)
    for n in (n for n in order if n not in done):
        began = time.monotonic()
        starts = starts_of(ends, n, before, done)
        scale = 1.0 if n <= 20 else SETTINGS["share_of_steps_beyond_20"]
        with torch.no_grad():
            hand = usual(problems, truth, ends, n)
        fits = [Fit(problems, truth, goal(name, n), Table(ends, *start), stage, hand) for start in starts]
        losses = [fit.descend(int(scale * stage["choose"])) if len(fits) > 1 else 0.0 for fit in fits]
        best = fits[losses.index(min(losses))]
        loss = best.descend(int(scale * stage["steps"]))
        done[n] = best.table()[0].detach(), (best.table.added * best.table.free).detach()
        FOLDER.mkdir(parents=True, exist_ok=True)
        torch.save(done, FOLDER / f"{name}-{number}.pt")
        print(f"{name} {n}: loss {loss:.4f}, {time.monotonic() - began:.0f} s", flush=True)


def between(done: dict[int, Start], n: int) -> Start:
    """The tables of the next smaller and the next larger n in ``ORDER``, stretched to n and averaged."""
    low, high = max(k for k in ORDER if k < n), min(k for k in ORDER if k > n)
    share = math.log(n / low) / math.log(high / low)
    a, b = stretched(done[low], n), stretched(done[high], n)
    return (1 - share) * a[0] + share * b[0], (1 - share) * a[1] + share * b[1]


def kept(name: str, number: int) -> dict[int, Start]:
    """What was fitted in a stage so far."""
    file = FOLDER / f"{name}-{number}.pt"
    return torch.load(file) if file.exists() else {}


def starts_of(
    ends: tuple[float, float], n: int, before: dict[int, Start], done: dict[int, Start]
) -> list[Any]:
    """Where the descent may start: the stage before, or hand-made spacings and the nearest tables so far."""
    if n in before:
        return [before[n]]
    if before:
        smaller = (before | done).get(n - 1)
        return [between(before, n), *([stretched(smaller, n)] if smaller else [])]
    even = (spaced(ends, n, 4.5, 0.03),)
    nearest = sorted(done, key=lambda known: abs(math.log(known / n)))[:2]
    near = [stretched(done[known], n) for known in nearest]
    return [even, *(near or [(spaced(ends, n, 3.5, 0.1),)])]


def numbers(schedule: NoiseSchedule, fit: Start) -> dict[str, Any]:
    """A fitted table as it is written: t, and the w of the earlier estimates of each row."""
    level, added = fit
    t = [float(f"{t:.6g}") for t in t_of_log_snr(schedule, 2 * level).tolist()]
    unit = torch.cat([-torch.expm1(-level.diff()), level.new_ones(1)])
    w = third_order(level) + added * unit[:, None]
    return {
        "t": [len(schedule) - 1, *t[1:]],
        "w": [[round(v, 5) for v in row[: min(i, 2)]] for i, row in enumerate(w.tolist())],
    }


def write() -> None:
    """Write what is kept into the package."""
    tables = {}
    for name in SCHEDULES:
        done = kept(name, 0) | kept(name, 1) | kept(name, 2)
        if done:
            tables[name] = {str(n): numbers(FAMILIES[name](1000), done[n]) for n in sorted(done)}
    head = {"about": "Tables of alphabar.samplers.Fitted; written by research/fit.py.", "settings": SETTINGS}
    lines = [
        f'"{name}": {{\n'
        + ",\n".join(f'"{n}": {json.dumps(table, separators=(",", ":"))}' for n, table in each.items())
        + "\n}"
        for name, each in tables.items()
    ]
    text = json.dumps(head, indent=1)[:-2] + ',\n "tables": {\n' + ",\n".join(lines) + "\n}\n}\n"
    PACKAGED.write_text(text, encoding="utf-8")
    print(f"{PACKAGED}: {len(text) / 1000:.0f} kB", flush=True)


def main() -> None:
    """Fit the schedules named on the command line, by default all, and write the tables."""
    torch.set_num_threads(1)
    if "--write" not in sys.argv:
        for name in sys.argv[1:] or SCHEDULES:
            fit_schedule(name, 0, ORDER)
            fit_schedule(name, 1, ORDER)
            write()
        for name in sys.argv[1:] or SCHEDULES:
            fit_schedule(name, 2, [n for n in range(5, 51) if n not in ORDER])
            write()
    write()


if __name__ == "__main__":
    main()

"""Every scheduler against its namesake in diffusers: whole runs over a grid of configurations.

The peer is given float64 tables, float64 arithmetic and, where it has them, float64 σ: then what differs is
not rounding. Each run must give the same sample to 1e-4 of its scale, or be in DEVIATIONS; and each entry
there must occur. Ours is always finite, or an error by name.
"""

import importlib
import inspect
from collections import Counter

import pytest
import torch
from parity import DEVIATIONS, GRIDS, cases
from peers import Wide

import alphabar.diffusers as ours
from alphabar.errors import AlphabarError

SHAPE = (2, 2, 2, 3)
TOLERANCE = 1e-4


def network(scheduler, case):
    """A smooth nonlinear network, at any t: v̂ in [−2, 2] keeps x̂_0 and ε̂ as bounded as x."""
    a, s = scheduler.schedule.signal_scale.tolist(), scheduler.schedule.noise_scale.tolist()
    learns = case.get("variance_type") in ("learned", "learned_range")

    def between(table, t):
        low = min(int(t), len(table) - 1)
        return table[low] + (t - low) * (table[min(low + 1, len(table) - 1)] - table[low])

    def answer(x, t):
        t = min(max(float(t), 0.0), len(a) - 1.0)
        signal, noise = between(a, t), between(s, t)
        v = 2 * torch.tanh(0.7 * x + 0.4 * x.roll(1, -1) - 0.6 * x.roll(1, 1) + t / 500 - 1)
        forms = {
            "epsilon": (noise, signal),
            "sample": (signal, -noise),
            "v_prediction": (0, 1),
            "flow_prediction": (0, 1),
        }
        of_x, of_v = forms[case.get("prediction_type")]
        output = of_x * x + of_v * v
        return torch.cat([output, torch.cos(2 * x + t / 100)], 1) if learns else output

    return answer


def run(scheduler, ask, steps):
    generator, options = torch.Generator().manual_seed(0), {}
    takes = inspect.signature(scheduler.step).parameters
    x = torch.randn(SHAPE, generator=generator, dtype=torch.float64) * float(scheduler.init_noise_sigma)
    for t in scheduler.timesteps:
        if "variance_noise" in takes and "algorithm_type" in scheduler.config:
            options["variance_noise"] = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
        elif "generator" in takes:
            options["generator"] = generator
        output = ask(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, **options).prev_sample
    return x


def theirs(case, mine, ask):
    """The peer's sample, or None where it has none."""
    module = importlib.import_module(case.peer.__module__)
    scheduler = case.peer(**case.config)
    scheduler.alphas_cumprod = mine.alphas_cumprod.double()
    for end in ("final_alpha_cumprod", "initial_alpha_cumprod"):
        if hasattr(scheduler, end) and not case.get("set_alpha_to_one"):
            setattr(scheduler, end, scheduler.alphas_cumprod[0])
    with pytest.MonkeyPatch.context() as patch:
        try:
            scheduler.set_timesteps(case.steps)
            if hasattr(scheduler, "sigmas") and len(scheduler.sigmas) == len(mine._run.evaluations):
                flow = case.get("use_flow_sigmas")
                levels = mine._run.evaluations
                exact = [x.sigma / (x.sigma + x.signal) if flow else x.sigma_ve for x in levels]
                exact = torch.tensor(exact, dtype=torch.float64)
                if not torch.allclose(scheduler.sigmas.double(), exact, rtol=1e-5, atol=0):
                    return None
                scheduler.sigmas = exact
            patch.setattr(module, "torch", Wide())
            return run(scheduler, ask, case.steps)
        except (
            ArithmeticError,
            IndexError,
            NotImplementedError,
            ValueError,
            RuntimeError,
            TypeError,
            AssertionError,
        ):
            return None


def agrees(case):
    mine = getattr(ours, f"{case.name}Scheduler")(**case.config)
    ask = network(mine, case)
    try:
        mine.set_timesteps(case.steps)
        x = run(mine, ask, case.steps)
    except AlphabarError:
        return False
    assert x.isfinite().all(), case
    peers = theirs(case, mine, ask)
    if peers is None or not peers.isfinite().all():
        return False
    return bool((x - peers).abs().max() <= TOLERANCE * max(1.0, float(peers.abs().max())))


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.filterwarnings("ignore")
def test_same_samples_or_a_listed_deviation(name):
    unlisted, occurred, listed = [], Counter(), Counter()
    for case in cases(name):
        same, where = agrees(case), [deviation.what for deviation in DEVIATIONS if deviation.where(case)]
        listed.update(where)
        if not same:
            occurred.update(where)
            unlisted += [] if where else [case]
    assert not unlisted, f"{len(unlisted)} of {len(cases(name))}: {unlisted[:10]}"
    assert not listed.keys() - occurred.keys(), "no longer so"


def test_each_deviation_is_met():
    met = {
        deviation.what
        for name in GRIDS
        for case in cases(name)
        for deviation in DEVIATIONS
        if deviation.where(case)
    }
    assert met == {deviation.what for deviation in DEVIATIONS}

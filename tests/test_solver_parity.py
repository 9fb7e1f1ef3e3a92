"""Whole runs of every solver against its counterpart in diffusers 0.42.1, with a nonlinear network.

The peer is given float64 tables and float64 arithmetic (``peers.py``): then both libraries compute the same
numbers, and what differs is rounding, 1e-9 and less. Its own float32 tables are off by up to 6e-4 in 1 − ᾱ at
small t; a few runs with them, at the end, agree to that.

Where the peer does something else, it is listed in DEVIATIONS and shown by a test where it can be.
"""

import pytest
import torch
from cases import normals
from peers import exact_peer, peer, run, widened

import alphabar
from alphabar import DDIM, DDPM, Denoiser, NoiseSchedule, Plan
from alphabar.samplers.adams import DEIS, LMS, PNDM
from alphabar.samplers.dpm import DPMSolver
from alphabar.samplers.euler import Euler, EulerAncestral, Heun
from alphabar.samplers.unipc import UniPC

DEVIATIONS = {
    "the t that the network is asked at": (
        "with Karras spacing the peer's DPM-Solver, UniPC and DEIS round t for the network and not "
        "their σ; ours asks at the fractional t. Here the network rounds t for both."
    ),
    "linspace": (
        "the peer's DPM-Solver, UniPC and DEIS take n + 1 points and drop t = 0; its Euler, LMS and "
        "Heun do not round t and interpolate σ linearly. Ours rounds n points. Here t is given as a "
        "list, or whole."
    ),
    "start of Euler, Heun, LMS": (
        "the peer starts from σ_max · z for linspace and trailing; a state of variance 1 is √(1 + "
        "σ_max²) · z, as ours and as the peer's own for leading."
    ),
    "DDPM, fixed_large_log": (
        "the peer takes the square root of a negative logarithm: NaN. Ours is fixed_large."
    ),
    "DDPM, fixed_large, the end": (
        "the peer adds noise to clean data unless the last t is 0; ours adds none."
    ),
    "DDIM, its inverse, PNDM on uneven grids": (
        "the peer steps by ⌊T/n⌋ whatever the spacing; ours lands on the next t."
    ),
    "DDIM inverse, v and x_0": (
        "the peer reads the output at the level it climbs from, where x_0-prediction is 0/0 at first;"
        " ours at the level the network was asked at. For ε both are the same."
    ),
    "DPM-Solver multistep, order 3": (
        "the peer halves the second derivative, so it converges with order 2: rule='midpoint' has its"
        " numbers, rule='exact' has order 3."
    ),
    "DPM-Solver multistep, order 3, 15 steps and more": (
        "the peer then lowers only the last step: that is lower_order_final=False."
    ),
    "DPM-Solver single-step, order 3, midpoint": (
        "the peer takes ½μ_0 for the slope of the second of three evaluations too, where the authors' code"
        " integrates it exactly, as ours does."
    ),
    "DPM-Solver SDE, order 3": (
        "the peer's third coefficient, (1 − e^{−2h} − 2h)/4h² − ½, has a sign wrong and does not "
        "vanish with h: not followed."
    ),
    "DPM-Solver single-step SDE": ("not offered: the noise of earlier rows would have to be remembered."),
    "DEIS, the end": (
        "the peer stops at t = 0, or repeats it with Karras spacing; ours goes on to clean data. Here"
        " the last row is left out. Below 15 steps the peer's order falls one step earlier."
    ),
    "UniPC bh1, the end": "the peer computes ∞ · 0 on the step to clean data: NaN; ours is x̂_0.",
    "PNDM, the end": "the peer ends at ᾱ_0 unless set_alpha_to_one; ours ends at 1.",
    "zero terminal SNR": ("the peer writes 2⁻²⁴ for ᾱ at T−1, or does not offer it; ours takes 0 as it is."),
}
"""What the peer does otherwise, and why ours differs."""

LINEAR = NoiseSchedule.linear()
SHAPE = (2, 1, 3, 3)
START = normals(*SHAPE, seed=5)


def network(x_t, t):
    """ε̂ of a smooth nonlinear guess at x_0, which the state and t both change."""
    t = torch.as_tensor(t).round().long().flatten()[0]
    x_0 = 0.8 * torch.tanh(x_t + 0.5 * torch.sin(3 * x_t.roll(1, -1)) + t / 700)
    return (x_t - LINEAR.signal_scale[t] * x_0) / LINEAR.noise_scale[t]


def ours(sampler, seed=None):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    denoiser = Denoiser(network, LINEAR)
    return alphabar.sample(
        denoiser, SHAPE, sampler, x_t=START, dtype=torch.float64, generator=generator, progress=False
    )


def theirs(scheduler, seed=None):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    probe = scheduler.scale_model_input(torch.ones(1, dtype=torch.float64), scheduler.timesteps[0])
    return run(scheduler, network, START / probe, generator)


def whole(scheduler):
    return [int(t) for t in scheduler.timesteps]


def agree(monkeypatch, name, steps, sampler, *, seed=None, **config):
    """``sampler`` is a sampler, or makes one of the peer's list of t."""
    scheduler = widened(monkeypatch, exact_peer(name, LINEAR, steps, **config))
    made = sampler(whole(scheduler)) if callable(sampler) else sampler
    torch.testing.assert_close(ours(made, seed), theirs(scheduler, seed), rtol=0, atol=1e-9)


EVEN = ("leading", "trailing")  # evenly spaced where the number of steps divides T
SPACINGS = (*EVEN, "linspace")


@pytest.mark.parametrize("spacing", EVEN)
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim(spacing, eta):
    scheduler = exact_peer("DDIMScheduler", LINEAR, 10, clip_sample=False, timestep_spacing=spacing)
    x, generator = START, torch.Generator().manual_seed(3)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x, eta=eta, generator=generator).prev_sample
    torch.testing.assert_close(ours(DDIM(10, eta, spacing), seed=3), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("variance", "spacing"),
    [
        ("fixed_small", "leading"),
        ("fixed_small", "trailing"),
        ("fixed_small_log", "trailing"),
        ("fixed_large", "leading"),
    ],
)
def test_ddpm(monkeypatch, variance, spacing):
    options = {"clip_sample": False, "variance_type": variance, "timestep_spacing": spacing}
    agree(monkeypatch, "DDPMScheduler", 20, DDPM(20, variance, spacing), seed=3, **options)


def test_where_the_peer_is_nan_the_log_of_the_large_variance_is_the_large_variance():
    options = {"clip_sample": False, "variance_type": "fixed_large_log", "timestep_spacing": "trailing"}
    assert theirs(peer("DDPMScheduler", LINEAR, 20, **options), seed=3).isnan().any()
    log = ours(DDPM(20, "fixed_large_log"), seed=3)
    torch.testing.assert_close(log, ours(DDPM(20, "fixed_large"), seed=3), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spacing", EVEN)
def test_ddim_inverse(monkeypatch, spacing):
    options = {"clip_sample": False, "timestep_spacing": spacing}
    agree(monkeypatch, "DDIMInverseScheduler", 20, DDIM(20, inverse=True, spacing=spacing), **options)


@pytest.mark.parametrize("steps", [9, 20])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    "config", [*({"timestep_spacing": s} for s in SPACINGS), {"use_karras_sigmas": True}]
)
def test_dpm_solver_multistep(monkeypatch, order, config, steps):
    def sampler(ts):
        spacing = "karras" if "use_karras_sigmas" in config else ts
        return DPMSolver(steps, order, lower_order_final=steps < 15, spacing=spacing)

    agree(monkeypatch, "DPMSolverMultistepScheduler", steps, sampler, solver_order=order, **config)


def test_dpm_solver_multistep_with_the_slope_integrated_exactly(monkeypatch):
    agree(
        monkeypatch,
        "DPMSolverMultistepScheduler",
        12,
        lambda ts: DPMSolver(rule="exact", spacing=ts),
        solver_type="heun",
    )


@pytest.mark.parametrize("rule", ["midpoint", "exact"])
@pytest.mark.parametrize("order", [1, 2])
def test_dpm_solver_sde(monkeypatch, order, rule):
    agree(
        monkeypatch,
        "DPMSolverMultistepScheduler",
        12,
        lambda ts: DPMSolver(order=order, sde=True, rule=rule, spacing=ts),
        seed=7,
        solver_order=order,
        algorithm_type="sde-dpmsolver++",
        solver_type={"midpoint": "midpoint", "exact": "heun"}[rule],
    )


@pytest.mark.parametrize("steps", [8, 9, 10])
@pytest.mark.parametrize(
    ("order", "rule"), [(1, "midpoint"), (2, "midpoint"), (1, "exact"), (2, "exact"), (3, "exact")]
)
def test_dpm_solver_single_step(monkeypatch, order, rule, steps):
    agree(
        monkeypatch,
        "DPMSolverSinglestepScheduler",
        steps,
        lambda ts: DPMSolver(order=order, multistep=False, rule=rule, spacing=ts),
        solver_order=order,
        solver_type={"midpoint": "midpoint", "exact": "heun"}[rule],
    )


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("config", [{}, {"timestep_spacing": "trailing"}, {"use_karras_sigmas": True}])
def test_unipc(monkeypatch, order, config):
    def sampler(ts):
        return UniPC(9, order, spacing="karras" if "use_karras_sigmas" in config else ts)

    agree(monkeypatch, "UniPCMultistepScheduler", 9, sampler, solver_order=order, **config)


@pytest.mark.parametrize("scale", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_down_to_the_first_t(monkeypatch, order, scale):
    def sampler(ts):
        unipc = UniPC(None, order, scale, lower_order_final=False, spacing=[*ts, 0])
        return Plan(unipc.plan(LINEAR).rows[:-1])

    config = {"solver_order": order, "solver_type": scale, "lower_order_final": False}
    agree(monkeypatch, "UniPCMultistepScheduler", 9, sampler, final_sigmas_type="sigma_min", **config)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("config", [{}, {"timestep_spacing": "trailing"}, {"use_karras_sigmas": True}])
def test_deis_down_to_the_first_t(monkeypatch, order, config):
    def sampler(ts):
        karras = "use_karras_sigmas" in config
        deis = DEIS(20 if karras else None, order, False, "karras" if karras else [*ts, 0])
        return Plan(deis.plan(LINEAR).rows[:-1])

    agree(monkeypatch, "DEISMultistepScheduler", 20, sampler, solver_order=order, **config)


CURVES = [({"timestep_spacing": s}, s) for s in SPACINGS] + [({"use_karras_sigmas": True}, "karras")]


@pytest.mark.parametrize(("config", "spacing"), CURVES)
def test_euler(monkeypatch, config, spacing):
    agree(monkeypatch, "EulerDiscreteScheduler", 10, Euler(10, spacing), **config)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_euler_ancestral(monkeypatch, spacing):
    options = {"seed": 3, "timestep_spacing": spacing}
    agree(monkeypatch, "EulerAncestralDiscreteScheduler", 10, EulerAncestral(10, spacing), **options)


@pytest.mark.parametrize(("config", "spacing"), CURVES)
def test_heun(monkeypatch, config, spacing):
    agree(monkeypatch, "HeunDiscreteScheduler", 10, Heun(10, spacing), **config)


@pytest.mark.parametrize(("config", "spacing"), CURVES)
def test_lms(monkeypatch, config, spacing):
    agree(monkeypatch, "LMSDiscreteScheduler", 10, LMS(10, spacing=spacing), **config)


@pytest.mark.parametrize("steps", [4, 10, 50])
@pytest.mark.parametrize("runge_kutta", [False, True])
@pytest.mark.parametrize("spacing", EVEN)
def test_pndm(monkeypatch, steps, runge_kutta, spacing):
    options = {"skip_prk_steps": not runge_kutta, "set_alpha_to_one": True, "timestep_spacing": spacing}
    agree(monkeypatch, "PNDMScheduler", steps, PNDM(steps, runge_kutta, spacing), **options)


NATIVE = {
    "DPMSolverMultistepScheduler": (lambda ts: DPMSolver(spacing=ts), {}),
    "UniPCMultistepScheduler": (lambda ts: UniPC(spacing=ts), {}),
    "EulerDiscreteScheduler": (lambda ts: Euler(spacing=ts), {}),
    "HeunDiscreteScheduler": (lambda ts: Heun(spacing=sorted(set(ts), reverse=True)), {}),
    "LMSDiscreteScheduler": (lambda ts: LMS(spacing=ts), {}),
    "DDIMScheduler": (lambda ts: DDIM(spacing=ts), {"clip_sample": False}),
    "PNDMScheduler": (lambda ts: PNDM(spacing=sorted(set(ts), reverse=True)), {"skip_prk_steps": True}),
}


@pytest.mark.parametrize("name", NATIVE)
def test_the_peer_as_it_is_agrees_to_the_rounding_of_its_float32_tables(name):
    sampler, config = NATIVE[name]
    scheduler = peer(name, LINEAR, 10, timestep_spacing="trailing", **config)
    if name == "PNDMScheduler":
        scheduler.final_alpha_cumprod = torch.ones(())
    torch.testing.assert_close(ours(sampler(whole(scheduler))), theirs(scheduler).double(), rtol=0, atol=1e-3)

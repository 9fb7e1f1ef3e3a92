"""The other library's samplers, run on our schedules: what parity and ranking are measured against."""

import importlib
import inspect

import diffusers
import numpy as np
import torch

from alphabar.schedule.levels import log_alpha_bar_between

diffusers.utils.logging.set_verbosity_error()


def peer(name, schedule, steps, **config):
    """A scheduler of diffusers on one of our schedules, with its timesteps set and its float32 tables."""
    kind = getattr(diffusers, name)
    known = inspect.signature(kind).parameters
    scheduler = kind(**{key: value for key, value in schedule.to_config().items() if key in known}, **config)
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # otherwise it begins at the second of two equal t: Karras on cosine
    return scheduler


def exact_peer(name, schedule, steps, **config):
    """The same with float64 tables: ᾱ, and the σ it makes of them before it rounds them to float32."""
    scheduler = peer(name, schedule, steps, **config)
    scheduler.betas, scheduler.alphas, scheduler.alphas_cumprod = (
        schedule.beta,
        schedule.alpha,
        schedule.alpha_bar,
    )
    for end in ("final_alpha_cumprod", "initial_alpha_cumprod", "one"):
        if hasattr(scheduler, end):
            setattr(scheduler, end, torch.ones((), dtype=torch.float64))
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    if hasattr(scheduler, "sigmas"):
        karras = config.get("use_karras_sigmas", False)
        scheduler.sigmas = exact_sigmas(scheduler.sigmas, schedule, steps if karras else 0)
    return scheduler


def exact_sigmas(sigmas, schedule, karras):
    """The float64 numbers that its σ round: of the table, or of equation 5 of Karras et al. 2022."""
    table = (schedule.noise_scale / schedule.signal_scale).numpy()
    ramp = np.linspace(table[-1] ** (1 / 7), table[0] ** (1 / 7), karras) ** 7
    candidates = np.append(ramp if karras else table, 0.0)
    exact = torch.tensor([candidates[abs(candidates - sigma).argmin()] for sigma in sigmas.double().numpy()])
    torch.testing.assert_close(sigmas.double(), exact, rtol=2e-7, atol=0)
    return exact


class Wide:
    """``torch`` with float64 in the place of float32, for schedulers that convert the state to float32."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def widened(monkeypatch, scheduler):
    """Let the scheduler's arithmetic run in float64."""
    monkeypatch.setattr(importlib.import_module(type(scheduler).__module__), "torch", Wide())
    return scheduler


def run(scheduler, network, x, generator=None):
    """The loop of diffusers' pipelines with an ε-network, from the peer's own kind of state."""
    takes = inspect.signature(scheduler.step).parameters
    options = {"generator": generator} if generator is not None and "generator" in takes else {}
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, **options).prev_sample
    return x


def gaussian_eps(schedule, widths):
    """ε̂ of data N(0, c²) at any t."""

    def network(x_t, t):
        alpha_bar = log_alpha_bar_between(schedule, t.double()).exp()
        return (1 - alpha_bar).sqrt() / (alpha_bar * widths**2 + 1 - alpha_bar) * x_t

    return network

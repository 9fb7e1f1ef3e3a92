"""Whole runs of a drop-in scheduler or of its namesake in diffusers, on a random configuration.

A chain is what a pipeline does: ``set_timesteps``, then each t once with ``scale_model_input`` and ``step``,
from noise or from a noised image. Two images are made with one scheduler and one generator, so that a step
which draws too little or leaves something behind shows in the second.
"""

import contextlib
import copy
import functools
import importlib
import inspect
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from unittest import mock

import diffusers
import numpy as np
import torch
from torch import Tensor

from alphabar.diffusers.adapter import SCHEDULERS

diffusers.utils.logging.set_verbosity_error()

SHAPE = (2, 2, 2, 3)


@dataclass(frozen=True)
class Case:
    """Options of the constructor, of ``set_timesteps`` and of ``step``, and where in the run to begin."""

    name: str
    options: Mapping

    def __str__(self):
        """Return the name and what is not the default."""
        chosen = {
            k: v for k, v in self.options.items() if self.defaults.get(k) != v and (k, v) != ("begin", 0)
        }
        return f"{self.name} {chosen}"

    @property
    def peer(self):
        return getattr(diffusers, f"{self.name}Scheduler")

    @functools.cached_property
    def _new_peer(self):
        return self.peer(**self.of("__init__"))

    def new_peer(self):
        """Return a peer that has not run yet: a copy, for some visit every t when they are made."""
        return copy.deepcopy(self._new_peer)

    @property
    def ours(self):
        return SCHEDULERS[f"{self.name}Scheduler"]

    def get(self, option):
        return self.options.get(option, self.defaults.get(option))

    @property
    def defaults(self):
        return _defaults(self.peer)

    @property
    def steps(self):
        given = next((self.options[name] for name in ("timesteps", "sigmas") if name in self.options), None)
        return self.options["num_inference_steps"] if given is None else len(given)

    def of(self, method):
        """Return the options that a method of the peer takes, and the constructor does not."""
        known, taken = _defaults(getattr(self.peer, method)), () if method == "__init__" else self.defaults
        options = {name: value for name, value in self.options.items() if name in known and name not in taken}
        if "sigmas" in options:
            options["sigmas"] = ARRAYS.get(self.name, np.array)(options["sigmas"])
        return options


ARRAYS = {"EDMEuler": torch.tensor}
"""What the peer takes for ``sigmas``."""


@functools.cache
def _defaults(function):
    return {name: each.default for name, each in inspect.signature(function).parameters.items()}


def draw_case(name, table, seed):
    """Return a random configuration.

    Args:
        name: of the scheduler, without the last word.
        table: label → values, the default first. A value that is a mapping is merged into the options; a
            function is called with the random numbers and the options so far.
        seed: of the random numbers.
    """
    draw, options = random.Random(f"{name} {seed}"), {}
    for label, values in table.items():
        value = values[0] if draw.random() < 0.4 else draw.choice(values)
        value = value(draw, options) if callable(value) else value
        options.update(value if isinstance(value, Mapping) else {label: value})
    if {"timesteps", "sigmas"} & options.keys():
        options.pop("num_inference_steps", None)
    return Case(name, options)


# --- the network ---


def network_for(case, scheduler):
    """Return (x, t) → output in float64: a smooth nonlinear v̂ in [−2, 2], in the form that the case asks for.

    v̂ bounded keeps x̂_0 and ε̂ as bounded as x. The levels are read of ᾱ at the t asked for, also between two.
    """
    table = getattr(scheduler, "alphas_cumprod", None)
    alpha_bars = None if table is None else table.double().clamp(0, 1).tolist()
    learns, form = (
        case.get("variance_type") in ("learned", "learned_range"),
        FORMS.get(case.get("prediction_type")),
    )

    def network(x, t):
        t, x = float(t), x.double()
        phase = t / 500 - 1 + 0.3 * math.sin(t / 10)
        v = 2 * torch.tanh(0.7 * x + 0.4 * x.roll(1, -1) - 0.6 * x.roll(1, 1) + phase)
        output = form(x, v, *LEVELS.get(case.name, _level)(alpha_bars, t)) if form else v
        return torch.cat([output, torch.cos(2 * x + t / 100)], 1) if learns else output

    return network


def _level(alpha_bars, t):
    if alpha_bars is None:
        return 0.0, 1.0
    t = min(max(t, 0.0), len(alpha_bars) - 1.0)
    low = int(t)
    high = min(low + 1, len(alpha_bars) - 1)
    alpha_bar = alpha_bars[low] + (t - low) * (alpha_bars[high] - alpha_bars[low])
    return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)


LEVELS = {"IPNDM": lambda _, t: (math.cos(math.pi * t / 2), math.sin(math.pi * t / 2))}
FORMS = {
    "epsilon": lambda x, v, signal, sigma: sigma * x + signal * v,
    "sample": lambda x, v, signal, sigma: signal * x - sigma * v,
    "original_sample": lambda x, v, signal, sigma: signal * x - sigma * v,
}


# --- a chain ---


@dataclass(frozen=True)
class Precision:
    """How tensors of a chain are held, and what is done to a network's inputs, outputs and to samples."""

    dtype: torch.dtype = torch.float64
    rounded: Callable = lambda x: x


EXACT = Precision()


def watched(peaks):
    """Return float64 that appends the largest magnitude of each tensor to a list."""

    def rounded(x):
        peaks.append(float(x.abs().max()))
        return x

    return Precision(rounded=rounded)


def moved(dtype, seed):
    """Return float64 whose values are moved by as much as rounding to ``dtype`` may, at random."""
    info, generator = torch.finfo(dtype), torch.Generator().manual_seed(seed)

    def rounded(x):
        by = 2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1
        return x + by * (info.eps / 2 * x.abs() + info.smallest_normal * info.eps)

    return Precision(rounded=rounded)


@dataclass(frozen=True)
class Images:
    """What one run made, or several."""

    x: Tensor
    x_0: Tensor
    """The mean x̂_0 of the second half of the steps: before, it is small beside σ · ε̂. Or nothing."""
    timesteps: Tensor


def chain(case, scheduler, network, generator=None, precision=EXACT, *, is_set=False):
    """Return the image of a run."""
    if not is_set:
        scheduler.set_timesteps(**case.of("set_timesteps"))
    x, first = _start(case, scheduler, generator, precision)
    takes, options, denoised = _defaults(scheduler.step), case.of("step"), []
    options |= {"generator": generator} if "generator" in takes else {}
    for t in scheduler.timesteps[first:]:
        asked = (
            precision.rounded(scheduler.scale_model_input(x, t))
            if hasattr(scheduler, "scale_model_input")
            else x
        )
        output = precision.rounded(network(asked, t).to(precision.dtype))
        x, *x_0 = scheduler.step(output, t, x, **options).to_tuple()
        x = precision.rounded(x)
        denoised += [each.double() for each in x_0]
    half = denoised[len(denoised) // 2 :]
    return Images(x, sum(half) / len(half) if half else x.new_zeros(()), scheduler.timesteps)


def _start(case, scheduler, generator, precision):
    """Return the sample that a run starts from, and the index of its first t."""
    steps = -(-len(scheduler.timesteps) // scheduler.order)
    first = int(case.options.get("begin", 0) * steps) * scheduler.order
    noise = torch.randn(SHAPE, generator=generator, dtype=precision.dtype)
    if not first:
        return precision.rounded(noise * getattr(scheduler, "init_noise_sigma", 1.0)), 0
    image = torch.randn(SHAPE, generator=generator, dtype=precision.dtype).clamp(-1, 1)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    t = scheduler.timesteps[first : first + 1].repeat(len(noise))
    if hasattr(scheduler, "scale_noise"):
        return precision.rounded(scheduler.scale_noise(image, t, noise)), first
    return precision.rounded(scheduler.add_noise(image, noise, t)), first


def two_images(case, scheduler, network, generator=None, precision=EXACT):
    """Return the images of two runs, one after the other."""
    first, second = (chain(case, scheduler, network, generator, precision) for _ in range(2))
    pairs = torch.stack([first.x, second.x]), torch.stack([first.x_0, second.x_0])
    return Images(*pairs, second.timesteps)


# --- noise that two chains share ---


@contextlib.contextmanager
def recorded():
    """Yield a list in which every draw of normal numbers is kept."""
    draws, randn, randn_like = [], torch.randn, torch.randn_like

    def kept(draw):
        def call(*args, **given):
            draws.append(draw(*args, **given))
            return draws[-1]

        return call

    with mock.patch.multiple(torch, randn=kept(randn), randn_like=kept(randn_like)):
        yield draws


@contextlib.contextmanager
def replayed(draws):
    """Let draws of normal numbers be these; raise IndexError where more or fewer are drawn."""
    rest = list(draws)

    def take(*args, dtype=None, **given):
        if not rest:
            raise IndexError("more noise is drawn")
        return rest.pop(0).to(dtype or torch.get_default_dtype())

    def take_like(x, **given):
        return take(dtype=given.get("dtype") or x.dtype)

    with mock.patch.multiple(torch, randn=take, randn_like=take_like):
        yield
    if rest:
        raise IndexError("less noise is drawn")


# --- the peer in float64 ---


class Wide:
    """A module with float64 in the place of float32."""

    def __init__(self, module):
        self._module, self.float32 = module, module.float64

    def __getattr__(self, name):
        return getattr(self._module, name)


@contextlib.contextmanager
def widened(case, mine):
    """Yield the peer whose tables are ours in float32, and whose arithmetic is float64."""
    module = importlib.import_module(case.peer.__module__)
    scheduler, stock = case.new_peer(), case.new_peer()
    if hasattr(scheduler, "alphas_cumprod"):
        torch.testing.assert_close(mine.alphas_cumprod, scheduler.alphas_cumprod, rtol=1e-3, atol=1e-7)
        scheduler.alphas_cumprod = mine.alphas_cumprod
        for end in ("final_alpha_cumprod", "initial_alpha_cumprod"):
            if hasattr(scheduler, end) and not case.get("set_alpha_to_one"):
                setattr(scheduler, end, scheduler.alphas_cumprod[0])
    for name, value in vars(scheduler).items():
        if isinstance(value, Tensor) and value.dtype == torch.float32:
            setattr(scheduler, name, value.double())
    set_timesteps = scheduler.set_timesteps

    def at_its_own(
        **given,
    ):  # a timestep is told as float32 or a whole number, which float64 may round otherwise
        stock.set_timesteps(**given)
        set_timesteps(**given)
        if len(scheduler.timesteps) == len(stock.timesteps):
            scheduler.timesteps = stock.timesteps

    scheduler.set_timesteps = at_its_own
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.multiple(
            module, torch=Wide(torch), **({"np": Wide(np)} if hasattr(module, "np") else {})
        ):
            yield scheduler
    finally:
        torch.set_default_dtype(default)

"""Compares a drop-in scheduler with its namesake in diffusers on one configuration (chains.py).

float64
    The peer computes in float64 too and is given the noise that ours drew: what differs is no rounding.
lower precision
    Ours against its own float64 chain on the same noise. It rounds what enters the network, what comes out
    and the sample, once each: the bound is how far chains in float64 come apart when just these are moved by
    up to half a unit in the last place, times MARGIN. The peer as it is must draw the same and return that
    precision. Its own errors are measured and have no bound: it rounds coefficients and differences too, and
    at σ = 4,000 little is left of x − σ · ε̂.
without the compiled kernels
    The same bounds, in float64 and in lower precision.
"""

import functools
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from unittest import mock

import torch
from chains import (
    EXACT,
    Precision,
    chain,
    moved,
    network_for,
    recorded,
    replayed,
    two_images,
    watched,
    widened,
)

from alphabar.errors import AlphabarError
from alphabar.kernels import cpu

TOLERANCE = 1e-4
"""Of the state's scale, in float64: what is above it is a deviation."""
T_TOLERANCE = 1e-3
"""Of timesteps, which float32 rounds at the fourth digit after the point."""
LARGEST_TOLERANCE = 1e-2
MARGIN = 8
MANY = 24  # chains that are moved where two of them do not explain an error
"""Three moved chains find the order of the largest error of rounding, not the largest."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Comparison:
    """Two images of ours and of the peer."""

    difference: float
    """In float64, over the state's scale; ∞ where just one has an answer, or others are the network's t."""
    words: str = ""
    tolerance: float = TOLERANCE
    faults: tuple[str, ...] = ()
    """What must hold on every configuration, and does not."""
    draws: str = ""
    """How precision or draws of the peer as it is differ; empty where they do not."""
    rounding: Mapping = field(default_factory=dict)
    """In lower precision, over the state's scale: errors of ``ours`` and ``theirs``, and the ``bound``."""

    @property
    def agrees(self):
        return self.difference <= self.tolerance and not self.draws


REFUSED = Comparison(0.0, "both refuse")


def compare(case, dtype):
    """Compare ours with the peer in float64 and in ``dtype``, with the kernels and without."""
    generator, peaks = _generator(), []
    try:
        mine = case.ours(**case.of("__init__"))
        network = network_for(case, mine)
        with recorded() as noise:
            images = two_images(case, mine, network, generator, Precision(dtype)).x
    except AlphabarError as error:
        return _refused(case, f"ours: {type(error).__name__}: {error}")
    run = functools.partial(_again, case, mine, network, noise)
    made = run(watched(peaks))
    exact = made.x
    scale = float(exact.abs().max().clamp(min=1))
    steepness = _steepness(run, exact, dtype, range(2))

    def bound(p):
        return MARGIN * steepness * torch.finfo(p).eps

    faults = [] if exact.isfinite().all() else ["not finite"]
    if bound(dtype) < 1 and max(peaks) < torch.finfo(dtype).max:  # else the precision does not do
        if found := _faults(run, images, exact, dtype, bound):  # a clip may tip over in one chain of many
            steepness = max(steepness, _steepness(run, exact, dtype, range(2, MANY)))
            found = _faults(run, images, exact, dtype, bound) if bound(dtype) < 1 else []
        faults += found
    difference, words = _difference(case, mine, network, noise, made)
    # The peer's levels are float32 numbers, which a steep chain amplifies.
    tolerance = min(max(TOLERANCE, bound(torch.float32)), LARGEST_TOLERANCE)
    if tolerance < difference < LARGEST_TOLERANCE:
        difference = min(difference, _difference_in_float32(case, network))
    theirs, draws = _as_it_is(case, network, generator, images)
    errors = {"ours": _apart(images, exact), "theirs": None if theirs is None else _apart(theirs, exact)}
    return Comparison(
        difference, words, tolerance, tuple(faults), draws, {**errors, "bound": bound(dtype), "scale": scale}
    )


def _steepness(run, exact, dtype, seeds):
    """Return how far chains whose values are moved by a unit of rounding come apart at the most."""
    return max(_apart(run(moved(dtype, seed)).x, exact) for seed in seeds) / torch.finfo(dtype).eps


def _faults(run, images, exact, dtype, bound):
    """Return what is wrong with ours by itself: errors beyond those of rounding, with kernels or without."""
    with mock.patch.object(cpu, "LIBRARY", None):
        exact_without, images_without = run().x, run(Precision(dtype)).x
    errors = {
        f"{dtype}": (_apart(images, exact), bound(dtype)),
        f"{dtype} without kernels": (_apart(images_without, exact), bound(dtype)),
        "float64 without kernels": (_apart(exact_without, exact), bound(torch.float64)),
    }
    return [
        f"{name}: {error:.1e}, bound {limit:.1e}"
        for name, (error, limit) in errors.items()
        if not error <= limit
    ]


def _difference(case, mine, network, noise, made):
    try:
        with widened(case, mine) as peer, replayed(noise):
            theirs = two_images(case, peer, network)
    except Exception as error:  # whatever the peer raises is its refusal
        return math.inf, f"theirs: {type(error).__name__}: {error}"
    if not theirs.x.isfinite().all():
        return math.inf, "theirs: not finite"
    if len(made.timesteps) != len(theirs.timesteps):
        return math.inf, f"{len(made.timesteps)} timesteps, theirs {len(theirs.timesteps)}"
    of_t = float((made.timesteps.double() - theirs.timesteps.double()).abs().max())
    apart = [_apart(x, y) for x, y in zip([*made.x, made.x_0], [*theirs.x, theirs.x_0], strict=True)]
    words = f"image 1: {apart[0]:.1e}, image 2: {apart[1]:.1e}, x̂_0: {apart[2]:.1e}, t: {of_t:.1e}"
    return math.inf if of_t > T_TOLERANCE else max(apart), words


def _difference_in_float32(case, network):
    """Return the difference as users meet it: DDPM's β = 1 − ᾱ_t/ᾱ_s is rounded by ours as by float32."""
    single, generator = Precision(torch.float32), _generator()
    images = two_images(case, case.ours(**case.of("__init__")), network, generator, single).x
    theirs, _ = _as_it_is(case, network, generator, images)
    return math.inf if theirs is None else _apart(images, theirs)


def _as_it_is(case, network, generator, images):
    """Return the peer's images in the precision of ours, and how its precision or draws differ."""
    peers = _generator()
    try:
        theirs = two_images(case, case.new_peer(), network, peers, Precision(images.dtype)).x
    except Exception:  # what the peer refuses is compared in float64
        return None, ""
    if theirs.dtype != images.dtype:
        return theirs, f"{images.dtype}, theirs {theirs.dtype}"
    return theirs, "" if torch.equal(generator.get_state(), peers.get_state()) else "other draws"


def _refused(case, words):
    """Return the comparison of a configuration that ours refuses."""
    try:
        peer = case.new_peer()
        theirs = two_images(case, peer, network_for(case, peer), _generator()).x
    except Exception:
        return REFUSED
    return Comparison(math.inf, words) if theirs.isfinite().all() else REFUSED


def _apart(x, y):
    return float((x.double() - y.double()).abs().max() / y.double().abs().max().clamp(min=1))


def _generator():
    return torch.Generator().manual_seed(1)


def _again(case, scheduler, network, noise, precision=EXACT):
    """Return two images on noise that was drawn before."""
    with replayed(noise):
        return two_images(case, scheduler, network, None, precision)


def threads_give_the_same_bits(case, threads=8):
    """Return whether threads on forks of one scheduler make the images that each makes alone."""
    shared = case.ours(**case.of("__init__"))
    network = network_for(case, shared)
    chain(case, shared, network, torch.Generator().manual_seed(0))

    def image(seed):
        twin, generator = shared.fork(), torch.Generator().manual_seed(seed)
        return chain(case, twin, network, generator, is_set=seed % 2 == 0).x

    alone = [image(seed) for seed in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        together = list(pool.map(image, range(threads)))
    return all(torch.equal(x, y) for x, y in zip(alone, together, strict=True))

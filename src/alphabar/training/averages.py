"""Running averages of the parameters: θ̄_n = θ̄_{n−1} + r_n · (θ_n − θ̄_{n−1}), the networks one samples from.

A walk with a constant rate never settles; its average does. A profile says how much the newest parameters
count at update n = 1, 2, …, and so how long the average remembers:

    exponential(d)    r_n = 1 − min(d, (1 + n)/(10 + n))     a fixed time, once the start is forgotten
    power(σ_rel)      r_n = 1 − (1 − 1/n)^(γ+1)              a fixed share of the training so far

θ̄_n of a power profile is Σ_k w_k θ_k with w_k ∝ k^(γ+1) − (k−1)^(γ+1); σ_rel is the standard deviation of its
weights over the length of the training, γ follows. From snapshots of two of them every other average can be
had after the training: :mod:`alphabar.training.posthoc`. Karras et al. 2023, arXiv 2312.02696, section 3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from alphabar.errors import CheckpointError, ConfigError, look_up

__all__ = ["Averages", "Profile", "exponential", "parse_profile", "power"]

LARGEST_SIGMA_REL = 12**-0.5  # of the plain mean of all updates, γ = 0


@dataclass(frozen=True)
class Profile:
    """How an average weighs the updates."""

    name: str
    """As :func:`parse_profile` reads it."""
    rate: Callable[[Tensor], Tensor] = field(compare=False, repr=False)
    """Returns r_n for float64 n ≥ 1 of any shape."""


def exponential(decay: float) -> Profile:
    """Return r_n = 1 − min(decay, (1 + n)/(10 + n)).

    Raises:
        ConfigError: decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise ConfigError(f"decay is {decay!r}: it must lie in [0, 1), where 0 keeps no average")
    return Profile(repr(float(decay)), lambda n: 1 - ((1 + n) / (10 + n)).clamp(max=decay))


def power(sigma_rel: float) -> Profile:
    """Return r_n = 1 − (1 − 1/n)^(γ+1), where σ_rel² = (γ+1) / ((γ+2)² (γ+3)).

    Karras et al. 2023, equations 123 and 127.

    >>> power(0.05).rate(torch.tensor([1.0, 2.0, 100.0]))
    tensor([1.0000, 1.0000, 0.1653])

    Raises:
        ConfigError: σ_rel outside (0, 1/√12); from there on the oldest updates would count most.
    """
    if not 0 < sigma_rel < LARGEST_SIGMA_REL:
        raise ConfigError(
            f"sigma_rel is {sigma_rel!r}: it must lie in (0, {LARGEST_SIGMA_REL:.4f}), such as 0.05"
        )
    exponent = _gamma(sigma_rel) + 1
    return Profile(f"power({float(sigma_rel)!r})", lambda n: -torch.expm1(exponent * torch.log1p(-1 / n)))


def _gamma(sigma_rel: float) -> float:
    """Return the largest γ with σ_rel² = (γ+1) / ((γ+2)² (γ+3)).

    With v = σ_rel (γ+2) this is v³ + σ_rel v² − v + σ_rel = 0, whose three roots are real.
    """
    p, q = -1 - sigma_rel**2 / 3, 2 * sigma_rel**3 / 27 + 4 * sigma_rel / 3
    angle = math.acos(1.5 * q / p * math.sqrt(-3 / p)) / 3
    return (2 * math.sqrt(-p / 3) * math.cos(angle) - sigma_rel / 3) / sigma_rel - 2


def parse_profile(text: str) -> Profile:
    """Return the profile that a text names: a decay such as "0.995", or "power(0.05)", σ_rel in brackets.

    >>> parse_profile("power(0.050)").name
    'power(0.05)'

    Raises:
        ConfigError: another text, or a number out of range.
    """
    try:
        found = re.fullmatch(r"power\((.*)\)", text)
        number = float(found[1] if found else text)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{text!r} is no profile of an average: give a decay such as 0.995, or power(0.05), with σ_rel"
        ) from None
    return power(number) if found else exponential(number)


class Averages:
    """Several running averages of a network's parameters at once, in float32 at least.

    Under FSDP2 make them after the network is sharded: each process averages its own shards. In float32 an
    average is known to 2⁻²⁵/r_n of its size, 3e-4 at a decay of 0.9999: nearer parameters do not move it.

    Args:
        network: whose parameters are averaged; kept by reference.
        profiles: one an average; the first is what :meth:`averaged` takes by default.

    Raises:
        ConfigError: no profile, or one twice.
    """

    def __init__(self, network: nn.Module, profiles: Iterable[Profile]) -> None:
        self.profiles = tuple(profiles)
        names = [profile.name for profile in self.profiles]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"profiles are {names}: give at least one, and each once")
        self.updates = 0
        self._network = network
        _reshard(network)
        self._live: dict[str, Tensor] = dict(network.named_parameters())
        self._means = {name: self._copy() for name in names}

    def _copy(self) -> dict[str, Tensor]:
        dtypes = {key: torch.promote_types(live.dtype, torch.float32) for key, live in self._live.items()}
        return {key: live.detach().to(dtypes[key], copy=True) for key, live in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters as they are now into every average."""
        self.updates += 1
        n = torch.tensor(self.updates, dtype=torch.float64, device="cpu")
        for profile in self.profiles:
            means = self._means[profile.name]
            live = [self._live[key].to(mean.dtype) for key, mean in means.items()]
            torch._foreach_lerp_(_shards(means.values()), _shards(live), float(profile.rate(n)))

    @contextmanager
    def averaged(self, name: str | None = None) -> Iterator[None]:
        """Within the block, the parameters are their averages.

        Args:
            name: of the profile; by default the first.

        Raises:
            UnknownNameError: no profile of this name.
        """
        mean = look_up(self._means, self.profiles[0].name if name is None else name, "average")
        held = self._copy()
        self._set(mean)
        try:
            yield
        finally:
            self._set(held)

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        torch._foreach_copy_(_shards(self._live.values()), _shards(values.values()))
        _reshard(self._network)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return each average itself by the names of its profile and parameter; DTensors under FSDP2."""
        return {name: dict(mean) for name, mean in self._means.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Mapping[str, Tensor]], updates: int) -> None:
        """Copy averages in, after which training goes on as if it had not stopped.

        Args:
            state: as :meth:`state` returned it; under FSDP2 DTensors, sharded alike.
            updates: how many updates they have taken.

        Raises:
            CheckpointError: other profiles, parameters or shapes.
        """
        _check_names("averages", state, self._means)
        for name, mean in self._means.items():
            _check_names(f"parameters in the average {name}", state[name], mean)
            given = {key: state[name][key] for key in mean}
            for key, new, old in zip(mean, _shards(given.values()), _shards(mean.values()), strict=True):
                if new.shape != old.shape:
                    raise CheckpointError(
                        f"{key} of the average {name} has shape {tuple(new.shape)}, here {tuple(old.shape)}"
                    )
            torch._foreach_copy_(_shards(mean.values()), _shards(given.values()))
        self.updates = updates


def _reshard(network: nn.Module) -> None:
    """Have FSDP2 drop the whole parameters it still holds from a forward pass, which are copies."""
    for module in network.modules():
        reshard = getattr(module, "reshard", None)
        if callable(reshard):
            reshard()


def _shards(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return what this process holds of each tensor: all of it, or its shard of a DTensor."""
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]


def _check_names(what: str, given: Iterable[str], expected: Iterable[str]) -> None:
    missing, unknown = sorted({*expected} - {*given}), sorted({*given} - {*expected})
    if missing or unknown:
        raise CheckpointError(f"other {what} than here: missing {missing[:3]}, unknown {unknown[:3]}")

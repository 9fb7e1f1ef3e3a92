"""Schedules by name: their tables, what ``repr`` shows, and the configuration that diffusers has for them.

A configuration is read by its ``_class_name``: the schedulers in ``CONFIG_READERS`` have keys of their own,
all others β. diffusers ignores two keys that are written here beside ``trained_betas``:

    alphabar_family     the family, where diffusers has no name for it
    log_alpha_bar       where β does not give log ᾱ back bit by bit; its last entry is null where ᾱ = 0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphabar.checks import MOST_LEVELS, checked_beta, checked_log_alpha_bar, checked_numbers
from alphabar.errors import ConfigError, look_up
from alphabar.schedule import formulas
from alphabar.schedule.families import BETA_SCHEDULES, noise_power, of_beta
from alphabar.schedule.formulas import Tables

__all__ = [
    "CONFIG_READERS",
    "OWN_KEYS",
    "Described",
    "cosine",
    "edm",
    "exponential",
    "is_rescaled",
    "laplace",
    "of_numbers",
    "of_range",
    "read",
    "rectified_flow",
    "rescaled",
]

Config = dict[str, Any]
RESCALED = "rescale_betas_zero_snr"

BETA_DEFAULTS: Config = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    RESCALED: False,
}
FLOW_DEFAULTS: Config = {"num_train_timesteps": 1000, "shift": 1.0}
EDM_DEFAULTS: Config = {
    "num_train_timesteps": 1000,
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "rho": 7.0,
    "sigma_schedule": "karras",
}
OWN_KEYS = ("alphabar_family", "log_alpha_bar")
SAME = 1e-6  # by how much β and log ᾱ of one configuration may differ


class Described(NamedTuple):
    """A schedule's tables with what they are called."""

    tables: Tables
    name: str
    config: Config


def cosine(steps: int) -> Described:
    """``squaredcos_cap_v2`` of diffusers."""
    config = {**BETA_DEFAULTS, "num_train_timesteps": steps, "beta_schedule": "squaredcos_cap_v2"}
    return Described(formulas.cosine(steps), f"cosine(steps={steps})", config)


def laplace(steps: int) -> Described:
    """Described by β, and by its name here: diffusers has the root of it."""
    return _of_our_own("laplace", steps, formulas.laplace(steps))


def exponential(steps: int) -> Described:
    """Described by β, and by its name here: few schedulers of diffusers have it."""
    return _of_our_own("exponential", steps, formulas.exponential(steps))


def _of_our_own(family: str, steps: int, tables: Tables) -> Described:
    betas = {"num_train_timesteps": steps, "trained_betas": tables.beta.tolist()}
    return Described(
        tables, f"{family}(steps={steps})", {**BETA_DEFAULTS, **betas, "alphabar_family": family}
    )


OWN_FAMILIES: dict[str, Callable[[int], Described]] = {"laplace": laplace, "exponential": exponential}


def rectified_flow(steps: int, shift: float) -> Described:
    """Described by the keys of flow matching."""
    name = f"rectified_flow(steps={steps}, shift={shift})"
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": steps, "shift": shift}
    return Described(formulas.rectified_flow(steps, shift), name, config)


def edm(steps: int, sigma_min: float, sigma_max: float, rho: float) -> Described:
    """Described by the keys of EDM; rho = ∞ is its exponential spacing."""
    name = f"edm(steps={steps}, sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho})"
    tables = formulas.edm(steps, sigma_min, sigma_max, rho)
    spacing = {"sigma_schedule": "exponential"} if math.isinf(rho) else {"rho": rho}
    given = {"num_train_timesteps": steps, "sigma_min": sigma_min, "sigma_max": sigma_max, **spacing}
    return Described(tables, name, {"_class_name": "EDMEulerScheduler", **EDM_DEFAULTS, **given})


def of_range(family: str, steps: int, start: float, end: float, name: str = "") -> Described:
    """A family by the name of diffusers' ``beta_schedule``."""
    tables = look_up(BETA_SCHEDULES, family, "beta_schedule")(steps, start, end)
    given = {"num_train_timesteps": steps, "beta_start": start, "beta_end": end, "beta_schedule": family}
    name = name or f"{family}(steps={steps}, beta_start={start:.6g}, beta_end={end:.6g})"
    return Described(tables, name, {**BETA_DEFAULTS, **given})


def of_numbers(tables: Tables) -> Config:
    """Return the configuration of a schedule that has no name."""
    beta, log_alpha_bar = tables.beta, tables.log_alpha_bar
    config = {**BETA_DEFAULTS, "num_train_timesteps": len(beta), "trained_betas": beta.tolist()}
    if torch.equal(of_beta(beta).log_alpha_bar, log_alpha_bar):
        return config
    logs = [None if math.isinf(log) else log for log in log_alpha_bar.tolist()]
    return {**config, "log_alpha_bar": logs}


def read(config: Mapping[str, Any]) -> Described:
    """Return what a configuration describes, before it is rescaled to zero terminal SNR.

    Raises:
        UnknownNameError: a ``beta_schedule`` or ``sigma_schedule`` that is not known.
        ScheduleError, ConfigError: numbers that no schedule can have, keys that disagree.
    """
    steps = config.get("num_train_timesteps")
    if isinstance(steps, int) and steps > MOST_LEVELS:
        raise ConfigError(f"num_train_timesteps is {steps}: it must be at most {MOST_LEVELS}")
    return CONFIG_READERS.get(str(config.get("_class_name")), _read_beta)(config)


def is_rescaled(config: Mapping[str, Any]) -> bool:
    """Return whether what is described gets zero terminal SNR."""
    return bool(config.get(RESCALED))


def rescaled(config: Config) -> Config | None:
    """Return the configuration with zero terminal SNR; None where its scheduler has no such key."""
    return None if config.get("_class_name") in CONFIG_READERS else {**config, RESCALED: True}


def _read_beta(config: Mapping[str, Any]) -> Described:
    known = _known(config, BETA_DEFAULTS)
    if known["trained_betas"] is not None:
        described = _read_numbers(config)
    else:
        family, steps = known["beta_schedule"], known["num_train_timesteps"]
        start, end = known["beta_start"], known["beta_end"]
        name = f"from_config(beta_schedule={family!r}, steps={steps}, beta_start={start}, beta_end={end})"
        described = of_range(family, steps, start, end, name)
    return described._replace(config={**described.config, RESCALED: known[RESCALED]})


def _read_numbers(config: Mapping[str, Any]) -> Described:
    beta, family, logs = config["trained_betas"], config.get("alphabar_family"), config.get("log_alpha_bar")
    if family is not None:
        described = look_up(OWN_FAMILIES, family, "alphabar_family")(len(checked_beta(beta)))
        _check_same("alphabar_family", beta, described.tables.beta)
        return described
    if logs is None:
        tables = of_beta(checked_beta(beta))
    else:
        log_alpha_bar = checked_log_alpha_bar(logs)
        drop = noise_power(log_alpha_bar.diff(prepend=log_alpha_bar.new_zeros(1)))
        tables = Tables(_check_same("log_alpha_bar", beta, drop), log_alpha_bar)
    return Described(tables, "from_beta", of_numbers(tables))


def _check_same(key: str, trained: Any, beta: Tensor) -> Tensor:
    """Return ``trained_betas``, required to be the β that another key stands for.

    Raises:
        ConfigError: they differ.
    """
    given = checked_numbers("trained_betas", trained)
    if given.shape != beta.shape or not torch.allclose(given, beta, rtol=SAME, atol=1e-3 * SAME):
        raise ConfigError(f"trained_betas and {key} describe different schedules: leave {key} out")
    return given


def _read_flow(config: Mapping[str, Any]) -> Described:
    known = _known(config, FLOW_DEFAULTS)
    return rectified_flow(known["num_train_timesteps"], known["shift"])


def _read_dynamic_flow(config: Mapping[str, Any]) -> Described:
    """With dynamic shifting a scheduler's own table is not shifted: the shift depends on the image."""
    return _read_flow({**config, "shift": 1.0} if config.get("use_dynamic_shifting") else config)


def _read_edm(config: Mapping[str, Any]) -> Described:
    known = _known(config, EDM_DEFAULTS)
    rho = look_up(
        {"karras": known["rho"], "exponential": math.inf}, known["sigma_schedule"], "sigma_schedule"
    )
    return edm(known["num_train_timesteps"], known["sigma_min"], known["sigma_max"], rho)


CONFIG_READERS: dict[str, Callable[[Mapping[str, Any]], Described]] = {
    "FlowMatchEulerDiscreteScheduler": _read_dynamic_flow,
    "FlowMatchHeunDiscreteScheduler": _read_flow,
    "FlowMatchLCMScheduler": _read_dynamic_flow,
    "EDMEulerScheduler": _read_edm,
    "EDMDPMSolverMultistepScheduler": _read_edm,
}
"""The schedulers that are not described by β, by ``_class_name``."""


def _known(config: Mapping[str, Any], defaults: Config) -> Config:
    return {**defaults, **{key: config[key] for key in defaults if key in config}}

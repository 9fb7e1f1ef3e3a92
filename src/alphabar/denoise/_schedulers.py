"""What a diffusers scheduler says of a network: its kind and its schedule; and the one that says it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alphabar.denoise._places import open_diffusers
from alphabar.errors import CheckpointError, look_up
from alphabar.process import PARAMETERISATIONS, Parameterisation, edm, named
from alphabar.schedule import OWN_KEYS, NoiseSchedule

__all__ = ["check_beta", "kind_of", "scheduler_for"]

SCHEDULERS = {"flow": "FlowMatchEulerDiscreteScheduler", "edm": "EDMEulerScheduler"}
"""The scheduler that stands for a kind of network, where its own schedule is that scheduler's too."""


def check_beta(place: Path, config: Mapping[str, Any]) -> None:
    """Refuse a scheduler whose noise is not known: DDPM's defaults would be taken in silence."""
    name = config.get("_class_name", "scheduler")
    if not isinstance(name, str):
        raise CheckpointError(f"{place} has the scheduler {str(name)[:60]}: expected the name of a class")
    if name not in KINDS and "beta_schedule" not in config and config.get("trained_betas") is None:
        raise CheckpointError(f"{place} has a {name}, which has no β: such networks are not known here")


def kind_of(config: Mapping[str, Any]) -> str | Parameterisation:
    """Return the kind of network that a scheduler's configuration means: a name, or EDM of some σ_data."""
    own = KINDS.get(str(config.get("_class_name")))
    if own is not None:
        return own(config)
    name = config.get("prediction_type", "epsilon")
    if isinstance(name, str) and (found := re.fullmatch(r"edm\(sigma_data=([-+.e\d]+)\)", name)):
        return edm(float(found[1]))
    look_up(PARAMETERISATIONS, name, "prediction")
    return str(name)


def _edm_kind(config: Mapping[str, Any]) -> str | Parameterisation:
    name, sigma_data = config.get("prediction_type", "epsilon"), config.get("sigma_data", 0.5)
    if name != "epsilon":
        raise CheckpointError(
            f"an EDM scheduler with prediction_type {name!r}: only the paper's networks, 'epsilon', are known"
        )
    try:
        return "edm" if sigma_data == 0.5 else edm(float(sigma_data))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"an EDM scheduler with sigma_data {sigma_data!r}: {error}") from None


KINDS: dict[str, Callable[[Mapping[str, Any]], str | Parameterisation]] = {
    "FlowMatchEulerDiscreteScheduler": lambda config: "flow",
    "FlowMatchHeunDiscreteScheduler": lambda config: "flow",
    "FlowMatchLCMScheduler": lambda config: "flow",
    "EDMEulerScheduler": _edm_kind,
    "EDMDPMSolverMultistepScheduler": _edm_kind,
}
"""What the schedulers that are not described by β say about their network."""


def scheduler_for(schedule: NoiseSchedule, prediction: str | Parameterisation, learns_variance: bool) -> Any:
    """Return the diffusers scheduler that describes schedule and kind as well as one can."""
    diffusers, kind = open_diffusers(), named(prediction)
    config = schedule.to_config()
    own = config.pop("_class_name", "DDPMScheduler")
    base, _, settings = kind.name.partition("(sigma_data=")
    if own == SCHEDULERS.get(base):
        sigma_data = {"sigma_data": float(settings.rstrip(")") or 0.5)} if base == "edm" else {}
        return getattr(diffusers, own)(**config, **sigma_data)
    if own != "DDPMScheduler":  # its path by β, as the scheduler of its own means another kind of network
        config = {"num_train_timesteps": len(schedule), "trained_betas": schedule.beta.tolist()}
    config = {key: value for key, value in config.items() if key not in OWN_KEYS}
    if learns_variance:
        config["variance_type"] = "learned_range"
    return diffusers.DDPMScheduler(**config, prediction_type=kind.name, timestep_spacing="trailing")

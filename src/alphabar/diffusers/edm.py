"""Euler's method and DPM-Solver++ for networks of EDM (Karras et al. 2022, arXiv 2206.00364).

    sample = x_0 + σ · z                                  which is x/√ᾱ with σ = √(1−ᾱ)/√ᾱ
    x̂_0 = c_skip · sample + c_out · F(c_in · sample; ¼ log σ)           (equation 7, table 1)

c_skip, c_out and c_in are those of the parameterisation ``edm(sigma_data)``, and ¼ log σ are the timesteps.
The configuration has no β: σ is spaced between ``sigma_max`` and ``sigma_min``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from alphabar.checks import check_count
from alphabar.diffusers.drop_in import drop_in
from alphabar.diffusers.grids import Grid, levels_of
from alphabar.diffusers.index_scheduler import IndexScheduler, exact_tables, step_with_noise
from alphabar.diffusers.sigma_space import churned, euler_step
from alphabar.diffusers.solvers import is_stochastic, multistep_rows
from alphabar.diffusers.spacings import Numbers, karras
from alphabar.diffusers.steps import X_0, Step, negated, sigma_scale
from alphabar.errors import ConfigError, look_up
from alphabar.kernels import lincomb
from alphabar.process import Parameterisation, edm

__all__ = ["EDMDPMSolverMultistepScheduler", "EDMEulerScheduler"]

Number = float | Tensor

SPACINGS: dict[str, Callable[[Numbers, float, float, float], Numbers]] = {
    "karras": karras,
    "exponential": lambda ramp, first, last, rho: np.exp(math.log(first) + ramp * math.log(last / first)),
}
"""σ by diffusers' ``sigma_schedule``: from the first at 0 of the ramp to the last at 1."""

NAMES: dict[str, tuple[str, ...]] = {
    "sigma_schedule": tuple(SPACINGS),
    "final_sigmas_type": ("zero", "sigma_min"),
}


PREDICTION_TYPES: dict[str, Callable[[float], Parameterisation]] = {
    "epsilon": edm,
    "v_prediction": lambda sigma_data: negated(edm(sigma_data)),
}
"""How a network is read, by diffusers' ``prediction_type``, from the standard deviation of the data."""


def configure(self: IndexScheduler) -> None:
    """Read the configuration, as ``Adapter._configure``, for a network of EDM."""
    IndexScheduler._configure(self)
    kind = look_up(PREDICTION_TYPES, self._options["prediction_type"], "prediction_type")
    self._parameterisation = kind(self._options["sigma_data"])


def init_noise_sigma(self: IndexScheduler) -> float:
    """Return the standard deviation of the sample that a run starts from, √(σ² + 1) at the largest σ."""
    return math.hypot(self._options["sigma_max"], 1)


def spaced(self: IndexScheduler, ramp: Numbers) -> Numbers:
    """Return σ between ``sigma_max`` at 0 of the ramp and ``sigma_min`` at 1."""
    chosen = self._options
    if chosen["sigma_schedule"] == "exponential" and not self.strict:
        # diffusers takes no more of the ramp than its length, and one step from sigma_min.
        ramp = np.linspace(1, 0, len(ramp))[::-1]
    spacing = SPACINGS[chosen["sigma_schedule"]]
    return spacing(ramp, chosen["sigma_max"], chosen["sigma_min"], chosen["rho"])


def grid_of(sigmas: Numbers, end: float) -> Grid:
    """Return the grid that begins its steps at these σ and lands at the last."""
    return Grid(np.log(sigmas) / 4, levels_of([*sigmas.tolist(), end]))


# --- preconditioning, as pipelines and training ask for it ---


def c_in(self: IndexScheduler, sigma: Number) -> Number:
    """Return what multiplies the sample before it enters the network, 1/√(σ² + σ_d²).

    Args:
        self: the scheduler.
        sigma: a number, or a tensor of any shape.
    """
    signal, noise = _mixture(sigma)
    scale = signal * self._parameterisation.input(signal, noise)
    return scale.to(sigma.dtype) if isinstance(sigma, Tensor) and isinstance(scale, Tensor) else scale


def precondition_inputs(self: IndexScheduler, sample: Tensor, sigma: Number) -> Tensor:
    """Return c_in · sample.

    Args:
        self: the scheduler.
        sample: (B, …).
        sigma: a number, or a tensor that broadcasts against the sample.
    """
    signal, noise = _mixture(sigma)
    return lincomb((_on(sample, signal * self._parameterisation.input(signal, noise)),), (sample,))


def precondition_noise(self: IndexScheduler, sigma: Number) -> Tensor:
    """Return ¼ log σ, which the network is told as time; (1,) of a number, else in the shape of σ."""
    sigma = sigma if isinstance(sigma, Tensor) else torch.tensor([sigma])
    return (sigma.double().log() / 4).to(sigma.dtype)


def precondition_outputs(self: IndexScheduler, sample: Tensor, model_output: Tensor, sigma: Number) -> Tensor:
    """Return x̂_0 = c_skip · sample + c_out · output.

    Args:
        self: the scheduler.
        sample: (B, …).
        model_output: like the sample.
        sigma: a number, or a tensor that broadcasts against the sample.
    """
    signal, noise = _mixture(sigma)
    of_x, of_output = self._parameterisation.x_0(signal, noise)
    coefficients = _on(sample, of_x * signal), _on(sample, of_output)
    dtype = torch.promote_types(sample.dtype, model_output.dtype)
    return lincomb(coefficients, (sample, model_output), dtype=dtype)


def _mixture(sigma: Number) -> tuple[Number, Number]:
    """Return √ᾱ and √(1−ᾱ) at √(1−ᾱ)/√ᾱ = σ."""
    wide = sigma.double() if isinstance(sigma, Tensor) else sigma
    signal = (1 + wide * wide) ** -0.5
    return signal, wide * signal


def _on(sample: Tensor, coefficient: Number) -> Number:
    if not isinstance(coefficient, Tensor):
        return coefficient
    return float(coefficient) if coefficient.numel() == 1 else coefficient.to(sample.device)


@drop_in("scheduling_edm_euler")
class EDMEulerScheduler(IndexScheduler):
    """Euler's method, with churn."""

    scale = staticmethod(sigma_scale)
    init_noise_sigma = property(init_noise_sigma)
    is_scale_input_called = False
    keeps_sample_dtype = False
    option_names: ClassVar = NAMES
    refuses_indices = True
    uses_history = False
    _configure = configure
    _make_tables = exact_tables
    _get_conditioning_c_in = c_in
    precondition_inputs = precondition_inputs
    precondition_noise = precondition_noise
    precondition_outputs = precondition_outputs

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: Any = None,
        return_dict: bool = True,
        pred_original_sample: Tensor | None = None,
    ) -> Any:
        """Return the sample at the next t; x̂_0 is ``pred_original_sample`` where that is given."""
        churn = s_churn, s_tmin, s_tmax, s_noise
        sample, factor = churned(self, model_output, timestep, sample, churn, generator)
        is_read = pred_original_sample is None
        output = model_output if is_read else pred_original_sample.to(model_output.dtype)  # type: ignore[union-attr]
        return self._take_step(output, timestep, sample, return_dict, factor, is_read)

    def _make_grid(
        self,
        schedule_sigmas: Numbers,
        num_inference_steps: int = 0,
        sigmas: Sequence[float] | None = None,
        **given: Any,
    ) -> Grid:
        if sigmas is not None:
            return self._grid_on(_checked_ramp(sigmas))
        check_count(num_inference_steps=num_inference_steps)
        return self._grid_on(np.linspace(0, 1, num_inference_steps))

    def _all_levels(self, schedule_sigmas: Numbers) -> Grid:
        return self._grid_on(np.linspace(0, 1, len(schedule_sigmas) + 1))

    def _grid_on(self, ramp: Numbers) -> Grid:
        sigmas = spaced(self, ramp)
        return grid_of(sigmas, 0.0 if self._options["final_sigmas_type"] == "zero" else float(sigmas[-1]))

    def _make_steps(self, first: int, *options: Any) -> list[Step]:
        factor, is_read = options
        steps = [euler_step(self, t, s, factor) for t, s in pairwise(self._run.grid.levels[first:])]
        return steps if is_read else [replace(step, x_0=X_0) for step in steps]


def _checked_ramp(sigmas: Sequence[float] | float) -> Numbers:
    """Return what diffusers calls ``sigmas`` here.

    Raises:
        ConfigError: no positions in [0, 1].
    """
    ramp = np.array(sigmas, float)
    if ramp.ndim != 1 or not ramp.size or not ((ramp >= 0) & (ramp <= 1)).all():
        raise ConfigError(
            f"sigmas is {sigmas!r}: to EDMEulerScheduler they are no σ but positions between them, a list of "
            "numbers from 0, at sigma_max, to 1, at sigma_min"
        )
    return ramp


@drop_in("scheduling_edm_dpmsolver_multistep")
class EDMDPMSolverMultistepScheduler(IndexScheduler):
    """DPM-Solver++, multistep (Lu et al. 2022)."""

    scale = staticmethod(sigma_scale)
    init_noise_sigma = property(init_noise_sigma)
    is_scale_input_called = False
    always_draws = property(is_stochastic)
    needs_timesteps = True
    takes_any_t = True
    option_names: ClassVar = {
        "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
        "solver_type": ("midpoint", "heun"),
        **NAMES,
    }
    names_of_siblings = ("deis", "logrho", "bh1", "bh2")
    _configure = configure
    _make_tables = exact_tables
    _get_conditioning_c_in = c_in
    precondition_inputs = precondition_inputs
    precondition_noise = precondition_noise
    precondition_outputs = precondition_outputs
    _rows = multistep_rows
    step = step_with_noise

    def _make_grid(self, schedule_sigmas: Numbers, num_inference_steps: int = 0, **given: Any) -> Grid:
        check_count(num_inference_steps=num_inference_steps)
        ends = {"zero": 0.0, "sigma_min": float(self._options["sigma_min"])}
        sigmas = spaced(self, np.linspace(0, 1, num_inference_steps))
        return grid_of(sigmas, ends[self._options["final_sigmas_type"]])

    def _all_levels(self, schedule_sigmas: Numbers) -> Grid:
        return grid_of(spaced(self, np.linspace(0, 1, len(schedule_sigmas))), 0.0)

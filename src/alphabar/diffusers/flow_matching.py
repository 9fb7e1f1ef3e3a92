"""Flow matching: Euler's and Heun's method in time σ, on the path (1−σ) · x_0 + σ · z.

    dx/dσ = z − x_0, which is what the network returns       Lipman et al. 2023, Esser et al. 2024

Euler's step, x + (σ_s − σ_t) · output, is DDIM's with η = 0 (Song et al. 2021, equation 12) on this path.
With ``stochastic_sampling`` all noise is drawn anew, (1−σ_s) · x̂_0 + σ_s · z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphabar.checks import check_count
from alphabar.diffusers.adapter import draw_noise, noisier
from alphabar.diffusers.drop_in import drop_in
from alphabar.diffusers.flow_levels import (
    SAME_SIGMA,
    all_levels,
    check_churn,
    checked_shift,
    flow_grid,
    flow_sigma,
    flow_sigmas,
    index_for_timestep,
    is_inverted,
    make_tables,
    precision,
    scale_noise,
    set_timesteps,
    shifted_flow,
    timesteps_of,
)
from alphabar.diffusers.grids import Grid, evaluated_twice
from alphabar.diffusers.index_scheduler import IndexScheduler
from alphabar.diffusers.sigma_space import MAX_CHURN
from alphabar.diffusers.spacings import (
    SIGMA_SPACINGS,
    Numbers,
    chosen_spacing,
    shift_of,
    stretched,
)
from alphabar.diffusers.steps import X_0, Step, flow_scale, negated
from alphabar.errors import ConfigError, ShapeError
from alphabar.kernels import lincomb, work_dtype
from alphabar.process import PARAMETERISATIONS
from alphabar.schedule import Level

__all__ = ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"]

FLOW = PARAMETERISATIONS["flow"]
TO_DATA = negated(FLOW)
"""Of networks whose time runs from noise to data, as Mochi's: ``invert_sigmas``."""


def respaced(sigma: Numbers, spacing: str | None) -> Numbers:
    """Return as many σ between the first and the last, by an option of ``SIGMA_SPACINGS``.

    Raises:
        ConfigError: exponential spacing down to 0.
        MissingExtraError: ``use_beta_sigmas`` without scipy.
    """
    if spacing is None:
        return sigma
    first, last = float(sigma[0]), float(sigma[-1])
    if spacing == "use_exponential_sigmas" and not min(first, last) > 0:
        raise ConfigError(f"{spacing} from {first:g} to {last:g}: σ must end above 0")
    return SIGMA_SPACINGS[spacing](first, last, len(sigma))


@drop_in("scheduling_flow_match_euler_discrete")
class FlowMatchEulerDiscreteScheduler(IndexScheduler):
    """Euler's method for flow matching: Stable Diffusion 3, Flux, and most pipelines since."""

    scale = staticmethod(flow_scale)
    keeps_sample_dtype = False
    refuses_indices = True
    uses_history = False
    _make_tables = make_tables
    _all_levels = all_levels
    _set_timesteps = set_timesteps
    index_for_timestep = index_for_timestep
    scale_noise = scale_noise
    sigmas = property(flow_sigmas)

    def _configure(self) -> None:
        super()._configure()
        self._parameterisation = TO_DATA if is_inverted(self) else FLOW

    def _check_options(self) -> None:
        chosen_spacing(self._options)
        shift_of(1.0, self._options["time_shift_type"])

    # --- timesteps and levels ---

    @property
    def shift(self) -> float:
        """How far σ is moved towards noise where shifting is static."""
        return self._shift

    def set_shift(self, shift: float) -> None:
        """Shift by so much from the next ``set_timesteps`` on.

        Raises:
            ConfigError: a shift that is not positive.
        """
        self._shift = checked_shift(shift=shift)

    def time_shift(self, mu: float, sigma: float, t: Any) -> Any:
        """Return t shifted by e^μ or μ, whichever ``time_shift_type`` says: s · t^σ/(s · t^σ + (1−t)^σ)."""
        shift = self._shift_by(mu)
        return shift * t**sigma / (shift * t**sigma + (1 - t) ** sigma)

    def stretch_shift_to_terminal(self, t: Any) -> Any:
        """Return t with 1 − t stretched so that the last is ``shift_terminal``."""
        return stretched(t, self._options["shift_terminal"])

    def _check_given(
        self,
        num_inference_steps: int | None = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
        **state: Any,
    ) -> None:
        lengths = {len(listed) for listed in (sigmas, timesteps) if listed is not None}
        if num_inference_steps is not None:
            lengths.add(num_inference_steps)
        if len(lengths) != 1:
            raise ConfigError(
                "give num_inference_steps, sigmas or timesteps; two of them only if they say the same number"
            )
        check_count(num_inference_steps=lengths.pop())
        if self._options["use_dynamic_shifting"] and mu is None:
            raise ConfigError("use_dynamic_shifting is set: set_timesteps needs mu, its shift")

    def _make_grid(
        self,
        schedule_sigmas: Numbers,
        num_inference_steps: int = 0,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | None = None,
        **state: float,
    ) -> Grid:
        given = timesteps if sigmas is None else sigmas
        spacing = chosen_spacing(self._options, given if self.strict else None)
        own = None if timesteps is None else np.array(timesteps, float)
        if own is not None and sigmas is None and self.strict:  # the levels of just these t
            return flow_grid(self, own / len(self), own)
        even = np.linspace(state["sigma_max"], state["sigma_min"], num_inference_steps)
        if given is not None:
            even = np.array(given, float) / (len(self) if sigmas is None else 1)
        shift = self._shift_by(mu) if self._options["use_dynamic_shifting"] else state["_shift"]
        sigma = stretched(shifted_flow(even, shift), self._options["shift_terminal"])
        sigma = respaced(sigma, spacing).astype(precision(self))
        sigma = 1 - sigma if is_inverted(self) else sigma
        if own is None or (is_inverted(self) and not self.strict):
            own = timesteps_of(self, sigma)
        return flow_grid(self, sigma.astype(float), own)

    def _shift_by(self, mu: float | None) -> float:
        return checked_shift(mu=shift_of(mu, self._options["time_shift_type"]))  # type: ignore[arg-type]

    # --- a step ---

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = math.inf,
        s_noise: float = 1.0,
        generator: Any = None,
        per_token_timesteps: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Return the sample at the next σ.

        Args:
            model_output: (B, …) what the network returned.
            timestep: one of ``timesteps``, or (B,) one for each sample.
            sample: (B, …), or (B, N, C) with ``per_token_timesteps``.
            s_churn: not used, as those that follow it.
            s_tmin: not used.
            s_tmax: not used.
            s_noise: not used.
            generator: what noise is drawn with, where ``stochastic_sampling`` is set.
            per_token_timesteps: (B, N) a t for each token. It goes to the next lower σ of the run, and the
                output is x_0 − z.
            return_dict: whether to return an output, or a tuple.
        """
        check_churn(self, s_churn)
        if per_token_timesteps is None:
            return self._take_step(model_output, timestep, sample, return_dict, generator=generator)
        if self._step_index is None:
            self._start_run(timestep)
        previous = self._step_tokens(model_output, sample, per_token_timesteps, generator)
        self._step_index += 1  # type: ignore[operator]
        return self._output(previous, previous, return_dict)

    def _step_tokens(self, output: Tensor, sample: Tensor, timesteps: Tensor, generator: Any) -> Tensor:
        if timesteps.ndim != sample.ndim - 1:
            raise ShapeError(
                f"per_token_timesteps has shape {tuple(timesteps.shape)}, sample {tuple(sample.shape)}: give "
                "(B, N) for a sample (B, N, C)"
            )
        here = timesteps.to(work_dtype(timesteps.device))[..., None] / len(self)
        levels = self.sigmas.to(here)
        there = torch.where(levels < here - SAME_SIGMA, levels, 0.0).amax(-1, keepdim=True)
        dtype = torch.promote_types(sample.dtype, torch.float32)
        if not self._options["stochastic_sampling"]:
            return lincomb((1.0, here - there), (sample, output), dtype=dtype)
        noise = draw_noise(sample, sample, generator, self._noise_dtype(output, sample))
        of_output = (1 - there) * here * (1 if self.strict else -1)  # in diffusers as if it were z − x_0
        return lincomb((1 - there, of_output, there), (sample, output, noise), dtype=dtype)

    def _make_steps(self, first: int, *options: Any) -> list[Step]:
        return [self._step_between(t, s) for t, s in pairwise(self._run.grid.levels[first:])]

    def _step_between(self, t: Level, s: Level) -> Step:
        """Return DDIM's step, or x̂_0 with fresh noise. They have an answer at σ = 0 and at σ = 1 too."""
        is_random = bool(self._options["stochastic_sampling"])
        of_eps, of_noise = (0.0, s.sigma) if is_random else (s.sigma, 0.0)
        step = Step.from_eps(t, s, of_eps, of_noise, self._parameterisation, scale=self.scale)
        return replace(step.without_x_0(), draws=is_random)

    def _noise_dtype(self, output: Tensor, sample: Tensor) -> torch.dtype:
        return torch.float32


@drop_in("scheduling_flow_match_heun_discrete")
class FlowMatchHeunDiscreteScheduler(IndexScheduler):
    """Heun's method for flow matching: two evaluations a step, but one in the last.

    x_s = x_t + (σ_s − σ_t) · ½ (output at t + output at s)
    """

    scale = staticmethod(flow_scale)
    keeps_sample_dtype = False
    refuses_indices = True
    needs_timesteps = True
    _make_tables = make_tables
    _all_levels = all_levels
    _set_timesteps = set_timesteps
    index_for_timestep = index_for_timestep
    scale_noise = scale_noise
    sigmas = property(flow_sigmas)

    def _make_grid(self, schedule_sigmas: Numbers, num_inference_steps: int = 0, **state: float) -> Grid:
        check_count(num_inference_steps=num_inference_steps)
        even = np.linspace(state["sigma_max"], state["sigma_min"], num_inference_steps)
        sigma = shifted_flow(even, state["_shift"]).astype(precision(self))
        return evaluated_twice(flow_grid(self, sigma.astype(float), timesteps_of(self, sigma)))

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = math.inf,
        s_noise: float = 1.0,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """Return the sample at the next σ, or at this one by both evaluations.

        Args:
            model_output: (B, …) what the network returned.
            timestep: one of ``timesteps``.
            sample: (B, …).
            s_churn: how much noise is added in a run before its steps, as in diffusers.
            s_tmin: the smallest σ at which it is added.
            s_tmax: the largest.
            s_noise: what that noise is multiplied by.
            generator: what it is drawn with.
            return_dict: whether to return an output, or a tuple.
        """
        check_churn(self, s_churn)
        if not s_churn:
            return self._take_step(model_output, timestep, sample, return_dict, 1.0)
        if self._step_index is None:
            self._start_run(timestep)
        sigmas, is_first = self.sigmas, self.state_in_first_order
        sigma = float(sigmas[self._step_index - (not is_first)])  # type: ignore[operator]
        is_churned = s_tmin <= sigma <= s_tmax
        factor = 1 + min(s_churn / (len(sigmas) - 1), MAX_CHURN) if is_churned else 1.0
        if factor > 1 and is_first:
            sample = noisier(sample, model_output, generator, s_noise * sigma * math.sqrt(factor**2 - 1))
        return self._take_step(model_output, timestep, sample, return_dict, factor, generator=generator)

    @property
    def state_in_first_order(self) -> bool:
        """Whether the next evaluation begins a step."""
        return ((self._step_index or 0) - self._first_index) % 2 == 0

    def _make_steps(self, first: int, *options: Any) -> list[Step]:
        (factor,) = options
        sigmas = [flow_sigma(level) for level in self._run.grid.levels[(first + 1) // 2 :]]
        pairs = [stages(t, s, factor) for t, s in pairwise(sigmas)]
        return [stage for pair in pairs for stage in pair][:-1]  # one evaluation in the last step


def stages(t: float, s: float, factor: float) -> tuple[Step, Step]:
    """Return both stages of a step between two σ; diffusers draws noise in both, and adds it in the first.

    Args:
        t: σ where the step starts and the network is evaluated.
        s: σ where it lands.
        factor: what t is multiplied by when noise is added.
    """
    length = s - factor * t
    whole, half = length / factor, length / 2
    first = Step(X_0, (1.0, whole), starts=True)
    second = (0.0, half, 0.0, 1.0, 0.0, half / factor)
    return first, Step(None, second, None, draws=factor > 1)

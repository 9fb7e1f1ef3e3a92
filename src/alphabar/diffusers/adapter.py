"""The base of all schedulers: diffusers' protocol and its state, around the core's schedule and tables.

    set_timesteps   chooses the timesteps and levels of a run
    step            looks its coefficients up, by t or by its index in the run, and adds up
    add_noise       is the core's forward process

Only in this package do diffusers' names hold (``alphas_cumprod``, ``prev_sample``, …), and only here does an
object change while it is used: the index of the next step, and what earlier steps kept. ``fork()`` gives each
request its own.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from alphabar.denoise import dynamic_threshold
from alphabar.diffusers.runs import Run, frozen
from alphabar.diffusers.steps import X_0, Step
from alphabar.errors import ConfigError, ShapeError, look_up
from alphabar.kernels import lincomb
from alphabar.process import PARAMETERISATIONS, Parameterisation
from alphabar.schedule import NoiseSchedule

__all__ = ["POWERS", "SCHEDULERS", "Adapter", "draw_noise", "noisier"]

SCHEDULERS: dict[str, type[Adapter]] = {}
"""All of them, by their names in diffusers."""

PREDICTION_TYPES = {
    **{name: PARAMETERISATIONS[name] for name in ("epsilon", "sample", "v_prediction")},
    "original_sample": PARAMETERISATIONS["sample"],
    "flow_prediction": PARAMETERISATIONS["flow"],
}
"""How a network is read, by diffusers' ``prediction_type``."""

FAMILIES = {
    "a schedule of β": ("beta_start", "beta_end", "beta_schedule", "trained_betas"),
    "flow matching": ("shift", "invert_sigmas"),
    "EDM": ("sigma_data",),
}
"""The options by which the family of a configuration is known."""

POWERS = {"linear": 1, "scaled_linear": 2}
"""Where β is this power of evenly spaced numbers, by ``beta_schedule``."""
LEARNED_VARIANCES = ("learned", "learned_range")
WIDE = (torch.float32, torch.float64)


class Adapter(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """What all schedulers share.

    Arguments, defaults and attributes are those of the scheduler of the same name in diffusers. One more:
    ``strict=True`` corrects what diffusers does wrong although finite; by default the same seeds give the
    same images. It is no part of the configuration, so that diffusers reads what is saved: pass it to
    ``from_config`` and ``from_pretrained`` again.
    """

    peer: ClassVar[Any]
    """The scheduler of the same name in diffusers."""
    output: ClassVar[Any]
    """What its ``step`` returns."""
    second_output: ClassVar[str | None]
    """The name of what it returns beside prev_sample."""
    keeps_sample_dtype: ClassVar[bool] = True
    """Whether prev_sample has at least the precision of the sample, or that of the network's output."""

    strict = False
    num_inference_steps: int | None = None
    timesteps: Tensor
    _run: Run
    """The timesteps and levels that are set, and the steps between them: shared, and never changed."""
    _configured: Any = None
    """The configuration that was read last."""

    def _initialise(self) -> None:
        """Read the configuration and make the tables; called by the constructor."""
        self._configured = None  # strict may have changed
        self._configure()
        self.schedule = self._make_schedule()
        self._make_tables()

    def _make_schedule(self) -> NoiseSchedule:
        return NoiseSchedule.from_config({**self._options, "_class_name": type(self).__name__})

    def _make_tables(self) -> None:
        """Make diffusers' tables from the schedule."""
        self.betas = (
            self.schedule.beta.float() if self.strict else _float32_beta(self._options, self.schedule)
        )
        self.alphas = 1 - self.betas
        self.alphas_cumprod = self.alphas.cumprod(0)

    def _configure(self) -> None:
        """Read the configuration where it is another than last time: pipelines mend old files so."""
        if self._internal_dict is self._configured:
            return
        self._configured = self._internal_dict
        known = inspect.signature(self.peer).parameters
        self._options = options = {name: self.config[name] for name in known if name in self.config}
        self._settings = frozen(options)
        name = options.get("prediction_type", "epsilon")
        if name == "flow_prediction" and not options.get("use_flow_sigmas"):
            raise ConfigError(
                "prediction_type is 'flow_prediction': it is read at flow matching's levels, so choose "
                "use_flow_sigmas=True, which DPM-Solver, UniPC and DEIS have"
            )
        self._parameterisation: Parameterisation = look_up(PREDICTION_TYPES, name, "prediction_type")
        self._threshold = _threshold(options)
        clips = options.get("clip_sample") and self._threshold is None
        self._limit = float(options["clip_sample_range"]) if clips else inf

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Return a scheduler of a configuration, also of another scheduler's; ``strict`` as in the class."""
        strict = kwargs.pop("strict", False)
        cls._check_family(config, kwargs)
        result = super().from_config(config, return_unused_kwargs, **kwargs)
        if strict:
            scheduler = result[0] if return_unused_kwargs else result
            scheduler.strict = True
            scheduler._initialise()
        return result

    @classmethod
    def _check_family(cls, config: Any, kwargs: dict[str, Any]) -> None:
        """Refuse the configuration of another family, of which diffusers keeps nothing but T.

        Raises:
            ConfigError: none of this family's options, and some of another's.
        """
        given = {**(config if isinstance(config, dict) else {}), **kwargs}
        known = inspect.signature(cls.peer).parameters
        options = {family: [name for name in names if name in given] for family, names in FAMILIES.items()}
        own = next((family for family, names in FAMILIES.items() if set(names) & known.keys()), None)
        lost = [name for names in options.values() for name in names]
        # EDM's are among what diffusers calls compatible with β.
        if own in (None, "EDM") or options[own] or not lost or given.get("use_flow_sigmas"):
            return
        raise ConfigError(
            f"{cls.__name__} is of {own}, and this configuration is not: it would lose {', '.join(lost)}. "
            "Take a scheduler of its family, or one that has use_flow_sigmas=True"
        )

    def _find_run(self) -> Run:
        """Return the run of the timesteps that are set."""
        raise NotImplementedError

    def fork(self) -> Any:
        """Return a scheduler with the same timesteps and tables and its own state: one for each request."""
        twin = copy.copy(self)
        twin._restart()
        return twin

    def _restart(self) -> None:
        """Forget the state of a run."""

    def scale_model_input(self, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the sample: the network takes it as it is."""
        return sample

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    def __reduce__(self) -> tuple[Any, ...]:
        # The class goes by diffusers' module (see drop_in), where pickle would find diffusers' own.
        computed = ("_threshold", "_parameterisation", "_configured", "_run")
        state = {name: value for name, value in vars(self).items() if name not in computed}
        return _unpickled, (type(self).__name__, state)

    def _compute_step(
        self,
        step: Step,
        output: Tensor,
        sample: Tensor,
        history: Sequence[Tensor] = (),
        *,
        start: Tensor | None = None,
        generator: Any = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return prev_sample, x̂_0 and what later steps use.

        Args:
            step: the coefficients.
            output: (B, …) what the network returned, or (B, 2C, …) with its answer on the variance.
            sample: (B, C, …).
            history: what earlier steps kept, newest first.
            start: the sample of the last step with ``starts``.
            generator: what noise is drawn with.
            noise: (B, C, …) standard normal, in place of drawing it.

        Raises:
            ShapeError: an output of another shape.
        """
        variance = None
        if output.shape != sample.shape:
            output, variance = self._split_variance(output, sample)
        if noise is None and step.draws:
            noise = draw_noise(sample, output, generator, self._noise_dtype(output, sample))
        dtype = sample.dtype
        is_plain = dtype in WIDE and output.dtype == dtype and (noise is None or noise.dtype == dtype)
        if not is_plain:  # work in float32 or wider, so that what later steps use is not rounded to half
            dtype = torch.promote_types(dtype, output.dtype) if self.keeps_sample_dtype else output.dtype
            wide = torch.promote_types(torch.promote_types(sample.dtype, output.dtype), torch.float32)
            sample, output = sample.to(wide), output.to(wide)
            noise, start = (None if x is None else x.to(wide) for x in (noise, start))
            history = [kept.to(wide) for kept in history]
        x_0 = output if step.x_0 is None else lincomb(step.x_0, (sample, output), limit=self._limit)
        if self._threshold is not None:
            x_0 = self._threshold(x_0)
        tensors = sample, output, noise, start, x_0, *history
        coefficients, indices = step.terms_with(variance, sample)
        previous = lincomb(coefficients, tuple([tensors[k] for k in indices]))  # type: ignore[misc]
        kept = None
        if step.kept is not None:
            kept = x_0 if step.kept == X_0 else lincomb(step.kept, (sample, x_0))
        return previous if is_plain else previous.to(dtype), x_0, kept

    @property
    def _changes_x_0(self) -> bool:
        """Whether x̂_0 is clipped or thresholded."""
        return self._threshold is not None or self._limit != inf

    def _noise_dtype(self, output: Tensor, sample: Tensor) -> torch.dtype:
        """Return the precision in which diffusers draws noise."""
        return output.dtype

    def _split_variance(self, output: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        learned = self._options.get("variance_type") in LEARNED_VARIANCES
        if learned and output.shape == (len(sample), 2 * sample.shape[1], *sample.shape[2:]):
            first, second = output.chunk(2, dim=1)
            return first, second
        raise ShapeError(
            f"model_output has shape {tuple(output.shape)}, sample {tuple(sample.shape)}: make them equal, "
            "or choose variance_type='learned_range' for a network with twice the channels"
        )

    def _output(self, previous: Tensor, second: Tensor, return_dict: bool) -> Any:
        if not return_dict:
            return (previous,) if self.second_output is None else (previous, second)
        result = self.output.__new__(self.output)
        # Filled without the checks of its constructor, which would take a fifth of the step.
        result.__dict__["prev_sample"] = previous
        set_item(result, "prev_sample", previous)
        if self.second_output is not None:
            result.__dict__[self.second_output] = second
            set_item(result, self.second_output, second)
        return result


def _float32_beta(options: dict[str, Any], schedule: NoiseSchedule) -> Tensor:
    """Return β with diffusers' rounding to float32."""
    if options.get("rescale_betas_zero_snr"):
        options = {**options, "rescale_betas_zero_snr": False}
        rescaled: Tensor = rescale_zero_terminal_snr(
            _float32_beta(options, NoiseSchedule.from_config({**options, "_class_name": "DDPMScheduler"}))
        )
        return rescaled
    power = POWERS.get(options["beta_schedule"])
    if power is None or options["trained_betas"] is not None:
        return schedule.beta.float()
    start, end = (options[name] ** (1 / power) for name in ("beta_start", "beta_end"))
    return torch.linspace(start, end, options["num_train_timesteps"]) ** power


def _threshold(options: dict[str, Any]) -> Callable[[Tensor], Tensor] | None:
    """Return the dynamic thresholding of x̂_0, or None."""
    if not options.get("thresholding"):
        return None
    quantile, largest = options["dynamic_thresholding_ratio"], options["sample_max_value"]
    return lambda x_0: dynamic_threshold(x_0, quantile, largest)


set_item: Callable[[Any, str, Tensor], None] = OrderedDict.__setitem__


def draw_noise(sample: Tensor, output: Tensor, generator: Any, dtype: torch.dtype) -> Tensor:
    """Draw noise as diffusers does, also from a list of generators or one on another device."""
    if generator is None:
        return torch.randn(sample.shape, dtype=dtype, device=output.device)
    drawn: Tensor = randn_tensor(sample.shape, generator=generator, device=output.device, dtype=dtype)
    return drawn


def noisier(sample: Tensor, output: Tensor, generator: Any, scale: float) -> Tensor:
    """Return the sample plus so much noise, drawn as diffusers does in the output's precision."""
    noise = draw_noise(output, output, generator, output.dtype)
    wide = torch.promote_types(sample.dtype, torch.float32)
    return lincomb((1.0, scale), (sample.to(wide), noise.to(wide)))


def _unpickled(name: str, state: dict[str, Any]) -> Adapter:
    scheduler: Adapter = object.__new__(SCHEDULERS[name])
    scheduler.__dict__.update(state)
    scheduler._configure()
    scheduler._run = scheduler._find_run()
    return scheduler

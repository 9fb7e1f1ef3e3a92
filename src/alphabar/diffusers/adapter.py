"""The one adapter: diffusers' protocol, with its state, around the core's schedule and tables.

    set_timesteps   lays the grid
    step            looks its row up, by t or by how many steps were taken, and adds up
    add_noise       is the core's forward process

Only here do diffusers' names hold (``alphas_cumprod``, ``prev_sample``, …), and only here does an object
change while it is used: a run's place, and what its steps keep. ``fork()`` gives each request its own.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields
from math import inf
from typing import Any, ClassVar, TypeVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from alphabar.denoise import dynamic_threshold
from alphabar.diffusers.steps import Ready, takes_kernels
from alphabar.errors import ConfigError, ShapeError, look_up
from alphabar.kernels import lincomb
from alphabar.process import PARAMETERISATIONS, Parameterisation
from alphabar.schedule import Level, NoiseSchedule

__all__ = ["SCHEDULERS", "Adapter", "in_place_of", "normal"]

Kind = TypeVar("Kind", bound="type[Adapter]")

LEARNED = ("learned", "learned_range")
SCHEDULERS: dict[str, type[Adapter]] = {}
"""All of them, by their names in diffusers."""


class Adapter(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """What all schedulers share.

    Arguments, defaults and attributes are those of the scheduler of the same name in diffusers. One more:
    ``strict=True`` corrects what diffusers does wrong although finite; by default the same seeds give the
    same images. It is no part of the configuration, so that diffusers reads what is saved: pass it to
    ``from_config`` and ``from_pretrained`` again.
    """

    peer: ClassVar[Any]
    output: ClassVar[Any]
    shows_x_0: ClassVar[bool]
    keeps_dtype: ClassVar[bool] = True
    """Whether prev_sample is as wide as the sample, or as narrow as the network's output."""

    strict = False
    num_inference_steps: int | None = None
    timesteps: Tensor
    _ready: dict[Hashable, Ready]

    def _begin(self) -> None:
        """Make the tables."""
        self._configure()
        self.schedule = self._schedule()
        self.betas = self.schedule.beta.float() if self.strict else _rounded(self._options, self.schedule)
        self.alphas = 1 - self.betas
        self.alphas_cumprod = self.alphas.cumprod(0)
        # Steps go by diffusers' rounding of ᾱ: at small t it shows in the fifth digit of an image.
        exact = self.schedule.log_alpha_bar_at(torch.arange(len(self.schedule)))
        rounded = self.alphas_cumprod[: len(self.schedule)].double()
        logs = torch.where(rounded.eq(1) | self.strict, exact, rounded.log())
        self._levels = [Level(t, log) for t, log in enumerate(logs.tolist())]

    def _schedule(self) -> NoiseSchedule:
        return NoiseSchedule.from_config(self._options)

    def _configure(self) -> None:
        """Read the options. ``config`` may change later: pipelines mend old files so."""
        known = inspect.signature(self.peer).parameters
        self._options = options = {name: self.config[name] for name in known if name in self.config}
        name = options.get("prediction_type", "epsilon")
        if name == "flow_prediction" and not options.get("use_flow_sigmas"):
            raise ConfigError(
                "prediction_type is 'flow_prediction': it is read at flow matching's levels, so choose "
                "use_flow_sigmas=True, which DPM-Solver, UniPC and DEIS have"
            )
        self._reading: Parameterisation = look_up(READINGS, name, "prediction_type")
        self._threshold = _threshold(options)
        clips = options.get("clip_sample") and self._threshold is None
        self._limit = float(options["clip_sample_range"]) if clips else inf

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Make one from a configuration, also from another scheduler's; ``strict=True`` as in the class."""
        strict = kwargs.pop("strict", False)
        made = super().from_config(config, return_unused_kwargs, **kwargs)
        (made[0] if return_unused_kwargs else made).strict = strict
        return made

    def fork(self) -> Any:
        """Return a scheduler with the same timesteps and tables, and its own run: one for each request."""
        twin = copy.copy(self)
        twin._restart()
        return twin

    def _restart(self) -> None:
        """Forget what a run leaves behind."""

    def scale_model_input(self, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the sample: the network takes it as it is."""
        return sample

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    def __reduce__(self) -> tuple[Any, ...]:
        # The class goes by diffusers' module (see in_place_of), where pickle would find diffusers' own.
        state = {name: value for name, value in vars(self).items() if name not in ("_threshold", "_reading")}
        return _rebuilt, (type(self).__name__, state)

    def _made(
        self,
        ready: Ready,
        output: Tensor,
        sample: Tensor,
        history: Sequence[Tensor] = (),
        *,
        begun: Tensor | None = None,
        generator: Any = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return prev_sample, x̂_0 and what later steps remember."""
        variance = None
        if output.shape != sample.shape:
            output, variance = self._halves(output, sample)
        if noise is None and ready.draws:
            noise = normal(sample, output, generator, self._drawn(output))
        dtype = sample.dtype
        plain = dtype in WIDE and output.dtype == dtype and (noise is None or noise.dtype == dtype)
        if begun is None:
            begun = sample
        if not plain:
            dtype = torch.promote_types(dtype, output.dtype) if self.keeps_dtype else output.dtype
            wide = torch.promote_types(dtype, torch.float32)
            sample, output = sample.to(wide), output.to(wide)
            begun, noise = begun.to(wide), None if noise is None else noise.to(wide)
        add_up, quick = ready.add_up, takes_kernels(sample, output)
        x_0 = add_up(ready.read, (sample, output), quick, self._limit)
        if self._threshold is not None:
            x_0 = self._threshold(x_0)
        z = sample if noise is None else noise  # where there is none, its coefficient is 0
        previous = add_up(ready.advance, (sample, output, z, begun, x_0, *history), quick)
        if ready.row is not None:
            previous = lincomb((1.0, ready.row.z_scale(variance)), (previous, z))
        kept = None if ready.keeps is None else add_up(ready.keeps, (sample, x_0), quick)
        return previous if plain else previous.to(dtype), x_0, kept

    def _drawn(self, output: Tensor) -> torch.dtype:
        """The precision in which diffusers draws noise."""
        return output.dtype

    def _halves(self, output: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        learned = self._options.get("variance_type") in LEARNED
        if learned and output.shape == (len(sample), 2 * sample.shape[1], *sample.shape[2:]):
            first, second = output.chunk(2, dim=1)
            return first, second
        raise ShapeError(
            f"model_output has shape {tuple(output.shape)}, sample {tuple(sample.shape)}: make them equal, "
            "or choose variance_type='learned_range' for a network with twice the channels"
        )

    def _result(self, previous: Tensor, x_0: Tensor, return_dict: bool) -> Any:
        if not return_dict:
            return (previous, x_0) if self.shows_x_0 else (previous,)
        made = self.output.__new__(self.output)
        # Filled without the checks of its constructor, which would take a fifth of the step.
        made.__dict__["prev_sample"] = previous
        set_item(made, "prev_sample", previous)
        if self.shows_x_0:
            made.__dict__["pred_original_sample"] = x_0
            set_item(made, "pred_original_sample", x_0)
        return made


def _rounded(options: dict[str, Any], schedule: NoiseSchedule) -> Tensor:
    """β with diffusers' rounding to float32."""
    power = {"linear": 1, "scaled_linear": 2}.get(options["beta_schedule"])
    if power is None or options["trained_betas"] is not None or options.get("rescale_betas_zero_snr"):
        return schedule.beta.float()
    start, end = (options[name] ** (1 / power) for name in ("beta_start", "beta_end"))
    return torch.linspace(start, end, options["num_train_timesteps"]) ** power


FLOW = Parameterisation(
    "flow_prediction", lambda a, s: (-1.0, 1.0), lambda a, s: (1.0, -s), lambda a, s: (1.0, a)
)
"""z − x_0 at x_t = (1 − σ) · x_0 + σ · z."""
READINGS = {**PARAMETERISATIONS, "original_sample": PARAMETERISATIONS["sample"], "flow_prediction": FLOW}
WIDE = (torch.float32, torch.float64)


def _threshold(options: dict[str, Any]) -> Callable[[Tensor], Tensor] | None:
    """What is done to x̂_0 where it is bounded by its own quantile."""
    if not options.get("thresholding"):
        return None
    quantile, largest = options["dynamic_thresholding_ratio"], options["sample_max_value"]
    return lambda x_0: dynamic_threshold(x_0, quantile, largest)


set_item: Callable[[Any, str, Tensor], None] = OrderedDict.__setitem__


def normal(sample: Tensor, output: Tensor, generator: Any, dtype: torch.dtype) -> Tensor:
    """Draw noise as diffusers does; its own function also takes a list of generators, and one elsewhere."""
    if generator is None:
        return torch.randn(sample.shape, dtype=dtype, device=output.device)
    drawn: Tensor = randn_tensor(sample.shape, generator=generator, device=output.device, dtype=dtype)
    return drawn


def in_place_of(peer: Any) -> Callable[[Kind], Kind]:
    """Give a class the constructor, the ``set_timesteps`` and the place of one of diffusers' schedulers.

    Its module is diffusers' too: pipelines write module and name of their parts into ``model_index.json``,
    and diffusers alone must be able to open what they save.
    """

    def decorate(kind: Kind) -> Kind:
        kind.peer, kind.order = peer, peer.order
        for name in ("_compatibles", "ignore_for_config", "_deprecated_kwargs"):
            setattr(kind, name, getattr(peer, name))
        module = inspect.getmodule(peer)
        kind.output = getattr(module, kind.__name__.replace("Inverse", "") + "Output", SchedulerOutput)
        kind.shows_x_0 = len(fields(kind.output)) == 2
        kind.__init__ = _constructor(peer)  # type: ignore[method-assign]
        kind.set_timesteps = _like(peer.set_timesteps, kind._set_timesteps)
        kind.__module__ = peer.__module__
        SCHEDULERS[kind.__name__] = kind
        return kind

    return decorate


def _constructor(peer: Any) -> Any:
    theirs = inspect.signature(peer.__init__)

    def __init__(self: Adapter, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        self._begin()

    __init__.__signature__ = theirs  # type: ignore[attr-defined]
    registered = register_to_config(__init__)
    strict = inspect.Parameter("strict", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool)
    parameters = list(theirs.parameters.values())
    at = len(parameters) - (parameters[-1].kind is inspect.Parameter.VAR_KEYWORD)

    @functools.wraps(peer.__init__)
    def checked(self: Adapter, *args: Any, strict: bool = False, **kwargs: Any) -> None:
        try:
            theirs.bind(self, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        self.strict = strict
        registered(self, *args, **kwargs)

    checked.__signature__ = theirs.replace(parameters=[*parameters[:at], strict, *parameters[at:]])  # type: ignore[attr-defined]
    return checked


def _like(theirs: Any, ours: Any) -> Any:
    signature = inspect.signature(theirs)

    @functools.wraps(theirs)
    def method(self: Adapter, *args: Any, **kwargs: Any) -> None:
        given = dict(signature.bind(self, *args, **kwargs).arguments)
        del given["self"]
        ours(self, **given)

    return method


def _rebuilt(name: str, state: dict[str, Any]) -> Adapter:
    made: Adapter = object.__new__(SCHEDULERS[name])
    made.__dict__.update(state)
    made._configure()
    return made

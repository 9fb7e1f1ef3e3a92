"""The settings of a training run, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from alphabar.checks import check_count, check_levels
from alphabar.denoise.conditions import split_kind
from alphabar.denoise.factories import check_name
from alphabar.denoise.nets import NETS, check_width
from alphabar.denoise.precision import PRECISIONS
from alphabar.errors import ConfigError, look_up
from alphabar.process import PARAMETERISATIONS
from alphabar.schedule import FAMILIES
from alphabar.training.augment import check_augmentations
from alphabar.training.loss import LOSSES
from alphabar.training.objective import VARIANCES
from alphabar.training.optimizers import OPTIMIZERS
from alphabar.training.statistics import SCALINGS
from alphabar.training.timesteps import TIMESTEPS

__all__ = ["AUTO", "GIVEN", "TOKEN", "UNET", "TrainConfig"]

IMAGE, TOKEN = "image", "token"  # what has a t of its own
AUTO = "auto"  # a network or an optimizer that is chosen by what is known
UNET = "unet"  # diffusers' UNet2DModel
UPDATES = 2000  # of a run that no setting ends
LIMIT = 10**9  # of one that time ends

GIVEN = "(given)"
"""In the record of a run: what was handed to ``train`` as it is, and has no name."""


def _one_of(choices: Mapping[str, Any], default: str, **metadata: Any) -> Any:
    """Return a field whose value must be a name in a table, which ``metadata["choices"]`` holds."""
    return field(default=default, metadata={"choices": choices, **metadata})


def _may_change(default: Any) -> Any:
    """Return a field that a run which is resumed may set anew."""
    return field(default=default, metadata={"may_change": True})


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run.

    A field whose value is a name in a table holds that table as ``metadata["choices"]``; one that may change
    when a run is resumed says so by ``metadata["may_change"]``.
    """

    data: str = _may_change("digits")
    """What to train on: "digits", a folder of images or arrays, .parquet or .tar files, files of arrays
    (.npy, .npz or .safetensors), or a Hugging Face dataset."""
    size: int | None = None
    """Height and width of the images; by default as they come."""
    class_conditional: bool | None = None
    """Whether the network is told the labels of the data; by default networks of this library are, where the
    data have at least two classes of ten images each."""
    label_dropout: float = 0.1
    """Share of labels that are withheld, so that the network also learns to do without."""
    conditions: tuple[str, ...] = ()
    """Columns of the data that the network is told, NAME or NAME:KIND: number, vector, embedding or image."""
    condition_dropout: float = 0.1
    """Share of images that all conditions are withheld from; each of several also alone in such a share."""
    flip: bool = False
    """Mirror every other image or field (C, H, W), where left and right mean the same."""
    crop: float = 1.0
    """Show a random part of each image or field (C, H, W), of at least this share of its sides."""
    jitter: float = 0.0
    """Change brightness, contrast and saturation of each image, not of arrays, by up to this share."""
    skip_broken: bool = False
    """Leave out images that cannot be read, and count them, instead of stopping."""
    scaling: str = _one_of(SCALINGS, "variance")
    """What each channel of arrays is scaled to: variance 1, a range of −1 … 1, or as it is."""
    image_column: str | None = None
    """Of a table, the column of the images, or the name of an array; by default "image", or the first one."""
    label_column: str | None = None
    """Of a table, the column of the labels; by default "label", or the first one of class labels."""

    schedule: str = _one_of(FAMILIES, "cosine")
    """Noise schedule."""
    diffusion_steps: int = 1000
    """T, the number of noise levels."""
    prediction: str = _one_of(PARAMETERISATIONS, "v_prediction")
    """What the network returns."""
    variance: str = _one_of(VARIANCES, "fixed")
    """Whether the network returns the variance of ancestral sampling too."""
    loss: str = _one_of(LOSSES, "simple")
    """How the error is weighted over the noise levels."""
    timesteps: str = _one_of(TIMESTEPS, "logit_normal")
    """How t is drawn: logit_normal visits middle levels most, logit_normal_low, for images of few pixels,
    those with less noise; uniform and stratified all alike."""
    timesteps_per: str = _one_of(dict.fromkeys((IMAGE, TOKEN)), IMAGE)
    """What has a t of its own: each image, or each token, which is a patch of dit, a place of a sequence or a
    frame of a video."""

    network: str = AUTO
    """What is trained: one that "alphabar info --networks" lists, or what builds a network of your own,
    "package.module:factory"; auto chooses by the shape of the data."""
    width: int | None = None
    """The one number that scales a network: channels of its first level, or of its hidden layers."""
    channels: tuple[int, ...] = ()
    """Channels of each level of "unet"; by default as suits the image and, on a CPU, ``seconds``."""
    steps: int | None = _may_change(None)
    """Updates of the network; by default 2000, or with ``seconds`` as many as fit."""
    seconds: float | None = _may_change(None)
    """Stop by the clock as well; the learning rate then falls with whichever is nearer its end."""
    batch_size: int = 64
    """Images an update, over all processes together."""
    accumulate: int = _may_change(1)
    """Parts in which each process takes its share of the batch, one after the other, to need less memory."""
    optimizer: str = _one_of({AUTO: None, **OPTIMIZERS}, AUTO)
    """What corrects the parameters; auto is muon, but adamw for vectors and where parameters are sharded."""
    learning_rate: float = _may_change(2e-3)
    """Highest rate of the optimizer; it rises during the warm-up and falls to 0 along a cosine."""
    warmup: int = _may_change(100)
    """Updates until the rate is at its highest."""
    clip_norm: float = _may_change(1.0)
    """Largest norm of the gradient."""
    ema_decay: float = 0.995
    """Decay of the averaged parameters, which are the result."""
    averages: tuple[str, ...] = ()
    """Further averages to keep, each a decay such as "0.9999", or "power(0.05)"."""
    precision: str = _one_of(PRECISIONS, "auto", may_change=True)
    """Of the network's arithmetic; auto is bfloat16 where the processor has it."""
    compile: bool = _may_change(False)
    """Compile the network: pays on a GPU in long runs."""
    seed: int = 0
    """Of every random choice."""

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TrainConfig:
        """Return the settings that a file keeps, as JSON values.

        Raises:
            ConfigError: a setting that is not known, or a value of another kind.
        """
        if not isinstance(record, dict):
            raise ConfigError(f"the settings are {record!r:.60}: expected an object")
        defaults: dict[str, Any] = {each.name: each.default for each in fields(TrainConfig)}
        kinds: dict[type, Any] = {float: (int, float), tuple: list}
        for name, value in record.items():
            if name not in defaults:
                raise ConfigError(f"there is no setting {name}")
            kind = type(defaults[name])
            if defaults[name] is not None and not isinstance(value, kinds.get(kind, kind)):
                raise ConfigError(f"{name} is {value!r:.60}: expected a value such as {defaults[name]!r}")
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        return cls(**settings)

    @property
    def factory_name(self) -> str | None:
        """The name of what builds a network of one's own; None where ``network`` says something else."""
        return None if self.network in (AUTO, UNET, GIVEN, *NETS) else self.network

    @property
    def last_step(self) -> int:
        """The update after which a run ends, if its time is not over before."""
        return self.steps or (UPDATES if self.seconds is None else LIMIT)

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, before anything is loaded.

        Raises:
            ConfigError, UnknownNameError: the first one that is wrong, and what would be right.
        """
        steps = {} if self.steps is None else {"steps": self.steps}
        check_count(**steps, batch_size=self.batch_size, accumulate=self.accumulate)
        check_levels(self.diffusion_steps)
        for each in fields(TrainConfig):
            if "choices" in each.metadata:
                look_up(each.metadata["choices"], getattr(self, each.name), each.name)
        self._check_network()
        if self.class_conditional not in (None, True, False):
            raise ConfigError(
                f"class_conditional is {self.class_conditional!r}: expected True, False or None"
            )
        for name in ("learning_rate", "clip_norm", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value!r}: it must be positive")
        for name in ("label_dropout", "condition_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)!r}: it must lie in [0, 1]")
        names = [split_kind(text)[0] for text in self.conditions]
        if len(names) != len(set(names)):
            raise ConfigError(f"conditions are {', '.join(names)}: give each once")
        check_augmentations(self)
        if self.timesteps_per == TOKEN and self.variance != "fixed":
            raise ConfigError(
                f"variance is {self.variance}, whose bound is of one t an image, and timesteps_per is token"
            )
        if not self.warmup >= 0:
            raise ConfigError(f"warmup is {self.warmup!r}: it must be at least 0")

    def _check_network(self) -> None:
        if self.factory_name is not None:
            check_network_name(self.factory_name)
            if self.width is not None:
                raise ConfigError(
                    f"width scales the networks of alphabar, and network is {self.network}: leave it out"
                )
        if self.channels and self.network not in (AUTO, UNET, GIVEN):
            raise ConfigError(
                f"channels are those of the U-Net, and network is {self.network}: leave them out"
            )
        if self.width is not None:
            check_width(self.width)
            if self.channels:
                raise ConfigError(f"width is {self.width} and channels are {self.channels}: give one of them")


def check_network_name(name: str) -> None:
    """Require what may be the name of a factory, ``package.module:factory``.

    Raises:
        ConfigError: anything else; a word alone is answered with the networks that there are.
    """
    if isinstance(name, str) and name.isidentifier():
        known = ", ".join((AUTO, UNET, *NETS))
        raise ConfigError(
            f"network is {name!r}: choose one of {known}, or name a factory, package.module:factory"
        )
    check_name(name)

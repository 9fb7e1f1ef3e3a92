"""The conditions of a training and of samples: which columns they are, and the statistics of their codes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from alphabar.denoise.conditions import Condition, check_values, kind_of, split_kind
from alphabar.errors import ConfigError, ShapeError
from alphabar.training.config import TrainConfig
from alphabar.training.data import ImageData
from alphabar.training.encoded import decoded
from alphabar.training.sources import read_conditions

__all__ = ["load_conditions", "measured"]


def measured(config: TrainConfig, data: ImageData) -> dict[str, Condition]:
    """Return the conditions that the settings name, measured over the data.

    Raises:
        ConfigError: data without such a condition, one of another kind, one that is always the same, or an
            image of another size than the data.
        ShapeError: another number of values than there are images.
        DataError: values that are missing, NaN or infinite.
    """
    return {name: _measured(name, kind, data) for name, kind in map(split_kind, config.conditions)}


def _measured(name: str, kind: str | None, data: ImageData) -> Condition:
    if name not in data.conditions:
        there = ", ".join(data.conditions)
        remedy = f"choose among {there}" if there else "give them as columns, or leave conditions out"
        raise ConfigError(f"there is no condition {name} in the data: {remedy}")
    values = data.conditions[name]
    if not hasattr(values, "decode"):  # which images have that are read when they are needed
        check_values(name, values)
    if values.shape[0] != len(data):
        raise ShapeError(
            f"condition {name} has {values.shape[0]} values for {len(data)} images: give one each"
        )
    shape = tuple(values.shape[1:])
    kind = kind_of(name, shape, kind)
    if isinstance(values, Tensor):
        condition = Condition.measured(name, values, kind)
    else:
        condition = Condition.pixels(shape)
    if condition.kind == "image" and condition.shape[1:] != data.shape[1:]:
        remedy = "give both the same sides" if data.shape[1:] else "give vectors a vector"
        raise ConfigError(
            f"condition {name} has images of {condition.shape}, the data are of {data.shape}: {remedy}"
        )
    return condition


def load_conditions(source: str, conditions: Mapping[str, Condition]) -> dict[str, Tensor]:
    """Return those of some conditions that a file or another source of data has as columns, (n, …) each.

    Args:
        source: what :func:`alphabar.training.load_data` takes, such as an .npz file.
        conditions: what they are; pictures are given their size.

    Raises:
        DataError: a source that cannot be read.
        ConfigError: a column of images for what is no image.
        MissingExtraError: a package that reads it is not installed.
    """
    there = read_conditions(source, tuple(conditions))
    for name, column in there.items():
        if not isinstance(column, Tensor) and len(conditions[name].shape) != 3:
            raise ConfigError(f"condition {name} is a column of images in {source}: give {conditions[name]}")
    return {
        name: column if isinstance(column, Tensor) else decoded(column, conditions[name].shape)
        for name, column in there.items()
    }

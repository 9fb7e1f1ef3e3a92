"""Conditions: numbers, vectors, embeddings and images that a network is told beside the label.

    code(c) = ((c − mean) / std, 1)      of the training data;      (0, 0) where it is withheld

Mean and standard deviation are those of the number, of each entry of a vector, of each of the E features of
an embedding (S, E), or of each channel of an image. A network takes the code of each condition as a keyword
of its name: one more entry, feature or channel than the condition has, which tells a withheld one from one
that is average. The same zeros stand for "no condition" in classifier-free guidance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphabar.errors import CheckpointError, ConfigError, DataError, DtypeError, ShapeError, look_up

__all__ = [
    "KINDS",
    "Condition",
    "check_condition_name",
    "codes",
    "described",
    "needs",
    "rows_of",
    "split_kind",
]

MOST = 2**20  # numbers of the statistics of one condition, and of a side of its shape
TAKEN = frozenset({"self", "x", "x_t", "t", "time", "sample", "timestep", "class_labels", "return_dict"})


class Kind(NamedTuple):
    """What conditions of a kind look like."""

    dimensions: tuple[int, ...]
    """How many one value may have."""
    axis: int
    """Of these, along which it has its statistics and the code is one longer."""
    says: str


KINDS = {
    "number": Kind((0,), 0, "a number"),
    "vector": Kind((1,), 0, "a vector"),
    "embedding": Kind((2,), 1, "an embedding"),
    "image": Kind((2, 3, 4), 0, "an image"),
}
"""The kinds of conditions by name; embeddings are (S, E), images (C, …) with the sides of the data."""

BY_DIMENSIONS = ("number", "vector", "embedding", "image")


@dataclass(frozen=True)
class Condition:
    """What one condition is, and the statistics of its values in the training data.

    >>> condition = Condition.measured("width", torch.tensor([1.0, 3.0]))
    >>> condition.code(torch.tensor([2.0, 4.0]))
    tensor([[0., 1.],
            [2., 1.]])

    Args:
        kind: a name in ``KINDS``.
        shape: of one value: (), (k,), (S, E) or (C, …).
        mean: for each entry, feature or channel; one for a number.
        std: likewise; 1 where the data have one value only.
        least: likewise, of the training data.
        most: likewise.
    """

    kind: str
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    least: tuple[float, ...]
    most: tuple[float, ...]

    @classmethod
    def measured(cls, name: str, values: Tensor, kind: str | None = None) -> Condition:
        """Return the condition that (N, …) values make; by default of the kind that their dimensions say.

        Raises:
            ConfigError: of another kind than asked for, or one and the same number everywhere.
            DataError: a value that is missing, NaN or infinite, or too large to be squared, with its row.
        """
        shape = tuple(values.shape[1:])
        given = kind_of(name, shape, kind)
        axis = KINDS[given].axis
        if values.dtype == torch.uint8 and given == "image":
            return cls.pixels(shape)
        check_finite(name, values)
        spread = (values.double().movedim(1 + axis, -1) if shape else values.double()[:, None]).flatten(0, -2)
        std, mean = torch.std_mean(spread, 0, correction=0)
        if not std.isfinite().all():
            raise DataError(f"condition {name} has values up to {float(spread.abs().max()):g}: scale them")
        if not std.any():
            raise ConfigError(f"condition {name} is the same in all {len(values)} rows: leave it out")
        least, most = spread.aminmax(dim=0)
        std = torch.where(std == 0, 1.0, std)
        return cls(given, shape, *(tuple(each.tolist()) for each in (mean, std, least, most)))

    @classmethod
    def pixels(cls, shape: tuple[int, ...]) -> Condition:
        """Return the condition that uint8 images (C, …) are: scaled to [−1, 1], as all images."""
        half, none = (127.5,) * shape[0], (0.0,) * shape[0]
        return cls("image", shape, half, half, none, (255.0,) * shape[0])

    @classmethod
    def described(cls, record: Any) -> Condition:
        """Return what a file keeps as JSON values.

        Raises:
            ValueError: what no condition can be.
        """
        kind, shape = KINDS.get(record["kind"]), record["shape"]
        if kind is None or not isinstance(shape, list) or len(shape) not in kind.dimensions:
            raise ValueError(f"a condition of kind {record['kind']!r:.40} and shape {shape!s:.60}")
        if not all(type(n) is int and 0 < n <= MOST for n in shape):
            raise ValueError(f"shape {shape!s:.60}")
        count = shape[kind.axis] if shape else 1
        for name in ("mean", "std", "least", "most"):
            numbers = record[name]
            if not isinstance(numbers, list) or len(numbers) != count or not all(map(_is_finite, numbers)):
                raise ValueError(f"{name} {numbers!s:.60}: expected {count} finite numbers")
        if min(record["std"]) <= 0:
            raise ValueError(f"std {record['std']!s:.60}: expected positive numbers")
        numbers = (tuple(record[name]) for name in ("mean", "std", "least", "most"))
        return cls(record["kind"], tuple(shape), *numbers)

    def record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {name: list(each) if isinstance(each, tuple) else each for name, each in asdict(self).items()}

    @property
    def code_shape(self) -> tuple[int, ...]:
        """The shape of the code of one value."""
        shape, axis = list(self.shape or (1,)), KINDS[self.kind].axis
        shape[axis] += 1
        return tuple(shape)

    def code(self, values: Tensor) -> Tensor:
        """Return what the network takes: float32 (B, …) of :attr:`code_shape`, standardised, and 1 beside it.

        Args:
            values: (B, …), in the units of the training data.
        """
        values = values.double() if self.shape else values.double()[:, None]
        axis = 1 + KINDS[self.kind].axis
        aligned = (-1, *[1] * (values.ndim - 1 - axis))
        mean, std = (values.new_tensor(each).reshape(aligned) for each in (self.mean, self.std))
        standard = ((values - mean) / std).float()
        return torch.cat([standard, torch.ones_like(standard.narrow(axis, 0, 1))], axis)

    def __str__(self) -> str:
        form = f" {'×'.join(map(str, self.shape))}" if self.shape else ""
        seen = f"{min(self.least):.4g} … {max(self.most):.4g} in its training data"
        return f"{KINDS[self.kind].says}{form}, {seen}"


def kind_of(name: str, shape: tuple[int, ...], kind: str | None) -> str:
    """Return the kind of values of a shape: what is asked for, or what their dimensions say.

    Raises:
        ConfigError: a kind whose values have other dimensions.
        UnknownNameError: another kind.
    """
    asked = kind or BY_DIMENSIONS[min(len(shape), 3)]
    dimensions, _, says = look_up(KINDS, asked, "kind of condition")
    if len(shape) not in dimensions:
        others = " or ".join(other for other, each in KINDS.items() if len(shape) in each.dimensions)
        axes = " or ".join(map(str, dimensions))
        raise ConfigError(
            f"condition {name} has values of shape {shape}, and {says} has {axes} axes: "
            + (f"ask for {name}:{others}" if others else "give values of at most four")
        )
    return asked


def check_values(name: str, values: Tensor) -> None:
    """Require (N, …) real values, N > 0.

    Raises:
        DtypeError: no tensor, or complex numbers.
        DataError: no values.
    """
    if not isinstance(values, Tensor) or values.is_complex():
        found = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise DtypeError(f"condition {name} is {found}: give a tensor of real numbers")
    if not values.ndim or not values.numel():
        raise DataError(
            f"condition {name} has shape {tuple(values.shape)}, which holds no row: give (N, …) values"
        )


def check_finite(name: str, values: Tensor) -> None:
    """Require (N, …) values that are real and finite.

    Raises:
        DtypeError: no tensor, or complex numbers.
        DataError: none, or with the first row that is not finite.
    """
    check_values(name, values)
    wrong = ~values.reshape(len(values), -1).isfinite().all(1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise DataError(
            f"condition {name} is missing, NaN or infinite in row {row} of {len(values)}: give a number"
        )


def needs(conditions: Mapping[str, Condition]) -> str:
    """Return what a network needs, for messages."""
    return "; ".join(f"{name} ({condition})" for name, condition in conditions.items()) or "no condition"


def codes(conditions: Mapping[str, Condition], given: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Return what a network takes of given conditions, each (B, …) in the units of its training data.

    Raises:
        CheckpointError: conditions that are missing, or that the network does not know.
        ShapeError: values of another shape.
        DataError, DtypeError: values that are no finite numbers.
    """
    given = given or {}
    missing, unknown = conditions.keys() - given.keys(), given.keys() - conditions.keys()
    if missing or unknown:
        wrong = f"{', '.join(sorted(missing))} missing" if missing else f"no condition {sorted(unknown)[0]}"
        raise CheckpointError(f"{wrong}: this network needs {needs(conditions)}")
    for name, condition in conditions.items():
        check_finite(name, given[name])
        if tuple(given[name].shape[1:]) != condition.shape or not given[name].ndim:
            found = tuple(given[name].shape)
            raise ShapeError(f"condition {name} has shape {found}: give (B, …), each {condition}")
    return {name: condition.code(given[name]) for name, condition in conditions.items()}


def rows_of(
    given: Mapping[str, Tensor], rows: range, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Return the conditions of samples by their numbers, which go through the given rows in turn."""
    numbers = torch.arange(rows.start, rows.stop)
    return {name: values[numbers % len(values)].to(device) for name, values in given.items()}


def described(description: Mapping[str, Any]) -> dict[str, Condition]:
    """Return the conditions that the description of a run keeps.

    Raises:
        CheckpointError: what no conditions can be.
    """
    found = description.get("conditions", {})
    try:
        for name in found:
            check_condition_name(name)
        return {name: Condition.described(record) for name, record in found.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"conditions are {found!s:.60}: {error}") from None


def split_kind(text: str) -> tuple[str, str | None]:
    """Return name and kind of a condition that is written as ``name`` or ``name:kind``.

    Raises:
        ConfigError: a name that no network could take as a keyword.
        UnknownNameError: another kind.
    """
    name, _, kind = text.partition(":")
    check_condition_name(name)
    if kind:
        look_up(KINDS, kind, "kind of condition")
    return name, kind or None


def check_condition_name(name: str) -> None:
    """Require a name that can be the keyword of a condition.

    Raises:
        ConfigError: another.
    """
    if not name.isidentifier() or name in TAKEN:
        why = "is an argument of every network" if name in TAKEN else "is no word of letters, digits and _"
        raise ConfigError(f"condition {name!r:.60} {why}: rename the column")


def _is_finite(number: Any) -> bool:
    return type(number) in (int, float) and math.isfinite(number)

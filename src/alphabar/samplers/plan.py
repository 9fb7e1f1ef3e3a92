r"""A plan: the whole of a sampler, as a table of coefficients. One row is one evaluation of the network.

    x_s = a · x_t + b_0 · x̂_0 + b_1 · x̂_0' + … + c · z

x̂_0 is the denoiser's estimate at x_t, x̂_0' that of the row before, z fresh noise; a, b, c are numbers that
depend on ᾱ alone. A plan never sees data, so it can be read, printed, compared, and tested against exact
answers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import lru_cache, wraps
from itertools import chain, pairwise
from typing import Any, Protocol, TypeVar

from torch import Tensor

from alphabar.errors import ConfigError, NoAnswerError, ShapeError
from alphabar.kernels import Address, lincomb, work_dtype
from alphabar.schedule import Level, NoiseSchedule, Spacing, checked_spacing, stops

__all__ = ["X_0", "Form", "Plan", "Row", "Sampler", "Stepwise", "cached_plan"]

Form = list[float]
"""Coefficients: of the state, then of the estimates, newest first."""

X_0 = (0.0, 1.0)
"""What a row keeps of x_t and x̂_0 when it keeps x̂_0 itself."""

NUMBERS, PAIRS = ("t", "s", "x", "z"), ("log_variance", "keeps")  # what a row's fields are, in JSON
LARGEST = sys.float_info.max

PLANS = 32  # kept by each kind of sampler: a plan of 1000 rows takes half a megabyte


@dataclass(frozen=True)
class Row:
    """One evaluation of the network and the step that follows it."""

    t: float
    """Where the network is evaluated, 0 … T−1."""
    s: float
    """Where the step lands, −1 for clean data; above t where it ends with a jump back up, as in RePaint."""
    x: float
    """a: of x_t."""
    history: tuple[float, ...]
    """b: of x̂_0, and of what the rows before this one kept, newest first."""
    z: float = 0.0
    """c: of fresh standard normal noise."""
    log_variance: tuple[float, float] | None = None
    """The log-variance where a network that learns it answers −1 and +1; between them it interpolates."""
    keeps: tuple[float, float] = X_0
    """What later rows remember of this one: so much of x_t and of x̂_0."""

    @classmethod
    def of(cls, t: Level, s: Level, form: Form, z: float = 0.0) -> Row:
        """Return the row from t to s with the coefficients of a form, and z of fresh noise."""
        return cls(t.t, s.t, form[0], tuple(form[1:]), z)

    def advance(
        self,
        x_t: Tensor,
        history: Sequence[Tensor],
        noise: Tensor | Address | None = None,
        variance: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Return x_s.

        Args:
            x_t: (B, …) the state at t.
            history: x̂_0 and what the rows before :meth:`kept`, newest first, each like x_t.
            noise: standard normal, like x_t, or the address of it; may be None where the row adds none.
            variance: the network's answer on the variance, like x_t, where ``log_variance`` is set.
            out: where to write, like x_t; may be x_t.

        Raises:
            ShapeError: ``log_variance`` is set and the network gave no answer on the variance.
            ConfigError: fewer estimates than the row needs, or no noise where it adds some.
        """
        if len(history) < len(self.history) or (self.is_random and noise is None):
            raise ConfigError(f"the row at t = {self.t} needs {len(self.history)} estimates and its noise")
        tensors = x_t, *history[: len(self.history)]
        if noise is None or not self.is_random:
            return lincomb((self.x, *self.history), tensors, out=out)
        coefficients = self.x, *self.history, self.z_scale(variance)
        if isinstance(noise, Tensor):
            return lincomb(coefficients, (*tensors, noise), out=out)
        return lincomb(coefficients, tensors, noise=noise, out=out)

    def kept(self, x_t: Tensor, x_0: Tensor) -> Tensor:
        """Return what later rows remember, in memory of its own: x̂_0, or ε̂ = (x_t − √ᾱ_t · x̂_0)/√(1−ᾱ_t)."""
        return x_0.clone() if self.keeps == X_0 else lincomb(self.keeps, (x_t, x_0))

    @property
    def is_random(self) -> bool:
        """Whether the step adds noise."""
        return self.z != 0 or self.log_variance is not None

    def z_scale(self, variance: Tensor | None) -> float | Tensor:
        """Return c, or what the network's answer on the variance makes of it.

        Raises:
            ShapeError: ``log_variance`` is set and there is no answer.
        """
        if self.log_variance is None:
            return self.z
        if variance is None:
            raise ShapeError(
                "this sampler takes its variance from the network, and the network returned none: give it "
                "twice the channels of x_t, or choose variance='fixed_small'"
            )
        low, high = self.log_variance
        position = (variance.to(work_dtype(variance.device)) + 1) / 2
        return (0.5 * (low + (high - low) * position)).exp()


@dataclass(frozen=True)
class Plan:
    """The rows of a sampler on a schedule, from the noisy end down.

    Raises:
        ConfigError: no rows, rows that do not join, or a history longer than what has been estimated.
        NoAnswerError: a coefficient that is not finite.
    """

    rows: tuple[Row, ...]

    is_inversion: bool = field(init=False, repr=False, compare=False)
    """Whether it leads from data to noise: then each row evaluates the network at the t where it lands."""
    timesteps: tuple[float, ...] = field(init=False, repr=False, compare=False)
    """Where the network is evaluated, in order."""
    memory: int = field(init=False, repr=False, compare=False)
    """How many estimates the rows need at most, the newest included."""

    def __post_init__(self) -> None:
        if not self.rows:
            raise ConfigError("a plan needs at least one row")
        vars(self).update(
            is_inversion=all(row.t == row.s for row in self.rows),
            timesteps=tuple(row.t for row in self.rows),
            memory=max(len(row.history) for row in self.rows),
        )
        self._check_joined()
        self._check_history()
        if not all(map(math.isfinite, _numbers(self.rows))):
            row = next(row for row in self.rows if not all(map(math.isfinite, _numbers([row]))))
            raise NoAnswerError(
                f"the step from t = {row.t} to {row.s} has coefficients that are not finite: {row}"
            )

    def _check_joined(self) -> None:
        for row, following in pairwise(self.rows):
            if not (row.s < following.t if self.is_inversion else row.s == following.t):
                raise ConfigError(
                    f"a row lands at t = {row.s}, the next one starts at {following.t}: they must join"
                )

    def _check_history(self) -> None:
        for i, row in enumerate(self.rows[: self.memory]):
            if len(row.history) > i + 1:
                raise ConfigError(
                    f"row {i} remembers {len(row.history)} estimates, but only {i + 1} were made"
                )

    def plan(self, schedule: NoiseSchedule, t_start: float | None = None) -> Plan:
        """Return itself: a plan is a sampler whose rows are settled.

        Raises:
            ConfigError: another ``t_start`` than that of its first row.
        """
        if t_start not in (None, self.rows[0].t):
            raise ConfigError(f"t_start is {t_start}, but this plan starts at t = {self.rows[0].t}")
        return self

    @property
    def columns(self) -> dict[str, tuple[float, ...]]:
        """The table by columns: t, s, x_t, x_0, what is remembered (x_0' or eps', …), z."""
        kept = "x_0" if all(row.keeps == X_0 for row in self.rows) else "eps"
        names = ["t", "s", "x_t", "x_0", *(kept + "'" * k for k in range(1, self.memory)), "z"]
        rows = [
            (row.t, row.s, row.x, *row.history, *[0.0] * (self.memory - len(row.history)), row.z)
            for row in self.rows
        ]
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        learned = [row.log_variance or (-math.inf, -math.inf) for row in self.rows]
        bounds = zip(("log_variance_low", "log_variance_high"), zip(*learned, strict=True), strict=True)
        return columns | (dict(bounds) if any(row.log_variance for row in self.rows) else {})

    def to_json(self) -> list[dict[str, Any]]:
        """Return the rows as JSON values, without what is as by default; :meth:`from_json` reads them back.

        >>> Plan((Row(9, -1, 0.0, (1.0,)),)).to_json()
        [{'t': 9, 's': -1, 'x': 0.0, 'history': (1.0,)}]
        """
        defaults = {each.name: each.default for each in fields(Row)}
        return [
            {name: value for name, value in asdict(row).items() if value != defaults[name]}
            for row in self.rows
        ]

    @classmethod
    def from_json(cls, rows: Any) -> Plan:
        """Return the plan that :meth:`to_json` described, the same to the last bit.

        Raises:
            ConfigError: anything else, with the row that is wrong; or rows that make no plan.
        """
        if not isinstance(rows, list | tuple):
            raise ConfigError(f"rows is a {type(rows).__name__}: it must be a list, one entry a row")
        return cls(tuple(_read_row(i, row) for i, row in enumerate(rows)))

    def __str__(self) -> str:
        cells = [[name, *(f"{number:.6g}" for number in column)] for name, column in self.columns.items()]
        widths = [max(map(len, column)) for column in cells]
        lines = zip(*cells, strict=True)
        return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)

    def __len__(self) -> int:
        return len(self.rows)


def _numbers(rows: Iterable[Row]) -> Iterable[float]:
    """Every coefficient of the rows."""
    return chain.from_iterable(
        (row.x, row.z, *row.history, *row.keeps, *(row.log_variance or ())) for row in rows
    )


def _read_row(i: int, given: Any) -> Row:
    """Return a row from its JSON values.

    Raises:
        ConfigError: names that are missing or not known, or a value that is no finite number.
    """
    needed = {each.name for each in fields(Row) if each.default is MISSING}
    known = {each.name for each in fields(Row)}
    if not isinstance(given, dict) or not needed <= given.keys() <= known:
        names = sorted(given) if isinstance(given, dict) else type(given).__name__
        raise ConfigError(f"row {i} has {names}: it must have {sorted(needed)}, and may have {sorted(known)}")
    return Row(**{name: _read_value(i, name, value) for name, value in given.items()})


def _read_value(i: int, name: str, value: Any) -> Any:
    if name in NUMBERS and _is_finite(value):
        return value
    is_list = name not in NUMBERS and isinstance(value, list | tuple) and all(map(_is_finite, value))
    if is_list and (name not in PAIRS or len(value) == 2):
        return tuple(value)
    form = "a finite number" if name in NUMBERS else f"a list of {'two ' * (name in PAIRS)}finite numbers"
    raise ConfigError(f"row {i} has {name} = {value!s:.60}: it must be {form}")


def _is_finite(value: Any) -> bool:
    """Whether it is a number, of a size that float64 has."""
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST


class Sampler(Protocol):
    """What makes a plan: a small frozen object that holds a sampler's settings."""

    def plan(self, schedule: NoiseSchedule, t_start: float | None = None) -> Plan:
        """Return the rows on this schedule, entered at ``t_start`` (by default at the noisy end).

        Raises:
            TimestepError, ConfigError: steps, a spacing or a ``t_start`` that do not fit the schedule.
        """


Settings = TypeVar("Settings")
Build = Callable[[Settings, NoiseSchedule, "float | None"], Plan]


def cached_plan(build: Build[Settings]) -> Callable[..., Plan]:
    """Return a method ``plan`` that builds each plan once, by settings, schedule and ``t_start``."""
    held: Any = lru_cache(maxsize=PLANS, typed=True)(build)

    @wraps(build)
    def plan(self: Settings, schedule: NoiseSchedule, t_start: float | None = None) -> Plan:
        try:
            hash((self, t_start))
        except TypeError:  # a spacing that cannot be hashed, or a t_start that is refused below
            return build(self, schedule, t_start)
        found: Plan = held(self, schedule, t_start)
        return found

    plan.cache_clear = held.cache_clear  # type: ignore[attr-defined]  # as functools' own caches have it
    return plan


class Stepwise:
    """A sampler whose rows follow from the levels it stops at: a frozen dataclass that defines ``rows``.

    Raises:
        ConfigError: steps that are no whole number of at least 1, or at odds with the length of a list.
        UnknownNameError: a spacing that is not in ``SPACINGS``.
        TimestepError: a list of t that is empty or not in descending order.
    """

    steps: int | None
    spacing: Spacing

    def __post_init__(self) -> None:
        # A list may change later: a tuple stays, and can be the key of a cache.
        object.__setattr__(self, "spacing", checked_spacing(self.steps, self.spacing))

    @cached_plan
    def plan(self, schedule: NoiseSchedule, t_start: float | None = None) -> Plan:
        """Return the rows on this schedule; arguments and errors as in :class:`Sampler`."""
        return Plan(tuple(self.rows(stops(schedule, self.steps, self.spacing, t_start))))

    def rows(self, levels: Sequence[Level]) -> Iterable[Row]:
        """Return the table on given levels, each noisier than the next: what :meth:`plan` is made of."""
        raise NotImplementedError

"""Which t a sampler visits: table 2 of Lin et al. 2023, for any T and any number of steps."""

from fractions import Fraction
from itertools import pairwise

import pytest
from cases import check_error
from hypothesis import given
from hypothesis import strategies as st

from alphabar import DDIM, DDPM, NoiseSchedule
from alphabar.errors import ConfigError, TimestepError, UnknownNameError
from alphabar.schedule.spacing import visited

COSINE = NoiseSchedule.cosine()
WHOLE = ("leading", "trailing", "linspace")
lengths_and_steps = st.integers(1, 1500).flatmap(
    lambda total: st.tuples(st.just(total), st.integers(1, total))
)


@pytest.mark.parametrize(
    ("spacing", "timesteps"),
    [
        ("leading", (900, 800, 700, 600, 500, 400, 300, 200, 100, 0)),
        ("linspace", (999, 888, 777, 666, 555, 444, 333, 222, 111, 0)),
        ("trailing", (999, 899, 799, 699, 599, 499, 399, 299, 199, 99)),
    ],
)
def test_ten_steps_of_a_thousand_are_those_of_the_paper(spacing, timesteps):
    assert visited(COSINE, 10, spacing) == timesteps


@pytest.mark.parametrize("spacing", WHOLE)
@given(lengths_and_steps)
def test_every_step_has_its_own_t_and_every_t_is_in_range(spacing, case):
    total, steps = case
    timesteps = visited(NoiseSchedule.exponential(total), steps, spacing)
    assert len(timesteps) == steps
    assert all(type(t) is int and 0 <= t < total for t in timesteps)
    assert all(t > s for t, s in pairwise(timesteps))


@given(lengths_and_steps)
def test_the_spacings_are_their_formulas_to_half_a_step(case):
    total, steps = case
    schedule = NoiseSchedule.exponential(total)
    # Exact fractions; where a t falls on a half, the rounding of T/n may send it either way.
    half = Fraction(1, 2) + Fraction(1, 10**9)
    for i, t in enumerate(visited(schedule, steps, "trailing")):
        assert abs(t - (total - i * Fraction(total, steps) - 1)) <= half
    for i, t in enumerate(reversed(visited(schedule, steps, "leading"))):
        assert t == i * (total // steps)
    if steps > 1:
        for i, t in enumerate(reversed(visited(schedule, steps, "linspace"))):
            assert abs(t - i * Fraction(total - 1, steps - 1)) <= half


@given(lengths_and_steps)
def test_the_spacings_start_and_end_where_they_say(case):
    total, steps = case
    schedule = NoiseSchedule.exponential(total)
    assert visited(schedule, steps, "leading")[-1] == 0
    assert visited(schedule, steps, "trailing")[0] == total - 1
    assert visited(schedule, steps, "linspace")[0] == total - 1
    assert steps == 1 or visited(schedule, steps, "linspace")[-1] == 0


@pytest.mark.parametrize("spacing", WHOLE)
def test_no_number_of_steps_means_all_t(spacing):
    assert visited(COSINE, None, spacing) == tuple(range(999, -1, -1))


def test_a_list_is_taken_as_it_is():
    assert visited(COSINE, None, [900, 500, 3]) == (900, 500, 3)
    assert visited(COSINE, 2, (900, 0)) == (900, 0)
    assert DDPM(spacing=[900, 500, 3]).plan(COSINE).timesteps == (900, 500, 3)


@pytest.mark.parametrize("sampler", [DDPM, DDIM])
@pytest.mark.parametrize("spacing", [*WHOLE, [980, 700, 699, 0]], ids=str)
def test_a_plan_steps_from_each_t_to_the_next_and_ends_clean(sampler, spacing):
    rows = sampler(4, spacing=spacing).plan(COSINE).rows
    assert tuple(row.t for row in rows) == visited(COSINE, 4, spacing)
    assert [row.s for row in rows] == [*(row.t for row in rows[1:]), -1]


@pytest.mark.parametrize("sampler", [DDPM, DDIM])
def test_entered_in_the_middle_a_plan_goes_on_with_its_own_t(sampler):
    def entered_at(t):
        return sampler(4).plan(COSINE, t).timesteps

    assert entered_at(None) == (999, 749, 499, 249)
    assert entered_at(600) == (600, 499, 249)
    assert entered_at(499) == (499, 249)
    assert entered_at(249) == (249,)
    assert entered_at(0) == (0,)


BAD = {
    "more steps than T": (1001, "trailing", TimestepError, "1001 steps", "T = 1000", "at most one step"),
    "no steps": (0, "trailing", ConfigError, "steps is 0", "at least 1"),
    "negative steps": (-5, "leading", ConfigError, "steps is -5", "at least 1"),
    "steps of 2.5": (2.5, "linspace", ConfigError, "steps is 2.5", "whole number"),
    "steps of True": (True, "linspace", ConfigError, "steps is True", "whole number"),
    "unknown": (
        5,
        "trailling",
        UnknownNameError,
        "spacing 'trailling'",
        "'leading', 'linspace', ",
        "'trailing'",
    ),
    "a t of T": (None, [1000, 5], TimestepError, "(1000, 5)", "0 … 999"),
    "a t of −1": (None, [5, -1], TimestepError, "(5, -1)", "at least 0"),
    "a word for t": (None, [5, "0"], TimestepError, "(5, '0')", "at least 0"),
    "nan for t": (None, [5, float("nan")], TimestepError, "(5, nan)", "at least 0"),
    "rising": (None, [5, 9], TimestepError, "(5, 9)", "descending"),
    "twice": (None, [5, 5], TimestepError, "(5, 5)", "each once"),
    "an empty list": (None, [], TimestepError, "()", "at least one"),
    "steps at odds": (3, [5, 0], ConfigError, "steps is 3", "2 t are given"),
}


@pytest.mark.parametrize("sampler", [DDPM, DDIM])
@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_a_bad_spacing_is_named_with_its_value_and_the_remedy(sampler, case):
    steps, spacing, *expected = case
    check_error(lambda: sampler(steps, spacing=spacing).plan(COSINE), *expected)

"""Schedules that cannot be: each is named with its value and the remedy."""

import math

import pytest
from cases import check_error

from alphabar import NoiseSchedule
from alphabar.errors import ConfigError, ScheduleError, TimestepError, UnknownNameError

NAN, INF = math.nan, math.inf
BAD = {
    "zero": (lambda: NoiseSchedule.from_beta([0.1, 0]), ScheduleError, "beta[1] is 0", "(0, 1)"),
    "negative": (lambda: NoiseSchedule.from_beta([-0.5]), ScheduleError, "beta[0] is -0.5", "(0, 1)"),
    "above one": (lambda: NoiseSchedule.from_beta([0.1, 1.5]), ScheduleError, "beta[1] is 1.5", "(0, 1)"),
    "one before the end": (
        lambda: NoiseSchedule.from_beta([1.0, 0.1]),
        ScheduleError,
        "beta[0] is 1",
        "last",
    ),
    "nan": (lambda: NoiseSchedule.from_beta([0.1, NAN]), ScheduleError, "beta[1] is nan", "finite"),
    "infinite": (lambda: NoiseSchedule.from_beta([INF]), ScheduleError, "beta[0] is inf", "finite"),
    "empty": (lambda: NoiseSchedule.from_beta([]), ScheduleError, "shape (0,)", "at least one number"),
    "a table": (lambda: NoiseSchedule.from_beta([[0.1]]), ScheduleError, "shape (1, 1)", "list"),
    "ragged": (lambda: NoiseSchedule.from_beta([[0.1], []]), ScheduleError, "[[0.1], []]", "list"),
    "a number": (lambda: NoiseSchedule.from_beta(0.1), ScheduleError, "shape ()", "list"),
    "a word": (lambda: NoiseSchedule.from_beta("linear"), ScheduleError, "'linear'", "list"),
    "rising ᾱ": (lambda: NoiseSchedule.from_alpha_bar([0.5, 0.6]), ScheduleError, "0.6 after 0.5", "fall"),
    "level ᾱ": (lambda: NoiseSchedule.from_alpha_bar([0.5, 0.5]), ScheduleError, "0.5 after 0.5", "fall"),
    "ᾱ of one": (lambda: NoiseSchedule.from_alpha_bar([1.0]), ScheduleError, "alpha_bar[0]", "below 1"),
    "ᾱ below zero": (lambda: NoiseSchedule.from_alpha_bar([0.5, -0.1]), ScheduleError, "-0.1", "reach 0"),
    "ᾱ zero twice": (
        lambda: NoiseSchedule.from_alpha_bar([0.5, 0, 0]),
        ScheduleError,
        "alpha_bar[2]",
        "last",
    ),
    "nan ᾱ": (lambda: NoiseSchedule.from_alpha_bar([NAN]), ScheduleError, "alpha_bar[0] is nan", "finite"),
    "T = 0": (lambda: NoiseSchedule.linear(0), ConfigError, "steps is 0", "at least 1"),
    "T < 0": (lambda: NoiseSchedule.cosine(-3), ConfigError, "steps is -3", "at least 1"),
    "T = 2.5": (lambda: NoiseSchedule.laplace(2.5), ConfigError, "steps is 2.5", "whole number"),
    "T = 0, rescaled": (lambda: NoiseSchedule.linear(0, rescale_to_steps=True), ConfigError, "steps is 0"),
    "T = 0, config": (
        lambda: NoiseSchedule.from_config({"num_train_timesteps": 0}),
        ConfigError,
        "steps is 0",
        "at least 1",
    ),
    "end of 5": (lambda: NoiseSchedule.linear(beta_end=5), ScheduleError, "beta_end is 5", "(0, 1)"),
    "start of −1": (
        lambda: NoiseSchedule.sigmoid(beta_start=-1),
        ScheduleError,
        "beta_start is -1",
        "(0, 1)",
    ),
    "nan end": (
        lambda: NoiseSchedule.scaled_linear(beta_end=NAN),
        ScheduleError,
        "beta_end is nan",
        "(0, 1)",
    ),
    "too few to rescale": (
        lambda: NoiseSchedule.linear(10, rescale_to_steps=True),
        ScheduleError,
        "beta_end is 2",
        "10 steps are too few",
    ),
    "unknown family": (
        lambda: NoiseSchedule.from_config({"beta_schedule": "cosin"}),
        UnknownNameError,
        "unknown beta_schedule 'cosin'",
        "'laplace', 'linear', 'scaled_linear', 'sigmoid', 'squaredcos_cap_v2'",
    ),
    "zero SNR of one step": (
        lambda: NoiseSchedule.from_beta([0.5]).zero_terminal_snr(),
        ScheduleError,
        "has 1",
        "at least 2 steps",
    ),
    "text for a number": (lambda: NoiseSchedule.linear(beta_end="1"), ScheduleError, "'1'", "a number"),
    "respaced by text": (lambda: NoiseSchedule.cosine().respaced("ab"), TimestepError, "'a'", "whole t"),
    "respaced to none": (
        lambda: NoiseSchedule.cosine().respaced([]),
        TimestepError,
        "[]",
        "at least one whole t",
    ),
    "respaced twice": (lambda: NoiseSchedule.cosine().respaced([5, 5]), TimestepError, "[5, 5]", "once"),
    "respaced too far": (lambda: NoiseSchedule.cosine().respaced([1000]), TimestepError, "1000", "0 … 999"),
    "t below": (lambda: NoiseSchedule.cosine().log_alpha_bar_at(-1), TimestepError, "t = -1", "0 … 999"),
    "t above": (lambda: NoiseSchedule.cosine().log_alpha_bar_at(1000), TimestepError, "t = 1000", "0 … 999"),
    "t of 2.5": (
        lambda: NoiseSchedule.cosine().log_alpha_bar_at(2.5),
        TimestepError,
        "2.5",
        "pass an integer",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_with_its_value_and_the_remedy(case):
    check_error(*case)

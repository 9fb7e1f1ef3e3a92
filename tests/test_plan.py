"""Plans as values: what they print, what they equal, what they refuse, and that nothing in them moves."""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import check_error, normals

from alphabar import DDIM, DDPM, Denoiser, NoiseSchedule, Plan, Row
from alphabar.errors import ConfigError, NoAnswerError, TimestepError
from alphabar.samplers import LMS, PNDM, REGISTRY, DPMSolver, UniPC, sample

LINEAR = NoiseSchedule.linear()
SAMPLERS = {name: entry.with_evaluations(6) for name, entry in REGISTRY.items()} | {
    "DDPM learned_range": DDPM(6, "learned_range"),
    "DDIM inverse": DDIM(6, inverse=True),
    "DPM-Solver++ 3S": DPMSolver(6, order=3, multistep=False),
    "DPM-Solver++ SDE": DPMSolver(6, sde=True),
    "UniPC 3": UniPC(6, order=3),
    "PNDM Runge–Kutta": PNDM(6, runge_kutta=True),
}
every_sampler = pytest.mark.parametrize("name", SAMPLERS)


@every_sampler
def test_two_plans_are_equal_when_their_numbers_are(name):
    plan = SAMPLERS[name].plan(LINEAR)
    assert plan == SAMPLERS[name].plan(NoiseSchedule.linear())
    assert hash(plan) == hash(SAMPLERS[name].plan(NoiseSchedule.linear()))
    first, *others = plan.rows
    nudged = dataclasses.replace(first, x=math.nextafter(first.x, 2))
    assert plan != Plan((nudged, *others))
    assert plan != SAMPLERS[name].plan(NoiseSchedule.cosine())


@every_sampler
def test_the_table_by_columns_holds_every_number_of_the_rows(name):
    plan = SAMPLERS[name].plan(LINEAR)
    columns = plan.columns
    for place, row in enumerate(plan.rows):
        numbers = {column: values[place] for column, values in columns.items()}
        assert [numbers[column] for column in ("t", "s", "x_t", "z")] == [row.t, row.s, row.x, row.z]
        earlier = [number for column, number in numbers.items() if column.startswith(("x_0", "eps"))]
        assert tuple(earlier[: len(row.history)]) == row.history
        assert not any(earlier[len(row.history) :])
        if row.log_variance is not None:
            assert (numbers["log_variance_low"], numbers["log_variance_high"]) == row.log_variance


def test_a_plan_prints_as_a_table():
    printed = str(Plan((Row(9, 4.5, 0.5, (0.25,)), Row(4.5, -1, 0.0, (1.5, -0.5), 0.125))))
    assert printed == "\n".join([
        "  t    s  x_t   x_0  x_0'      z",
        "  9  4.5  0.5  0.25     0      0",
        "4.5   -1    0   1.5  -0.5  0.125",
    ])  # fmt: skip


def test_the_table_says_what_is_remembered():
    assert list(DPMSolver(4).plan(LINEAR).columns) == ["t", "s", "x_t", "x_0", "x_0'", "z"]
    assert list(LMS(4).plan(LINEAR).columns) == ["t", "s", "x_t", "x_0", "eps'", "eps''", "eps'''", "z"]
    assert list(DDPM(4, "learned").plan(LINEAR).columns)[-2:] == ["log_variance_low", "log_variance_high"]


@every_sampler
def test_neither_samplers_nor_plans_nor_rows_can_be_changed(name):
    plan = SAMPLERS[name].plan(LINEAR)
    for thing, field in ((SAMPLERS[name], "steps"), (plan, "rows"), (plan.rows[0], "x")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, field, None)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "heun", "DPM-Solver++ SDE", "unipc", "PNDM Runge–Kutta"])
def test_one_sampler_serves_eight_threads(name):
    sampler = SAMPLERS[name]
    denoiser = Denoiser(lambda x_t, t: torch.tanh(x_t + t[0] / 1000), NoiseSchedule.linear(), "v_prediction")

    def one(seed):
        return sample(denoiser, (1, 1, 2, 2), sampler, seed=seed, progress=False)

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(one, range(8)))
    for seed, alone in enumerate(map(one, range(8))):
        assert torch.equal(together[seed], alone)


@every_sampler
def test_a_plan_is_built_once_for_each_schedule_and_t_start(name):
    sampler = SAMPLERS[name]
    plan = sampler.plan(LINEAR)
    assert dataclasses.replace(sampler).plan(NoiseSchedule.linear()) is plan
    assert sampler.plan(NoiseSchedule.cosine()) is not plan
    assert sampler.plan(LINEAR, 900) is sampler.plan(LINEAR, 900)
    assert sampler.plan(LINEAR, 900) is not plan


def test_a_spacing_that_cannot_be_hashed_makes_plans_all_the_same():
    class Late(list):
        def __call__(self, schedule, steps):
            return self

    sampler = DDIM(2, spacing=Late([500, 3]))
    assert sampler.plan(LINEAR) == DDIM(spacing=[500, 3]).plan(LINEAR)
    assert sampler.plan(LINEAR) is not sampler.plan(LINEAR)


def test_a_list_that_changes_later_changes_no_sampler():
    timesteps = [500, 3]
    sampler = DDIM(spacing=timesteps)
    timesteps.append(0)
    assert sampler.plan(LINEAR).timesteps == (500, 3)
    assert sampler == DDIM(spacing=(500, 3))


def test_t_start_of_true_is_refused_also_where_a_plan_from_1_is_held():
    assert DDIM(6).plan(LINEAR, 1).timesteps == (1,)
    check_error(lambda: DDIM(6).plan(LINEAR, True), TimestepError, "t_start is True")


@every_sampler
def test_rows_join_from_noise_to_data(name):
    plan = SAMPLERS[name].plan(LINEAR)
    assert plan.is_inversion == (name == "DDIM inverse")
    first, last = plan.rows[0], plan.rows[-1]
    if plan.is_inversion:
        assert (first.t, last.s) == (166, 999)
    else:
        assert (first.t, last.s) == (999, -1)


def row(t, s, *history, **fields):
    return Row(t, s, 0.5, history or (0.5,), **fields)


REFUSED = {
    "no rows": ((), ConfigError, "at least one row"),
    "a gap": ((row(9, 5), row(4, -1)), ConfigError, "lands at t = 5", "starts at 4"),
    "up and down": ((row(5, 5), row(9, 9), row(3, 3)), ConfigError, "must join"),
    "too much history": ((row(9, 5, 0.5, 0.5),), ConfigError, "remembers 2 estimates", "only 1"),
    "NaN": ((row(9, 5, math.nan),), NoAnswerError, "t = 9 to 5", "not finite"),
    "infinite memory": ((row(9, 5, keeps=(math.inf, 0.0)),), NoAnswerError, "not finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_make_no_plan_are_refused(name):
    rows, error, *fragments = REFUSED[name]
    check_error(lambda: Plan(rows), error, *fragments)


def test_what_a_row_keeps_is_x_0_or_eps():
    x_t, x_0 = normals(3, seed=1), normals(3, seed=2)
    kept = row(9, 5).kept(x_t, x_0)
    assert torch.equal(kept, x_0)
    assert kept.data_ptr() != x_0.data_ptr()  # the denoiser may write over its answer
    a, s = float(LINEAR.signal_scale[600]), float(LINEAR.noise_scale[600])
    eps = LMS(spacing=[600]).plan(LINEAR).rows[0].kept(x_t, x_0)
    torch.testing.assert_close(a * x_0 + s * eps, x_t, rtol=1e-14, atol=1e-14)

"""Tables fitted to one denoiser: the parametrisation against the tables it starts from, its gradient against
differences, what the descent reaches on exact problems, and what it refuses."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from cases import check_error, normals

from alphabar import (
    DDIM,
    ClassifierFree,
    Clipped,
    Denoiser,
    DPMSolver,
    Estimate,
    Euler,
    GaussianMixture,
    Heun,
    NoiseSchedule,
    fit,
    sample,
)
from alphabar.errors import ConfigError, DtypeError, NoAnswerError, ShapeError
from alphabar.samplers import FREEDOMS, Row, end_points, free_table, hand_made, ranked
from alphabar.samplers.exact import Distance
from alphabar.samplers.free_table import FreeTable, chain, in_x_0
from alphabar.samplers.plan import Plan
from alphabar.schedule import CLEAN, levels_at
from alphabar.schedule.levels import log_alpha_bar_between

COSINE, LINEAR = NoiseSchedule.cosine(), NoiseSchedule.linear()
MIXTURE = GaussianMixture(0.7 * normals(4, 3, seed=3), torch.full((4,), 0.25, dtype=torch.float64))
DOUBLE = torch.float64
QUICK = {"updates": 30, "batches": 2, "held_out": 2, "dtype": DOUBLE, "progress": False}
FALLING = {
    label: plan
    for label, plan in hand_made(COSINE, 5).items()
    if list(plan.timesteps) == sorted(set(plan.timesteps), reverse=True)
}


@dataclass(frozen=True)
class Quadratic:
    """x̂_0 = (.3 + .1 λ + .03 λ²) x_t + .2 x_t³/(1 + x_t²): a central difference in λ is exact."""

    schedule: NoiseSchedule

    def __call__(self, x_t, t):
        log_alpha_bar = log_alpha_bar_between(self.schedule, t)
        level = (log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))) / 2
        return Estimate((0.3 + 0.1 * level + 0.03 * level**2) * x_t + 0.2 * x_t**3 / (1 + x_t**2))


def end(denoiser, plan, x_t):
    return sample(denoiser, x_t.shape, plan, x_t=x_t, dtype=DOUBLE, progress=False)


def moved(table, seed=0, scale=0.3):
    """Random values of what is free; the first shift is at least 0, as in the descent."""
    generator = torch.Generator().manual_seed(seed)
    p = table.parameters()
    with torch.no_grad():
        for numbers in p.values():
            if numbers.requires_grad:
                numbers.add_(torch.randn(numbers.shape, generator=generator, dtype=DOUBLE), alpha=scale)
        p["shift"][0].abs_()
    return p


@pytest.mark.parametrize("schedule", [COSINE, LINEAR.zero_terminal_snr()], ids=["cosine", "zero SNR"])
def test_rows_over_all_estimates_are_the_rows_they_were_made_of(schedule):
    denoiser, x_t = MIXTURE.denoiser(schedule), normals(6, 3, seed=1)
    for label, plan in hand_made(schedule, 5).items():
        a, b = in_x_0(plan)
        rows = [
            Row(row.t, row.s, float(a[i]), tuple(b[i, : i + 1].tolist())) for i, row in enumerate(plan.rows)
        ]
        expected = end(denoiser, plan, x_t)
        torch.testing.assert_close(
            end(denoiser, Plan(tuple(rows)), x_t), expected, rtol=1e-9, atol=1e-9, msg=label
        )


def test_every_candidate_is_one_table_of_at_most_so_many_evaluations():
    tables = hand_made(COSINE, 6)
    assert len(set(tables.values())) == len(tables) > 20
    assert max(map(len, tables.values())) == 6
    assert "Fitted" in tables and "Fitted" not in hand_made(COSINE, 4)
    assert all(not row.is_random for plan in tables.values() for row in plan.rows)


@pytest.mark.parametrize("label", ["UniPC 3, trailing", "DEIS 4 to the end, trailing", "Fitted"])
def test_at_zero_the_free_table_is_the_one_it_starts_from(label):
    start = FALLING[label]
    table = FreeTable.around(COSINE, start)
    shown, a, b = table.numbers(table.parameters())
    expected_a, expected_b = in_x_0(start)
    torch.testing.assert_close(a, expected_a, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(b, expected_b, rtol=1e-12, atol=1e-12)
    levels = levels_at(COSINE, start.timesteps)
    torch.testing.assert_close(shown, torch.tensor([level.half_log_snr for level in levels], dtype=DOUBLE))
    assert table.plan(table.parameters()).timesteps == pytest.approx(start.timesteps, rel=1e-5)


def test_a_start_whose_last_step_is_none_gets_one_that_can_grow():
    start = DPMSolver(5, spacing="log_snr").plan(COSINE)
    assert start.timesteps[-1] == 0
    table = FreeTable.around(COSINE, start)
    assert 0 < table.plan(table.parameters()).timesteps[-1] < 1


@pytest.mark.parametrize("schedule", [COSINE, LINEAR.zero_terminal_snr()], ids=["cosine", "zero SNR"])
@pytest.mark.parametrize("seed", range(3))
def test_wherever_it_is_moved_to_t_falls_within_the_schedule(schedule, seed):
    table = FreeTable.around(schedule, Euler(6).plan(schedule))
    plan = table.plan(moved(table, seed, scale=2.0))
    assert list(plan.timesteps) == sorted(plan.timesteps, reverse=True)
    assert plan.timesteps[-1] >= 0 and plan.timesteps[0] <= len(schedule) - 1
    assert [len(row.history) for row in plan.rows] == [1, 2, 3, 4, 5, 6]


def test_without_the_freedom_of_the_sum_a_row_is_exact_where_the_estimate_is_constant_and_there_is_no_noise():
    table = FreeTable.around(COSINE, FALLING["UniPC 3, trailing"], set(FREEDOMS) - {"sum", "shift"})
    plan = table.plan(moved(table))
    levels = (*levels_at(COSINE, plan.timesteps), CLEAN)
    for row, t, s in zip(plan.rows, levels, levels[1:], strict=False):
        # t is rounded to six digits, so the levels are known to as many
        assert row.x * t.signal + sum(row.history) == pytest.approx(s.signal, abs=1e-4)


STAYS = {
    "levels": ("w",),
    "shift": ("a", "b"),
    "coefficients": ("t", "history"),
    "history": ("t", "a", "used"),
    "sum": ("t", "a", "earlier"),
}


@pytest.mark.parametrize("name", FREEDOMS)
def test_a_freedom_changes_what_it_names_and_nothing_else(name):
    table = FreeTable.around(COSINE, DPMSolver(5, order=2, lower_order_final=False).plan(COSINE), [name])
    parts = []
    for p in (table.parameters(), moved(table)):
        shown, a, b = (part.detach() for part in table.numbers(p))
        earlier, used = b[:, 1:], b[:-1, 1:2]  # a last step, to clean data, is of order 1
        parts.append({"t": shown, "a": a, "b": b, "earlier": earlier, "used": used, "history": b[:, 2:]})
    before, after = parts
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert same >= set(STAYS[name]) - {"w"}
    changed = {"levels": "t", "shift": "t", "coefficients": "used", "history": "history", "sum": "b"}[name]
    assert not torch.equal(before[changed], after[changed])


def test_with_levels_alone_euler_stays_euler():
    table = FreeTable.around(COSINE, Euler(5).plan(COSINE), ["levels"])
    plan = table.plan(moved(table))
    expected = Euler(spacing=plan.timesteps).plan(COSINE)
    for row, other in zip(plan.rows, expected.rows, strict=True):
        assert (row.x, *row.history) == pytest.approx((other.x, *other.history), rel=1e-3)


@pytest.mark.parametrize("free", [FREEDOMS, ("levels",), ("shift", "history")], ids=" ".join)
def test_the_gradient_is_that_of_the_chain(free):
    denoiser, x_t = Quadratic(COSINE), normals(3, 2, seed=5)
    table = FreeTable.around(COSINE, FALLING["UniPC 3, trailing"], free)
    p = moved(table, scale=0.1)

    def loss():
        return chain(denoiser, table, p, x_t, DOUBLE).square().sum()

    loss().backward()
    for name, numbers in p.items():
        if not numbers.requires_grad:
            continue
        direction = normals(*numbers.shape, seed=7)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                numbers.add_(direction, alpha=sign * 1e-5)
                values.append(float(loss()))
                numbers.sub_(direction, alpha=sign * 1e-5)
        expected = (values[0] - values[1]) / 2e-5
        # The difference is off by its square, and by rounding: 1e-10 and 1e-16/1e-5 of a loss of about 1.
        assert float((numbers.grad * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-8), name


def test_the_chain_is_the_sampling_loop():
    denoiser, x_t = MIXTURE.denoiser(COSINE), normals(6, 3, seed=1)
    table = FreeTable.around(COSINE, FALLING["DEIS 4 to the end, trailing"])
    p = moved(table)
    ends = chain(denoiser, table, p, x_t, DOUBLE)
    # The plan has t of six digits.
    torch.testing.assert_close(end(denoiser, table.plan(p), x_t), ends.detach(), rtol=1e-3, atol=1e-3)


def small_network(**more):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=4,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        **more,
    ).eval()


def test_a_guided_network_is_fitted_in_its_own_precision_and_its_weights_get_no_gradient():
    network = small_network(num_class_embeds=3)
    guided = Clipped(
        ClassifierFree(
            Denoiser(network, COSINE, "v_prediction", torch.tensor([0, 1, 2, 0])), 2.0, null_label=1
        )
    )
    quick = QUICK | {"dtype": torch.float32, "updates": 8, "teacher": Heun(6), "start": DDIM(3)}
    table = fit(guided, (4, 1, 4, 4), 3, **quick)
    assert table.after.rms < table.before.rms and table.after.median < table.before.median
    assert all(weight.grad is None for weight in network.parameters())
    assert sample(guided, (4, 1, 4, 4), table, seed=0).isfinite().all()


def test_the_gradient_in_what_a_network_is_shown_is_that_of_differences(monkeypatch):
    # A network that was never trained varies from t to t: .001 in λ is a sixth of a t.
    monkeypatch.setattr(free_table, "DIFFERENCE", 0.001)
    denoiser = Denoiser(small_network().double(), COSINE, "v_prediction")
    x_t = normals(2, 1, 4, 4, seed=2)
    table = FreeTable.around(COSINE, Euler(3).plan(COSINE), ["shift"])
    p = moved(table)

    def loss():
        return chain(denoiser, table, p, x_t, DOUBLE).square().sum()

    loss().backward()
    direction, values = normals(3, seed=4), []
    for sign in (1, -1):
        with torch.no_grad():
            p["shift"].add_(direction, alpha=sign * 0.001)
            values.append(float(loss()))
            p["shift"].sub_(direction, alpha=sign * 0.001)
    # Both differences are off by about a hundredth: by their squares, and by the network's t in float32.
    found = float((p["shift"].grad * direction).sum())
    assert found == pytest.approx((values[0] - values[1]) / 0.002, rel=0.03)


def test_on_a_gaussian_the_table_becomes_exact():
    # The denoiser is linear, so a table ends at one number times the noise, and one of them is right.
    normal = GaussianMixture(torch.zeros(1, 2, dtype=DOUBLE), torch.tensor([0.5], dtype=DOUBLE))
    table = fit(normal.denoiser(COSINE), (8, 2), 2, **QUICK | {"updates": 60})
    assert table.after.rms < 0.02 * table.before.rms


def test_on_a_mixture_it_ends_nearer_than_all_others_on_noises_that_it_never_saw():
    # The packaged tables were fitted to mixtures: they are ten times as near as the hand-made ones here.
    denoiser = MIXTURE.denoiser(COSINE)
    table = fit(denoiser, (100, 3), 5, **QUICK | {"updates": 60})
    fresh = end_points(denoiser, (300, 3), 1, seed=1, dtype=DOUBLE)
    found = fresh.error(table)
    (label, best), *_ = ranked(fresh, hand_made(COSINE, 5))
    assert table.start == label == "Fitted"
    assert found.median < 0.7 * best.median and found.rms < 0.6 * best.rms


def test_the_same_call_makes_the_same_table_and_says_how():
    denoiser = MIXTURE.denoiser(COSINE)
    quick = QUICK | {"updates": 3, "teacher": Heun(8), "start": DDIM(3), "about": {"network": "a mixture"}}
    table = fit(denoiser, (4, 3), 3, 5, **quick)
    assert table == fit(denoiser, (4, 3), 3, 5, **quick)
    assert hash(table) == hash(replace(table))
    assert table.evaluations == 3 and table.start == repr(DDIM(3))
    told = table.about
    assert (told["network"], told["seed"], told["updates"], told["batch"]) == ("a mixture", 5, 3, [4, 3])
    assert told["teacher"] == repr(Heun(8)) and told["free"] == list(FREEDOMS)


def test_a_start_that_cannot_be_bettered_is_returned():
    denoiser, start = MIXTURE.denoiser(COSINE), DPMSolver(4)
    table = fit(denoiser, (4, 3), 4, **QUICK | {"teacher": start, "start": start})
    assert not table.is_improved and table.plan(COSINE) == start.plan(COSINE)
    assert table.after == Distance(0.0, 0.0)


def test_a_descent_that_goes_astray_leaves_the_start():
    denoiser, start = MIXTURE.denoiser(COSINE), DPMSolver(4)
    table = fit(denoiser, (4, 3), 4, **QUICK | {"rate": 3.0, "updates": 5, "start": start})
    assert table.after == table.before and table.plan(COSINE) == start.plan(COSINE)


def test_one_evaluation_and_zero_terminal_snr_can_be_fitted():
    schedule = COSINE.zero_terminal_snr()
    for evaluations in (1, 3):
        table = fit(MIXTURE.denoiser(schedule), (8, 3), evaluations, **QUICK | {"updates": 10})
        assert table.plan(schedule).timesteps[0] == 999
        assert table.after.rms <= table.before.rms and table.after.median <= table.before.median


def test_time_ends_a_descent():
    quick = QUICK | {"updates": 10**6, "seconds": 1e-9, "teacher": Heun(4), "start": DDIM(3)}
    assert not fit(MIXTURE.denoiser(COSINE), (4, 3), 3, **quick).is_improved


def test_features_are_what_counts():
    # Compared by the first coordinate, the first is fitted.
    first = QUICK | {"features": lambda x: x[:, 0], "start": DDIM(4)}
    denoiser = MIXTURE.denoiser(COSINE)
    table = fit(denoiser, (16, 3), 4, **first)
    points = end_points(denoiser, (16, 3), 2, dtype=DOUBLE, features=first["features"])
    assert points.targets[0].shape == (16,)
    assert points.error(table).rms < points.error(DDIM(4)).rms


def changed(denoise):
    """The exact denoiser with its answer changed by a function of (x_0, x_t)."""
    exact = MIXTURE.denoiser(COSINE)

    class Changed:
        schedule = COSINE

        def __call__(self, x_t, t):
            return Estimate(denoise(exact(x_t, t).x_0, x_t))

    return Changed()


BAD_DENOISERS = {
    "without gradient": (lambda x_0, x_t: x_0.detach(), ConfigError, "differentiable in x_t"),
    "half of it cut off": (lambda x_0, x_t: x_0.detach() + 0.2 * x_t, ConfigError, "no part of it"),
    "random": (lambda x_0, x_t: x_0 + 0.1 * torch.randn_like(x_0), ConfigError, "not random"),
    "NaN": (lambda x_0, x_t: x_0 * torch.nan, NoAnswerError, "NaN"),
    "NaN in its gradient": (lambda x_0, x_t: x_0 + (x_t * 0).abs().sqrt(), NoAnswerError, "NaN or infinity"),
}


@pytest.mark.parametrize("kind", BAD_DENOISERS)
def test_a_denoiser_that_cannot_be_fitted_to_is_named(kind):
    answer, error, fragment = BAD_DENOISERS[kind]
    quick = QUICK | {"teacher": Heun(4), "start": DDIM(3)}
    check_error(lambda: fit(changed(answer), (4, 3), 3, **quick), error, fragment)


def test_a_table_whose_chain_leads_to_nan_comes_last():
    denoiser = changed(lambda x_0, x_t: torch.where(x_t.abs() > 100, torch.nan, x_0))
    points = end_points(denoiser, (4, 3), 2, teacher=Heun(4), dtype=DOUBLE)
    off = Plan((Row(999, 500, 1e3, (0.5,)), Row(500, -1, 0.0, (1.0,))))
    (best, _), (last, error) = ranked(points, {"off": off, "Euler": Euler(2)})
    assert (best, last) == ("Euler", "off") and error == Distance(math.inf, math.inf)


BAD_SETTINGS = {
    "no evaluation": ({"evaluations": 0}, ConfigError, "evaluations is 0"),
    "half an evaluation": ({"evaluations": 2.5}, ConfigError, "evaluations is 2.5"),
    "more than T": ({"evaluations": 1001}, ConfigError, "evaluations is 1001", "1 … 1000"),
    "no batch": ({"batches": 0}, ConfigError, "batches is 0"),
    "nothing held out": ({"held_out": 0}, ConfigError, "held_out is 0"),
    "no update": ({"updates": 0}, ConfigError, "updates is 0"),
    "no rate": ({"rate": 0.0}, ConfigError, "rate is 0.0"),
    "a rate of NaN": ({"rate": float("nan")}, ConfigError, "rate is nan"),
    "no time": ({"seconds": 0}, ConfigError, "seconds is 0"),
    "another freedom": ({"free": ["colour"]}, ConfigError, "free is ['colour']", "levels"),
    "no freedom": ({"free": ()}, ConfigError, "free is ()"),
    "a random teacher": ({"teacher": DDIM(8, eta=1.0)}, ConfigError, "adds noise"),
    "a random start": ({"start": DDIM(3, eta=1.0)}, ConfigError, "no noise"),
    "a start of other length": ({"start": DDIM(4)}, ConfigError, "takes 4 evaluations", "must take 3"),
    "a start that repeats": ({"start": Heun(2)}, ConfigError, "each t once"),
    "no denoiser": ({"denoiser": lambda x_t, t: x_t}, DtypeError, "pass a Denoiser"),
    "no features": ({"features": lambda x: x.sum()}, ShapeError, "one row a sample"),
    "whole features": ({"features": lambda x: x.long()}, DtypeError, "the features"),
    "features of NaN": ({"features": lambda x: x * torch.nan}, NoAnswerError, "features"),
}


@pytest.mark.parametrize("kind", BAD_SETTINGS)
def test_settings_that_make_no_fit_are_named(kind):
    given, error, *fragments = BAD_SETTINGS[kind]
    quick = {"denoiser": MIXTURE.denoiser(COSINE), "shape": (4, 3), "evaluations": 3, **QUICK}
    check_error(lambda: fit(**quick | {"teacher": Heun(4), "start": DDIM(3)} | given), error, *fragments)

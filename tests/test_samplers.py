"""Samplers: rows against the mathematics they stand for, and the one loop that runs them."""

import io
import math
import sys
from itertools import pairwise

import pytest
import torch
from cases import check_error, normals, ordinary_schedules
from hypothesis import given
from hypothesis import strategies as st

from alphabar import (
    DDIM,
    DDPM,
    Clipped,
    Denoiser,
    NoiseSchedule,
    Plan,
    Row,
    add_noise,
    iter_sample,
    posterior,
    sample,
)
from alphabar import noise as noise_
from alphabar.errors import (
    AlphabarError,
    ConfigError,
    DtypeError,
    NoAnswerError,
    ShapeError,
    TimestepError,
    UnknownNameError,
)
from alphabar.progress import track

COSINE = NoiseSchedule.cosine()
ZERO_SNR = NoiseSchedule.linear().zero_terminal_snr()
VARIANCES = ("fixed_small", "fixed_large", "learned_range", "learned")
SAMPLERS = {
    **{variance: DDPM(6, variance) for variance in VARIANCES},
    **{f"DDIM {eta}": DDIM(6, eta) for eta in (0.0, 0.5, 1.0)},
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())


# --- rows ---


@st.composite
def plans_of(draw, make):
    """A sampler's plan over some of the t of a random schedule."""
    schedule = draw(ordinary_schedules)
    schedule = schedule.zero_terminal_snr() if draw(st.booleans()) else schedule
    chosen = draw(st.sets(st.integers(0, len(schedule) - 1), min_size=1))
    return schedule, make(sorted(chosen, reverse=True)).plan(schedule)


def levels(schedule, row):
    """ᾱ_t and ᾱ_s of a row."""
    return schedule.alpha_bar[row.t].item(), 1.0 if row.s < 0 else schedule.alpha_bar[row.s].item()


KEEPING = {
    "DDPM, small": lambda ts: DDPM(spacing=ts),
    "DDIM, η = 0": lambda ts: DDIM(spacing=ts),
    "DDIM, η = .3": lambda ts: DDIM(eta=0.3, spacing=ts),
    "DDIM, η = 1": lambda ts: DDIM(eta=1.0, spacing=ts),
}


@pytest.mark.parametrize("make", KEEPING.values(), ids=KEEPING.keys())
@given(data=st.data())
def test_a_step_takes_the_marginal_at_t_to_the_marginal_at_s(make, data):
    # With the true x_0, x_t ~ N(√ᾱ_t x_0, 1 − ᾱ_t) must become x_s ~ N(√ᾱ_s x_0, 1 − ᾱ_s).
    schedule, plan = data.draw(plans_of(make))
    for row in plan.rows:
        at_t, at_s = levels(schedule, row)
        (of_x_0,) = row.history
        assert row.x * at_t**0.5 + of_x_0 == pytest.approx(at_s**0.5, rel=1e-11)
        assert row.x**2 * (1 - at_t) + row.noise**2 == pytest.approx(1 - at_s, rel=1e-10, abs=1e-15)


@given(plans_of(lambda ts: DDPM(spacing=ts)))
def test_a_ddpm_row_is_the_posterior(case):
    schedule, plan = case
    x_t, x_0 = normals(3, 2, seed=1), normals(3, 2, seed=2)
    for row in plan.rows:
        mean, variance = posterior(schedule, x_t, x_0, row.t, row.s)
        torch.testing.assert_close(row.advance(x_t, [x_0], torch.zeros(3, 2)), mean, rtol=0, atol=1e-13)
        assert row.noise == pytest.approx(variance.item() ** 0.5, rel=1e-13)


@given(plans_of(lambda ts: DDPM(variance="fixed_large", spacing=ts)))
def test_the_large_variance_is_that_of_a_step_forward(case):
    schedule, plan = case
    for row in plan.rows[:-1]:
        at_t, at_s = levels(schedule, row)
        assert row.noise**2 == pytest.approx(1 - at_t / at_s, rel=1e-10)


@given(st.data())
def test_a_learned_range_runs_from_the_small_to_the_large_variance(data):
    schedule, plan = data.draw(plans_of(lambda ts: DDPM(variance="learned_range", spacing=ts)))
    timesteps = list(plan.timesteps)
    small, large = (DDPM(variance=name, spacing=timesteps).plan(schedule) for name in VARIANCES[:2])
    x_t, x_0, z = (normals(1, 3, seed=seed) for seed in (1, 2, 3))
    for row, low, high in list(zip(plan.rows, small.rows, large.rows, strict=True))[:-1]:
        for answer, scale in (
            (-1.0, low.noise),
            (1.0, high.noise),
            (0.0, (low.noise * high.noise) ** 0.5),  # halfway in the logarithm
        ):
            found = row.advance(x_t, [x_0], z, torch.full_like(x_t, answer))
            mean = low.advance(x_t, [x_0], torch.zeros_like(z))
            torch.testing.assert_close(found, mean + scale * z, rtol=0, atol=1e-12)


def test_a_learned_variance_is_read_as_its_logarithm():
    # Nichol & Dhariwal 2021: the output v is log σ².
    row = DDPM(5, "learned").plan(COSINE).rows[0]
    x_t, x_0, z, v = (normals(2, 3, seed=seed) for seed in (1, 2, 3, 4))
    mean = posterior(COSINE, x_t, x_0, row.t, row.s).mean
    torch.testing.assert_close(row.advance(x_t, [x_0], z, v), mean + (v / 2).exp() * z, rtol=0, atol=1e-13)


@given(plans_of(lambda ts: DDIM(spacing=ts)))
def test_ddim_without_noise_keeps_the_noise_it_sees(case):
    # x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε goes to √ᾱ_s x_0 + √(1−ᾱ_s) ε, with the same ε, down to x_0.
    schedule, plan = case
    x_0, eps = normals(2, 3, seed=1), normals(2, 3, seed=2)
    for row in plan.rows:
        assert not row.is_random
        x_s = row.advance(add_noise(schedule, x_0, eps, row.t), [x_0])
        expected = x_0 if row.s < 0 else add_noise(schedule, x_0, eps, row.s)
        torch.testing.assert_close(x_s, expected, rtol=0, atol=1e-12)


@given(plans_of(lambda ts: DDIM(eta=1.0, spacing=ts)))
def test_ddim_with_all_the_noise_is_ddpm(case):
    schedule, plan = case
    for row, other in zip(plan.rows, DDPM(spacing=list(plan.timesteps)).plan(schedule).rows, strict=True):
        found, expected = (row.x, *row.history, row.noise), (other.x, *other.history, other.noise)
        assert found == pytest.approx(expected, rel=1e-8, abs=1e-11)


@every_sampler
@pytest.mark.parametrize("schedule", [COSINE, ZERO_SNR], ids=["cosine", "zero SNR"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_the_last_row_returns_the_estimate_and_adds_no_noise(sampler, schedule, spacing):
    sampler = type(sampler)(**{**vars(sampler), "spacing": spacing})
    last = sampler.plan(schedule).rows[-1]
    assert (last.s, last.x, last.history, last.noise, last.log_variance) == (-1, 0.0, (1.0,), 0.0, None)


@every_sampler
def test_rows_join_into_a_plan(sampler):
    plan = sampler.plan(COSINE)
    assert len(plan) == 6
    assert all(row.s == after.t for row, after in pairwise(plan.rows))
    assert plan == sampler.plan(NoiseSchedule.cosine())


ROW = Row(5, -1, 0.5, (0.5,))
BAD_PLANS = {
    "no rows": (lambda: Plan(()), ConfigError, "at least one row"),
    "rows apart": (lambda: Plan((Row(9, 6, 0.5, (0.5,)), ROW)), ConfigError, "t = 6", "5", "join"),
    "too long a memory": (lambda: Plan((Row(5, -1, 0.5, (0.5, 0.1)),)), ConfigError, "row 0", "2 estimates"),
    "nan": (lambda: Plan((Row(5, -1, math.nan, (0.5,)),)), NoAnswerError, "t = 5", "not finite"),
    "infinite": (lambda: Plan((Row(5, -1, 0.5, (math.inf,)),)), NoAnswerError, "t = 5", "not finite"),
    "no estimate": (lambda: ROW.advance(torch.ones(1), []), ConfigError, "t = 5", "1 estimates"),
    "no noise": (
        lambda: Row(5, 3, 0.5, (0.5,), 0.1).advance(torch.ones(1), [torch.ones(1)]),
        ConfigError,
        "t = 5",
        "noise",
    ),
}


@pytest.mark.parametrize("case", BAD_PLANS.values(), ids=BAD_PLANS.keys())
def test_a_bad_plan_is_named_with_its_value_and_the_remedy(case):
    check_error(*case)


# --- the loop ---


class Network(torch.nn.Module):
    """Small, smooth, and the same at every call: two convolutions with fixed random weights."""

    def __init__(self, channels=3, learns_variance=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = torch.nn.Conv2d(channels, 8, 3, padding=1)
            self.last = torch.nn.Conv2d(8, channels * (1 + learns_variance), 3, padding=1)
        self.asked = []

    def forward(self, x_t, t):
        self.asked.append(t.tolist())
        return self.last(torch.tanh(self.first(x_t) + (t / 300).sin().to(x_t)[:, None, None, None]))


def denoiser(prediction="v_prediction", schedule=COSINE, **more):
    return Denoiser(Network(**more), schedule, prediction)


def known(x_0):
    """A denoiser that knows the answer."""
    return Denoiser(lambda x_t, t: x_0.to(x_t), COSINE, "sample")


@every_sampler
def test_a_denoiser_that_knows_the_answer_is_believed(sampler):
    x_0 = torch.linspace(-1, 1, 12).reshape(2, 2, 3)

    def network(x_t, t):
        return torch.cat([x_0, torch.zeros_like(x_0)], 1)

    assert torch.equal(sample(Denoiser(network, COSINE, "sample"), (2, 2, 3), sampler, seed=1), x_0)


@every_sampler
def test_a_loop_yields_one_state_more_than_it_asks_the_network(sampler):
    states = list(iter_sample(denoiser(learns_variance=True), (2, 3, 8, 8), sampler, seed=1))
    assert [state.step for state in states] == list(range(7))
    assert [state.t for state in states] == [*sampler.plan(COSINE).timesteps, -1]
    assert all(state.x_t.shape == state.x_0.shape == (2, 3, 8, 8) for state in states)
    assert torch.equal(states[-1].x_t, states[-1].x_0)
    assert torch.equal(states[-1].x_t, states[-2].x_0)
    assert torch.equal(states[-1].x_t, sample(denoiser(learns_variance=True), (2, 3, 8, 8), sampler, seed=1))


@every_sampler
@torch.no_grad()
def test_each_state_is_the_row_of_the_plan_applied_to_the_one_before(sampler):
    plan, network = sampler.plan(COSINE), denoiser(learns_variance=True)
    states = list(iter_sample(network, (2, 3, 8, 8), sampler, seed=1))
    for row, (state, after) in zip(plan.rows, pairwise(states), strict=True):
        estimate = network(state.x_t, row.t)
        z = noise_.normal((2, 3, 8, 8), seed=1, stream=state.step + 1)
        expected = row.advance(state.x_t, [estimate.x_0], z, estimate.variance)
        assert torch.equal(after.x_t, expected)


def test_whoever_stops_early_does_not_pay_for_the_rest():
    asked = denoiser()
    for state in iter_sample(asked, (2, 3, 8, 8), DDPM(50), seed=1):
        if state.step == 3:
            break
    assert asked.network.asked == [[999] * 2, [979] * 2, [959] * 2, [939] * 2]


@every_sampler
def test_an_image_does_not_depend_on_its_batch(sampler):
    network = denoiser(learns_variance=True)
    together = sample(network, (64, 3, 8, 8), sampler, seed=7)
    alone = [sample(network, (1, 3, 8, 8), sampler, seed=7, first=i) for i in range(64)]
    # The noise is the same to the last bit; a convolution of another batch may add in another order.
    assert (together - torch.cat(alone)).abs().max() < 1e-4
    assert (together[1:] - together[:-1]).abs().amax((1, 2, 3)).min() > 0.1


def test_an_image_does_not_depend_on_the_threads():
    one = sample(denoiser(), (4, 3, 32, 32), DDPM(5), seed=7)
    torch.set_num_threads(2)
    try:
        two = sample(denoiser(), (4, 3, 32, 32), DDPM(5), seed=7)
    finally:
        torch.set_num_threads(1)
    assert (one - two).abs().max() < 1e-4


def test_a_seed_is_an_image_and_another_seed_another():
    def images(**source):
        return sample(denoiser(), (2, 3, 8, 8), DDPM(5), **source)

    assert torch.equal(images(seed=3), images(seed=3))
    assert not torch.allclose(images(seed=3), images(seed=4), atol=0.1)
    generator = torch.Generator()
    assert torch.equal(images(generator=generator.manual_seed(3)), images(generator=generator.manual_seed(3)))
    torch.manual_seed(3)
    default = images()
    assert not torch.equal(default, images())
    torch.manual_seed(3)
    assert torch.equal(default, images())


def test_the_steps_of_a_chain_draw_independent_noise():
    # x̂_0 = 0: what the states hold is the noise alone, and each row's can be read off.
    states = list(iter_sample(known(torch.zeros(50, 400)), (50, 400), DDPM(5), seed=1))
    rows = DDPM(5).plan(COSINE).rows[:-1]
    drawn = [states[0].x_t] + [
        (after.x_t - row.x * state.x_t) / row.noise
        for row, (state, after) in zip(rows, pairwise(states), strict=False)
    ]
    correlation = torch.corrcoef(torch.stack([z.flatten() for z in drawn]))
    # 5 standard errors of a correlation over 20,000 pairs.
    assert (correlation - torch.eye(5)).abs().max() < 5 / 20_000**0.5


# --- where it starts ---


def test_given_data_start_at_the_samplers_first_t():
    x_t = normals(2, 3, 8, 8, dtype=torch.float32)
    first = next(iter_sample(denoiser(), x_t.shape, DDIM(4), x_t=x_t))
    assert (first.step, first.t) == (0, 999)
    assert torch.equal(first.x_t, x_t)


@pytest.mark.parametrize("sampler", [DDIM(4), DDPM(4)], ids=["DDIM", "DDPM"])
def test_image_to_image_starts_at_its_own_t_and_goes_on_with_the_samplers(sampler):
    x_0, asked = normals(2, 3, 8, 8, dtype=torch.float32), denoiser()
    x_t = add_noise(COSINE, x_0, noise_.normal(x_0.shape, seed=1), 600)
    states = list(iter_sample(asked, x_0.shape, sampler, x_t=x_t, t_start=600, seed=2))
    assert [state.t for state in states] == [600, 499, 249, -1]
    assert asked.network.asked == [[t] * 2 for t in (600, 499, 249)]
    assert torch.equal(x_t, states[0].x_t)
    assert torch.equal(sample(known(x_0), x_0.shape, sampler, x_t=x_t, t_start=600, seed=2), x_0)


def test_a_chain_cut_in_two_ends_where_the_whole_one_ends():
    whole = list(iter_sample(denoiser(), (2, 3, 8, 8), DDIM(8), seed=1))
    middle = whole[3]
    rest = sample(denoiser(), (2, 3, 8, 8), DDIM(8), x_t=middle.x_t, t_start=middle.t)
    assert torch.equal(rest, whole[-1].x_t)


def test_what_was_given_is_left_as_it_was():
    x_t = normals(2, 3, 8, 8, dtype=torch.float32)
    sample(denoiser(), x_t.shape, DDPM(4), x_t=x_t, seed=1)
    assert torch.equal(x_t, normals(2, 3, 8, 8, dtype=torch.float32))


# --- precision ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sampler", [DDIM(10), DDPM(10)], ids=["DDIM", "DDPM"])
def test_half_precision_feeds_the_network_and_keeps_the_chain_wide(sampler, dtype):
    seen = []

    def network(x_t, t):
        seen.append(x_t.dtype)
        return (x_t.float() * 0.8).sin().to(dtype)

    half = Denoiser(network, COSINE, "sample")
    states = list(iter_sample(half, (4, 3, 8, 8), sampler, seed=1, dtype=dtype))
    assert set(seen) == {dtype}
    assert {state.x_t.dtype for state in states} == {state.x_0.dtype for state in states} == {torch.float32}
    assert sample(half, (4, 3, 8, 8), sampler, seed=1, dtype=dtype).dtype == dtype
    exact = Denoiser(lambda x_t, t: (x_t * 0.8).sin(), COSINE, "sample")
    wide = sample(exact, (4, 3, 8, 8), sampler, seed=1, dtype=torch.float64)
    # Each step rounds the input and the answer once, and this network shrinks what came before.
    assert (states[-1].x_t - wide).abs().max() < 4 * torch.finfo(dtype).eps


def test_float64_is_float64_throughout():
    network = Denoiser(lambda x_t, t: (x_t * 0.8).sin(), COSINE, "v_prediction")
    images = {
        dtype: sample(network, (4, 3, 8, 8), DDIM(20), seed=1, dtype=dtype)
        for dtype in (torch.float32, torch.float64)
    }
    assert images[torch.float64].dtype == torch.float64
    difference = (images[torch.float32] - images[torch.float64]).abs().max()
    assert 1e-9 < difference < 1e-5


def test_sampling_builds_no_graph_and_leaves_the_callers_grad_mode_alone():
    states = iter_sample(denoiser(), (1, 3, 8, 8), DDIM(3), seed=1)
    for state in states:
        assert not state.x_t.requires_grad
        assert not state.x_0.requires_grad
        assert torch.is_grad_enabled()


# --- wrappers, variances, zero signal ---


def test_clipping_holds_at_every_state():
    loud = Denoiser(lambda x_t, t: 5 * x_t, COSINE, "sample")
    states = list(iter_sample(Clipped(loud), (2, 3), DDPM(6), seed=1))
    assert all(state.x_0.abs().max() <= 1 for state in states)
    assert sample(loud, (2, 3), DDPM(6), seed=1).abs().max() > 1


def test_a_fixed_variance_ignores_what_a_network_says_about_it():
    def network(silent):
        def answer(x_t, t):
            return x_t.sin() if silent else torch.cat([x_t.sin(), torch.full_like(x_t, 7.0)], 1)

        return Denoiser(answer, COSINE, "sample")

    images = [sample(network(silent), (2, 3, 4), DDPM(6), seed=1) for silent in (True, False)]
    assert torch.equal(*images)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
@every_sampler
def test_zero_terminal_snr_is_sampled_from_its_end(prediction, sampler):
    images = sample(denoiser(prediction, ZERO_SNR, learns_variance=True), (2, 3, 8, 8), sampler, seed=1)
    assert images.isfinite().all()


def test_all_t_can_be_visited():
    asked = denoiser(schedule=NoiseSchedule.cosine(20))
    sample(asked, (1, 3, 8, 8), DDPM(), seed=1)
    assert asked.network.asked == [[t] for t in range(19, -1, -1)]


# --- progress ---


def test_a_progress_bar_changes_nothing_and_leaves_stdout_alone(capsys):
    quiet = sample(denoiser(), (1, 3, 8, 8), DDIM(3), seed=1, progress=False)
    assert capsys.readouterr() == ("", "")
    loud = sample(denoiser(), (1, 3, 8, 8), DDIM(3), seed=1, progress=True)
    assert torch.equal(quiet, loud)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shown", [None, True, False])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_bar_shows_on_a_terminal_and_yields_every_item(monkeypatch, is_terminal, shown):
    stderr = io.StringIO()
    stderr.isatty = lambda: is_terminal
    monkeypatch.setattr("sys.stderr", stderr)
    assert list(track(iter("abc"), 3, "letters", shown=shown)) == ["a", "b", "c"]
    assert ("letters" in stderr.getvalue()) is (is_terminal and shown is not False)


def test_without_rich_there_is_no_bar_and_every_item(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert list(track("abc", 3, "letters", shown=True)) == ["a", "b", "c"]


# --- bad input ---

SHAPE = (2, 3, 8, 8)
X = torch.zeros(SHAPE)


def run(sampler=None, shape=SHAPE, network=None, **more):
    return sample(network or denoiser(), shape, sampler or DDPM(5), **more)


BAD = {
    "seed and generator": (
        lambda: run(seed=1, generator=torch.Generator()),
        ConfigError,
        "both seed and generator",
        "one of them",
    ),
    "seed negative": (lambda: run(seed=-1), ConfigError, "seed is -1", "0 … 2^64 - 1"),
    "first negative": (lambda: run(seed=1, first=-1), ConfigError, "first is -1", "0 … 2^63 - 1"),
    "t_start without x_t": (lambda: run(t_start=500), ConfigError, "t_start is 500", "give the noisy data"),
    "t_start of T": (lambda: run(x_t=X, t_start=1000), TimestepError, "1000", "0 … 999"),
    "t_start negative": (lambda: run(x_t=X, t_start=-1), TimestepError, "-1", "0 … 999"),
    "x_t of another shape": (lambda: run(x_t=X[:1]), ShapeError, "(1, 3, 8, 8)", "(2, 3, 8, 8)", "equal"),
    "x_t of integers": (lambda: run(x_t=X.byte()), DtypeError, "torch.uint8", "[-1, 1]"),
    "integer precision": (lambda: run(dtype=torch.int32), DtypeError, "torch.int32", "floating-point"),
    "an empty batch": (lambda: run(shape=(0, 3, 8, 8)), ConfigError, "shape[0] is 0", "at least 1"),
    "a broken size": (lambda: run(shape=(2, 3, 8, -8)), ConfigError, "shape[3] is -8", "at least 1"),
    "more steps than T": (lambda: run(DDPM(1001)), TimestepError, "1001 steps", "T = 1000", "at most one"),
    "more steps than a short T": (
        lambda: run(DDIM(51), network=denoiser(schedule=NoiseSchedule.cosine(50))),
        TimestepError,
        "51 steps",
        "T = 50",
    ),
    "no steps": (lambda: run(DDIM(0)), ConfigError, "steps is 0", "at least 1"),
    "unknown variance": (
        lambda: DDPM(variance="fixed"),
        UnknownNameError,
        "variance 'fixed'",
        "'fixed_large'",
        "'fixed_small'",
        "'learned', 'learned_range'",
    ),
    "unknown spacing": (
        lambda: run(DDPM(5, spacing="middle")),
        UnknownNameError,
        "spacing 'middle'",
        "'leading', 'linspace'",
    ),
    "η above 1": (lambda: DDIM(eta=1.5), ConfigError, "eta is 1.5", "[0, 1]"),
    "η below 0": (lambda: DDIM(eta=-0.1), ConfigError, "eta is -0.1", "[0, 1]"),
    "η of nan": (lambda: DDIM(eta=math.nan), ConfigError, "eta is nan", "[0, 1]"),
    "learned without channels": (
        lambda: run(DDPM(5, "learned")),
        ShapeError,
        "returned none",
        "twice the channels",
        "fixed_small",
    ),
    "a range without channels": (
        lambda: run(DDPM(5, "learned_range")),
        ShapeError,
        "returned none",
        "twice the channels",
    ),
    "wrong channels": (
        lambda: run(network=Denoiser(lambda x, t: x[:, :2], COSINE)),
        ShapeError,
        "(2, 2, 8, 8)",
        "(2, 3, 8, 8)",
        "twice the channels",
    ),
    "ε where no signal is left": (
        lambda: run(network=denoiser("epsilon", ZERO_SNR)),
        NoAnswerError,
        "ᾱ_t = 0",
        "v_prediction",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_with_its_value_and_the_remedy(case):
    check_error(*case)


@pytest.mark.parametrize("broken", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize("half", ["estimate", "variance"])
def test_a_network_that_breaks_down_is_named_with_step_and_t(broken, half):
    def network(x_t, t):
        good = torch.zeros_like(x_t)
        bad = torch.where(t < 500, broken, 0.0).to(x_t)[:, None, None, None].expand_as(x_t)
        return torch.cat([bad, good] if half == "estimate" else [good, bad], 1)

    for sampler in (DDPM(5, "learned_range"), DDPM(5, "learned")):
        check_error(
            lambda sampler=sampler: run(sampler, network=Denoiser(network, COSINE, "sample"), seed=1),
            NoAnswerError,
            "step 3, t = 399",
            "NaN or infinity",
            "weights",
        )


def test_an_error_comes_before_the_first_evaluation():
    asked = denoiser()
    wrong = ({"seed": 1, "generator": torch.Generator()}, {"t_start": 5}, {"x_t": X[:1]})
    for more in wrong:
        with pytest.raises(AlphabarError):
            iter_sample(asked, SHAPE, DDPM(5), **more)
    assert asked.network.asked == []

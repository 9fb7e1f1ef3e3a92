"""The forward process: closed forms against chains, posteriors against Bayes, precision to the last place."""

import math
from itertools import product

import pytest
import torch
from cases import (
    LOW_PRECISION,
    all_schedules,
    check_error,
    normals,
    ordinary_schedules,
    schedules,
    unit_in_the_last_place,
    units_apart,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alphabar import (
    NoiseSchedule,
    add_noise,
    add_noise_between,
    add_noise_step,
    posterior,
    trajectory,
    velocity,
)
from alphabar.errors import TimestepError
from alphabar.kernels.reference import BLOCK
from alphabar.process.addressed import normal

COSINE = NoiseSchedule.cosine()
ZERO_SNR = NoiseSchedule.linear().zero_terminal_snr()
SCHEDULES = all_schedules()


def coefficients(jump):
    """What a jump multiplies data and noise with: its answers to (1, 0) and (0, 1)."""
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    return jump(one, zero).item(), jump(zero, one).item()


def closed_form(schedule, x_0, noise, t):
    """x_t in float64, from the definition."""
    shape = (-1,) + (1,) * (x_0.ndim - 1)
    signal, noise_scale = schedule.signal_scale[t].reshape(shape), schedule.noise_scale[t].reshape(shape)
    return signal * x_0.double() + noise_scale * noise.double()


# --- the chain ---


@given(schedules)
def test_the_chain_equals_the_closed_form(schedule):
    mean, variance = 1.0, 0.0
    for t in range(len(schedule)):
        signal, noise = coefficients(lambda x, z, t=t: add_noise_step(schedule, x, z, t))
        mean, variance = signal * mean, signal**2 * variance + noise**2
        assert mean == pytest.approx(schedule.signal_scale[t].item(), rel=1e-12)
        assert variance == pytest.approx(schedule.noise_scale[t].item() ** 2, rel=1e-12)
        assert (mean, variance**0.5) == pytest.approx(
            coefficients(lambda x, z, t=t: add_noise(schedule, x, z, t)), rel=1e-12
        )


@given(schedules, st.data())
def test_two_jumps_are_one(schedule, data):
    last = len(schedule) - 1
    s = data.draw(st.integers(-1, last - 1), "s")
    t = data.draw(st.integers(s + 1, last), "t")
    direct = coefficients(lambda x, z: add_noise_between(schedule, x, z, s, t))
    if t > s + 1:
        u = data.draw(st.integers(s + 1, t - 1), "u")
        a, b = coefficients(lambda x, z: add_noise_between(schedule, x, z, s, u))
        c, d = coefficients(lambda x, z: add_noise_between(schedule, x, z, u, t))
        assert direct == pytest.approx((a * c, math.hypot(c * b, d)), rel=1e-11)
    if s == -1:
        assert direct == coefficients(lambda x, z: add_noise(schedule, x, z, t))
    if t == s + 1:
        assert direct == coefficients(lambda x, z: add_noise_step(schedule, x, z, t))


def test_a_chain_on_real_digits_has_the_closed_forms_mean_and_variance(digits):
    # 115,008 residuals at each of 12 t. Thresholds of 4.5 standard errors: once in 10⁵ by chance.
    ts = [0, 1, 2, 5, 10, 20, 40, 60, 70, 80, 90, 99]
    schedule = NoiseSchedule.cosine(100)
    states = trajectory(schedule, digits, ts, seed=3)
    count, x_0 = digits.numel(), digits.flatten()
    for x_t, t in zip(states, ts, strict=True):
        residual = ((x_t - schedule.signal_scale[t] * digits) / schedule.noise_scale[t]).flatten()
        assert abs(residual.mean()) < 4.5 / count**0.5
        assert abs(residual.var() - 1) < 4.5 * (2 / count) ** 0.5
        assert abs(residual @ (x_0 - x_0.mean())) < 4.5 * count**0.5 * x_0.std()
        assert stats.kstest(residual.numpy(), "norm").pvalue > 1e-4


def test_single_steps_on_real_digits_arrive_where_the_jump_arrives(digits, rng):
    schedule, x_t = NoiseSchedule.cosine(20), digits
    for t in range(20):
        x_t = add_noise_step(schedule, x_t, torch.randn(digits.shape, generator=rng, dtype=torch.float64), t)
        jump = add_noise(schedule, digits, torch.randn(digits.shape, generator=rng, dtype=torch.float64), t)
        # Two samples of 115,008 pixels each from one distribution, if the chain is right.
        assert stats.ks_2samp(x_t.flatten().numpy(), jump.flatten().numpy()).pvalue > 1e-4


def test_a_trajectory_moves_on_from_its_own_last_state():
    x_0 = normals(2, 3)
    states = trajectory(COSINE, x_0, [100, 400, 700], seed=5)
    assert states.shape == (3, 2, 3)
    assert torch.equal(states[:2], trajectory(COSINE, x_0, [100, 400], seed=5))
    assert not torch.equal(states, trajectory(COSINE, x_0, [100, 400, 700], seed=6))
    signal, noise = coefficients(lambda x, z: add_noise_between(COSINE, x, z, 100, 400))
    fresh = (states[1] - signal * states[0]) / noise
    torch.testing.assert_close(fresh, normal((2, 3), seed=5, stream=400, dtype=torch.float64))


# --- precision ---


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_every_t_is_right_to_the_last_place(schedule, dtype):
    t = torch.arange(len(schedule))
    x_0 = (2 * torch.rand(1000, 48, generator=torch.Generator().manual_seed(1)) - 1).to(dtype)
    noise = normals(1000, 48, seed=2, dtype=dtype)
    x_t, exact = add_noise(schedule, x_0, noise, t), closed_form(schedule, x_0, noise, t)
    assert x_t.dtype == dtype
    assert units_apart(x_t, exact.to(dtype)) <= 1
    # Half a unit; of half precision, 2⁻¹² of one because the sum is rounded to float32 on its way, and of
    # bfloat16 up to 2⁻⁷, for the sake of speed.
    error = (x_t.double() - exact).abs() / unit_in_the_last_place(exact, dtype)
    more = {torch.float32: 2**-28, torch.float16: 2**-12, torch.bfloat16: 2**-7}
    assert error.max() <= 0.5 + more[dtype]


def test_float64_data_keep_float64():
    x_0, noise, t = normals(1000, 8), normals(1000, 8, seed=1), torch.arange(1000)
    torch.testing.assert_close(
        add_noise(COSINE, x_0, noise, t), closed_form(COSINE, x_0, noise, t), rtol=0, atol=1e-15
    )


# --- the posterior ---


@pytest.mark.parametrize("kind", ["ordinary", "zero terminal SNR"])
@given(schedule=ordinary_schedules, data=st.data())
def test_the_posterior_is_the_product_of_two_gaussians(kind, schedule, data):
    schedule = schedule.zero_terminal_snr() if kind != "ordinary" else schedule
    t = data.draw(st.integers(1, len(schedule) - 1), "t")
    s = data.draw(st.integers(0, t - 1), "s")
    x_0, x_t = normals(1, 4, seed=1), normals(1, 4, seed=2)
    # Bayes: q(x_s | x_t, x_0) ∝ q(x_s | x_0) · q(x_t | x_s), each a Gaussian in x_s: precisions add.
    a_s, power_s = schedule.signal_scale[s], schedule.noise_scale[s] ** 2
    ratio = schedule.signal_scale[t] / a_s
    power = 1 - ratio**2
    precision = 1 / power_s + ratio**2 / power
    mean = (a_s * x_0 / power_s + ratio * x_t / power) / precision
    found = posterior(schedule, x_t, x_0, t, s)
    # 1 − ratio² cancels: β ≥ 10⁻⁴ leaves twelve digits of it.
    torch.testing.assert_close(found.mean, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.variance, 1 / precision, rtol=1e-10, atol=0)


@given(ordinary_schedules, st.data())
def test_the_posterior_at_clean_data_is_clean_data(schedule, data):
    t = data.draw(st.integers(0, len(schedule) - 1), "t")
    x_0, x_t = normals(1, 4, seed=1), normals(1, 4, seed=2)
    mean, variance = posterior(schedule, x_t, x_0, t, -1)
    assert torch.equal(mean, x_0)
    assert variance == 0


def test_the_posterior_goes_one_step_back_by_default():
    x_0, x_t, t = normals(3, 4, seed=1), normals(3, 4, seed=2), torch.tensor([0, 17, 999])
    found, expected = posterior(ZERO_SNR, x_t, x_0, t), posterior(ZERO_SNR, x_t, x_0, t, t - 1)
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.variance, expected.variance)
    assert found.variance.shape == (3, 1)


def test_a_jump_and_the_posterior_give_the_joint_distribution_back(rng):
    # x_s by the jump, or x_t by the jump and x_s by the posterior: the same covariance of (x_s, x_t).
    schedule, s, t, count = NoiseSchedule.cosine(10), 3, 7, 200_000
    x_0 = torch.full((count,), 0.7, dtype=torch.float64)

    def draw():
        return torch.randn(count, generator=rng, dtype=torch.float64)

    x_t = add_noise(schedule, x_0, draw(), t)
    mean, variance = posterior(schedule, x_t, x_0, t, s)
    x_s = mean + variance.sqrt() * draw()
    forward_s = add_noise(schedule, x_0, draw(), s)
    forward_t = add_noise_between(schedule, forward_s, draw(), s, t)
    found, expected = torch.cov(torch.stack([x_s, x_t])), torch.cov(torch.stack([forward_s, forward_t]))
    # Entries are below 1: standard errors below √(2/count) each; 5 of the difference of two.
    torch.testing.assert_close(found, expected, rtol=0, atol=5 * 2 / count**0.5)
    assert abs(x_s.mean() - forward_s.mean()) < 5 * (2 / count) ** 0.5


# --- velocity ---


@given(schedules, st.data())
def test_velocity_is_the_derivative_along_the_circle(schedule, data):
    # x_t = cos φ · x_0 + sin φ · ε, v = dx_t/dφ; so x_t and v are (x_0, ε) turned by φ, and turn back.
    t = data.draw(st.integers(0, len(schedule) - 1), "t")
    x_0, noise = normals(2, 3, seed=1), normals(2, 3, seed=2)
    x_t, v = add_noise(schedule, x_0, noise, t), velocity(schedule, x_0, noise, t)
    angle = torch.atan2(schedule.noise_scale[t], schedule.signal_scale[t])
    torch.testing.assert_close(v, -angle.sin() * x_0 + angle.cos() * noise, rtol=0, atol=1e-12)
    torch.testing.assert_close(angle.cos() * x_t - angle.sin() * v, x_0, rtol=0, atol=1e-12)


# --- the shapes of t ---


@pytest.mark.parametrize("shape", [(1,), (4,), (1, 5), (4, 1), (4, 5), (4, 5, 1), (1, 1, 3), (4, 5, 3)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_t_broadcasts_against_the_leading_dimensions(shape, dtype):
    t = torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    x_0, noise = normals(4, 5, 3, seed=1), normals(4, 5, 3, seed=2)
    together = add_noise(COSINE, x_0, noise, t)
    everywhere = t.reshape(shape + (1,) * (3 - len(shape))).expand(4, 5, 3)
    one_by_one = torch.empty_like(x_0)
    for i in product(*map(range, x_0.shape)):
        one_by_one[i] = add_noise(COSINE, x_0[i][None], noise[i][None], int(everywhere[i]))
    assert torch.equal(together, one_by_one)


def test_an_integer_and_a_tensor_without_dimensions_are_one_t_for_all():
    x_0, noise = normals(4, 5, seed=1), normals(4, 5, seed=2)
    expected = add_noise(COSINE, x_0, noise, torch.full((4,), 300))
    assert torch.equal(add_noise(COSINE, x_0, noise, 300), expected)
    assert torch.equal(add_noise(COSINE, x_0, noise, torch.tensor(300)), expected)


PAIRS_OF_LEVELS = {
    "add_noise_between": lambda x, y, s, t: add_noise_between(COSINE, x, y, s, t),
    "posterior mean": lambda x, y, s, t: posterior(COSINE, x, y, t, s).mean,
}


@pytest.mark.parametrize("jump", PAIRS_OF_LEVELS.values(), ids=PAIRS_OF_LEVELS.keys())
def test_s_and_t_of_different_shapes_meet_at_their_leading_dimensions(jump):
    x, y = normals(2, 3, 4, seed=1), normals(2, 3, 4, seed=2)
    s, t = torch.tensor([5, 100]), torch.tensor([[6, 50, 7], [101, 500, 999]])
    together = jump(x, y, s, t)
    for i in (0, 1):
        assert torch.equal(together[i], jump(x[i], y[i], int(s[i]), t[i]))
    # Sample 1 is wrong here, although s < t holds column by column.
    check_error(
        lambda: jump(x[:, :2], y[:, :2], torch.tensor([5, 100]), torch.tensor([[6, 150], [6, 150]])),
        TimestepError,
        "s must be smaller than t",
    )


# --- memory: blocks, layouts, out ---

LAYOUTS = {
    "empty batch": torch.zeros(0, 3),
    "one dimension": normals(7),
    "larger than a block": normals(3 * BLOCK // 1000 + 5, 1000),
    "rows larger than a block": normals(3, BLOCK + 3),
    "one large row": normals(1, 2 * BLOCK + 1),
    "one long dimension": normals(2 * BLOCK + 1),
    "channels last": normals(70, 3, 32, 16).to(memory_format=torch.channels_last),
    "transposed": normals(1000, 200).T,
    "every other": normals(200, 2000)[:, ::2],
    "expanded": normals(1, 1000).expand(200, 1000),
}


@pytest.mark.parametrize("x_0", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_memory_layout_and_size_change_nothing(x_0):
    x_0 = x_0.double()
    noise = normals(*x_0.shape, seed=9)
    t = torch.arange(len(x_0)) * 37 % 1000
    torch.testing.assert_close(
        add_noise(COSINE, x_0, noise, t), closed_form(COSINE, x_0, noise, t), rtol=0, atol=1e-15
    )


def test_channels_last_stays_channels_last():
    x_0 = LAYOUTS["channels last"]
    x_t = add_noise(COSINE, x_0, torch.zeros_like(x_0), 5)
    assert x_t.stride() == x_0.stride()


@pytest.mark.parametrize("where", ["new memory", "x_0", "noise", "memory with gaps"])
@pytest.mark.parametrize("rows", [3, BLOCK // 500 * 3 + 1])
def test_out_is_written_and_returned_even_over_an_input(where, rows):
    x_0, noise = normals(rows, 500, seed=1), normals(rows, 500, seed=2)
    t = torch.arange(rows) % 1000
    expected = add_noise(COSINE, x_0, noise, t)
    out = {
        "new memory": torch.full_like(x_0, math.nan),
        "x_0": x_0,
        "noise": noise,
        "memory with gaps": torch.full((rows, 1000), math.nan, dtype=torch.float64)[:, ::2],
    }[where]
    assert add_noise(COSINE, x_0, noise, t, out=out) is out
    assert torch.equal(out, expected)


def test_gradients_flow_to_data_and_noise():
    x_0, noise = normals(3, 4, seed=1).requires_grad_(), normals(3, 4, seed=2).requires_grad_()
    t = torch.tensor([0, 500, 999])
    for jump in (add_noise, add_noise_step, velocity):
        assert torch.autograd.gradcheck(lambda x, z, jump=jump: jump(COSINE, x, z, t), (x_0, noise))
    add_noise(COSINE, x_0, noise, t).sum().backward()
    torch.testing.assert_close(x_0.grad, COSINE.signal_scale[t][:, None].expand(3, 4), rtol=1e-15, atol=0)
    with torch.no_grad():
        assert not add_noise(COSINE, x_0, noise, t).requires_grad


def test_inputs_are_left_as_they_were():
    x_0, noise, t = normals(3, 4, seed=1), normals(3, 4, seed=2), torch.tensor([1, 2, 3])
    for jump in (add_noise, add_noise_step, velocity, posterior):
        jump(COSINE, x_0, noise, t)
    trajectory(COSINE, x_0, [1, 2])
    assert torch.equal(x_0, normals(3, 4, seed=1))
    assert torch.equal(noise, normals(3, 4, seed=2))
    assert t.tolist() == [1, 2, 3]

"""LCM and TCD where the answer is known: steps along a path, fresh noise, the ends of the schedule."""

import diffusers
import pytest
import torch
from cases import check_error
from test_diffusers_consistency import CLEAN, SHAPE, X, Z, both, made, network

import alphabar.diffusers as ours
from alphabar.errors import NoAnswerError, ScheduleError, TimestepError

pytestmark = pytest.mark.filterwarnings("ignore:the given timesteps")


def level(scheduler, t):
    log = scheduler.schedule.log_alpha_bar_at(torch.tensor(int(t)))
    return (log / 2).exp(), (-torch.expm1(log)).sqrt()


def known(prediction, signal, sigma):
    return {"epsilon": Z, "sample": CLEAN, "v_prediction": signal * Z - sigma * CLEAN}[prediction]


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_tcd_without_noise_follows_the_path(prediction, zero_snr):
    if zero_snr and prediction == "epsilon":
        return
    config = {"prediction_type": prediction, "rescale_betas_zero_snr": zero_snr, "strict": True}
    scheduler = made(ours, "TCD", **config)
    scheduler.set_timesteps(8)
    signal, sigma = level(scheduler, 999)
    x = signal * CLEAN + sigma * Z
    for t, s in zip(scheduler.timesteps, [*scheduler.timesteps[1:], 0], strict=True):
        x, landed = scheduler.step(known(prediction, *level(scheduler, t)), t, x, eta=0.0, return_dict=False)
        signal, sigma = level(scheduler, s)
        torch.testing.assert_close(x, signal * CLEAN + sigma * Z, rtol=0, atol=1e-12)
        assert torch.equal(landed, x)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_tcd_lands_below_and_returns_with_fresh_noise(eta):
    scheduler = made(ours, "TCD", strict=True)
    scheduler.set_timesteps(4)
    t, s = (int(t) for t in scheduler.timesteps[:2])
    signal, sigma = level(scheduler, t)
    output = scheduler.step(
        Z, t, signal * CLEAN + sigma * Z, eta=eta, generator=torch.Generator().manual_seed(5)
    )
    below, around = level(scheduler, int((1 - eta) * s)), level(scheduler, s)
    x_r = below[0] * CLEAN + below[1] * Z
    torch.testing.assert_close(output.pred_noised_sample, x_r, rtol=0, atol=1e-12)
    fresh = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    kept = around[0] / below[0]
    expected = kept * x_r + (1 - kept**2).sqrt() * fresh
    torch.testing.assert_close(output.prev_sample, expected, rtol=0, atol=1e-12)
    power = (kept * below[1]) ** 2 + 1 - kept**2
    torch.testing.assert_close(power, around[1] ** 2, rtol=1e-12, atol=0)  # all noise together is that of s


def test_tcd_without_noise_is_ddim_to_the_level_of_t_0():
    scheduler, ddim = made(ours, "TCD"), ours.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
        clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing",
    )  # fmt: skip
    x = y = X
    scheduler.set_timesteps(10)
    ddim.set_timesteps(10)
    assert torch.equal(scheduler.timesteps, ddim.timesteps)
    for t in scheduler.timesteps:
        x, y = (
            scheduler.step(network(x), t, x, eta=0.0).prev_sample,
            ddim.step(network(y), t, y).prev_sample,
        )
    torch.testing.assert_close(x, y, rtol=0, atol=1e-6)  # float32 tables, rounded in another order


def test_lcm_ends_at_what_its_network_knows():
    scheduler = made(ours, "LCM", strict=True)
    scheduler.set_timesteps(4)
    x, generator = X, torch.Generator().manual_seed(0)
    for t in scheduler.timesteps:
        signal, sigma = level(scheduler, t)
        eps = (x - signal * CLEAN) / sigma
        before, (x, denoised) = x, scheduler.step(eps, t, x, generator=generator, return_dict=False)
        of_x, of_x_0 = scheduler.get_scalings_for_boundary_condition_discrete(int(t))
        torch.testing.assert_close(denoised, of_x * before + of_x_0 * CLEAN, rtol=0, atol=1e-12)
    assert torch.equal(x, denoised)
    torch.testing.assert_close(x, CLEAN, rtol=0, atol=2e-7)  # c_skip at t = 259 is 4e-8


def test_lcm_boundary():
    mine, theirs = made(ours, "LCM", timestep_scaling=0.5), made(diffusers, "LCM", timestep_scaling=0.5)
    assert mine.get_scalings_for_boundary_condition_discrete(0) == (1.0, 0.0)
    for t in (0, 1, 17, 999):
        seen = mine.get_scalings_for_boundary_condition_discrete(t)
        assert seen == theirs.get_scalings_for_boundary_condition_discrete(t)
        assert seen[0] + seen[1] ** 2 == pytest.approx(1, rel=1e-15)
    mine.set_timesteps(timesteps=[5, 0])
    assert torch.equal(mine.step(Z, 0, X).denoised, X), "at t = 0 the network is the identity"


@both
def test_noise_and_velocity_at_any_t(name):
    scheduler, ddpm, t = made(ours, name, beta_end=0.02), ours.DDPMScheduler, torch.tensor([5, 321])
    ddpm = ddpm(beta_start=0.00085, beta_end=0.02, beta_schedule="scaled_linear")
    assert torch.equal(scheduler.add_noise(X, Z, t), ddpm.add_noise(X, Z, t))
    assert torch.equal(scheduler.get_velocity(X, Z, t), ddpm.get_velocity(X, Z, t))


@both
def test_zero_terminal_snr(name):
    config = {"rescale_betas_zero_snr": True}
    assert made(ours, name, **config).alphas_cumprod[-1] == 0
    scheduler = made(ours, name, **config)
    scheduler.set_timesteps(5)
    check_error(lambda: scheduler.step(Z, 999, X), NoAnswerError, "v_prediction")
    begun = made(ours, name, **config)
    begun.set_timesteps(5)
    begun.set_begin_index(1)
    assert begun.step(Z, begun.timesteps[1], X).prev_sample.isfinite().all(), "t = 999 is not visited"
    theirs = made(diffusers, name, **config)
    theirs.set_timesteps(5)
    assert not theirs.step(Z, theirs.timesteps[0], X).prev_sample.isfinite().all(), "no longer so"


@both
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_a_beta_that_reaches_1(name, schedule):
    config = {"beta_schedule": schedule, "beta_start": 0.1, "beta_end": 2.0}
    ends = []
    for library in (ours, diffusers):
        scheduler = made(library, name, **config)
        scheduler.set_timesteps(10)
        scheduler.set_begin_index(9)
        ends.append(scheduler.step(Z, scheduler.timesteps[9], 1e-3 * X).prev_sample)
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)
    mine = made(ours, name, **config)
    mine.set_timesteps(10)
    check_error(lambda: mine.step(Z, 999, X), TimestepError, "999", "β reaches 1")
    check_error(lambda: made(ours, name, **config, strict=True), ScheduleError, "beta_end")
    short = made(ours, name, trained_betas=[0.1, 0.3])
    short.set_timesteps(10)
    check_error(lambda: short.step(Z, 999, X), TimestepError, "0 … 1", "trained_betas")

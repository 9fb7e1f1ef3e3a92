"""IPNDM: parity with diffusers, its estimates, exact answers, and what is refused."""

import diffusers
import pytest
import torch
from cases import check_error, normals

import alphabar.diffusers as ours
from alphabar.errors import ConfigError, NoAnswerError, ScheduleError, TimestepError

SHAPE = (2, 3, 4, 4)
X, Z, CLEAN = (normals(*SHAPE, seed=seed) for seed in (1, 2, 3))
LEVELS = [None, [1.0, 0.9, 0.5, 0.2, 0.1, 0.0], [0.9, 0.5, 0.3], [0.1, 0.3, 0.9]]
# Theirs rounds 1 − β² to float32, and in lower precision every sum, which small α enlarge.
TOLERANCES = {torch.float64: 3e-6, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.2}


def pair(**config):
    return [library.IPNDMScheduler(**config) for library in (ours, diffusers)]


def network(x, t):
    return torch.tanh(x + 0.3 * x.roll(1, -1) + float(t))


def run(scheduler, steps, x, begin=0, ask=network):
    scheduler.set_timesteps(steps)
    if begin:
        scheduler.set_begin_index(begin)
    for t in scheduler.timesteps[begin:]:
        x = scheduler.step(ask(x, t), t, x).prev_sample
    return x


@pytest.mark.parametrize("trained", LEVELS)
@pytest.mark.parametrize("steps", [2, 3, 5, 20, 50])
def test_whole_chains_and_tables_are_the_peers(steps, trained):
    for dtype, tolerance in TOLERANCES.items():
        for begin in (0, 1):
            schedulers, ends = pair(trained_betas=trained), []
            for scheduler in schedulers:
                ends.append([run(scheduler, steps, X.to(dtype), begin) for _ in range(2)])
            mine, theirs = schedulers
            for table in ("timesteps", "betas", "alphas"):
                assert torch.equal(getattr(mine, table), getattr(theirs, table))
            assert mine.step_index == theirs.step_index
            for x, y in zip(*ends, strict=True):
                assert x.dtype == y.dtype
                scale = max(1.0, float(y.abs().max()))
                torch.testing.assert_close(x, y, rtol=0, atol=tolerance * scale)


def test_public_state_is_the_peers():
    mine, theirs = pair()
    for name in (
        "num_inference_steps",
        "pndm_order",
        "init_noise_sigma",
        "order",
        "step_index",
        "begin_index",
    ):
        assert getattr(mine, name) == getattr(theirs, name)
    assert torch.equal(mine.timesteps, theirs.timesteps)
    assert mine.ets == theirs.ets == []
    t = theirs.timesteps[3]  # a run of all T is set at first
    ends = [scheduler.step(network(X, t), t, X).prev_sample for scheduler in (mine, theirs)]
    torch.testing.assert_close(*ends, rtol=0, atol=3e-6)
    assert mine.step_index == theirs.step_index == 4
    assert mine.index_for_timestep(t) == theirs.index_for_timestep(t) == 3
    torch.testing.assert_close(mine.ets[0], theirs.ets[0], rtol=0, atol=1e-6)
    assert mine.scale_model_input(X, t) is X


def test_estimates_of_before_are_used():
    ends = []
    for scheduler in pair():
        scheduler.set_timesteps(10)
        scheduler.ets = [Z, 0.5 * Z, -Z]
        x = X
        for t in scheduler.timesteps[4:]:
            x = scheduler.step(network(x, t), t, x).prev_sample
        ends.append(x)
    torch.testing.assert_close(*ends, rtol=0, atol=1e-5)


@pytest.mark.parametrize("held", [[], [Z], [Z, X], [CLEAN, Z, X, -X]])
def test_estimates_held_where_there_is_no_signal(held):
    ends = []
    for scheduler in (*pair(), ours.IPNDMScheduler(strict=True)):
        scheduler.set_timesteps(10)
        scheduler.ets = list(held)
        ends.append(lambda scheduler=scheduler: scheduler.step(Z, scheduler.timesteps[0], X).prev_sample)
    mine, theirs, strict = ends
    expected = theirs()
    assert not held or expected.abs().max() > 1e6, "no longer so: diffusers divides by 1e-8"
    torch.testing.assert_close(mine(), expected, rtol=1e-6, atol=1e-7)
    if held:
        check_error(strict, NoAnswerError, "ets")


def test_a_network_that_writes_into_one_tensor_and_kept_estimates():
    buffer = torch.empty(SHAPE, dtype=X.dtype)
    ends = [run(pair()[0], 8, X, ask=ask) for ask in (network, lambda x, t: buffer.copy_(network(x, t)))]
    assert torch.equal(*ends)


# --- exact answers ---


def known(scheduler, i):
    """v̂ of one image and one noise."""
    beta = (torch.linspace(1, 0, 9, dtype=torch.float64)[i] * torch.pi / 2).sin() ** 2
    alpha = (1 - beta**2).sqrt()
    return alpha * CLEAN + beta * Z, alpha * Z - beta * CLEAN


def test_strict_follows_the_path_where_the_answer_is_known():
    scheduler = ours.IPNDMScheduler(strict=True)
    scheduler.set_timesteps(8)
    x, _ = known(scheduler, 0)
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(known(scheduler, i)[1], t, x).prev_sample
        torch.testing.assert_close(x, known(scheduler, i + 1)[0], rtol=0, atol=1e-12)


def gaussian(width):
    """v̂ for data of this standard deviation, told t: tan(π t/2) = β/α."""

    def answer(x, t):
        angle = float(t) * torch.pi / 2
        alpha, beta = torch.tensor(angle).cos().double(), torch.tensor(angle).sin().double()
        return alpha * beta * (1 - width**2) / ((alpha * width) ** 2 + beta**2) * x

    return answer


def test_strict_converges_to_the_exact_image():
    """x/√(α² c² + β²) stays: the weights are those of even steps, so the order is the first."""
    errors = []
    for steps in (32, 64, 128):
        x = run(ours.IPNDMScheduler(strict=True), steps, X, ask=gaussian(0.5))
        errors.append(float((x - 0.5 * X).abs().max()))
    assert errors[0] < 0.05
    assert errors[0] > 1.7 * errors[1] > 1.7**2 * errors[2]


def test_the_first_step_takes_no_notice_of_the_network():
    ends = []
    for scheduler in (*pair(), ours.IPNDMScheduler(strict=True)):
        scheduler.set_timesteps(4)
        ends.append([scheduler.fork() if hasattr(scheduler, "fork") else scheduler, scheduler.timesteps[0]])
    (mine, t), (theirs, _), (strict, _) = ends
    first = mine.step(Z, t, X).prev_sample
    assert torch.equal(first, mine.fork().step(CLEAN, t, X).prev_sample)
    torch.testing.assert_close(first, theirs.step(Z, t, X).prev_sample, rtol=0, atol=1e-7)  # or no longer so
    beta = torch.linspace(1, 0, 5, dtype=torch.float64)[1].mul(torch.pi / 2).sin() ** 2
    expected = beta * X - (1 - beta**2).sqrt() * Z  # x_t = z and v̂ = −x̂_0 where α = 0
    torch.testing.assert_close(strict.step(Z, t, X).prev_sample, expected, rtol=0, atol=1e-12)


def test_one_step_is_what_the_network_answers():
    mine, theirs = pair()
    assert run(theirs, 1, X).abs().max() == 0, "no longer so"
    torch.testing.assert_close(run(mine, 1, X), -network(X, 1.0), rtol=0, atol=1e-12)


def test_its_schedule_and_noise():
    scheduler = ours.IPNDMScheduler(num_train_timesteps=20)
    betas = (torch.arange(1, 21, dtype=torch.float64) / 20 * torch.pi / 2).sin() ** 2
    torch.testing.assert_close(scheduler.schedule.noise_scale, betas, rtol=1e-12, atol=0)
    scheduler.set_timesteps(5)
    noisy = scheduler.add_noise(CLEAN, Z, scheduler.timesteps[2:3].repeat(2))
    beta, alpha = scheduler.betas[2].double(), scheduler.alphas[2].double()
    torch.testing.assert_close(noisy, alpha * CLEAN + beta * Z, rtol=0, atol=1e-6)
    given = ours.IPNDMScheduler(trained_betas=[0.1, 0.3]).schedule
    torch.testing.assert_close(given.noise_scale, torch.tensor([0.1, 0.3], dtype=torch.float64))


def test_what_is_wrong_is_named():
    for trained in ([0.5], [], [0.5, 1.1], [-0.1, 0.5], [0.0, 0.5], [[0.5, 0.1]], [float("nan"), 0.5]):
        check_error(
            lambda trained=trained: ours.IPNDMScheduler(trained_betas=trained), ScheduleError, "trained_betas"
        )
    scheduler = ours.IPNDMScheduler()
    check_error(lambda: scheduler.set_timesteps(0), ConfigError, "num_inference_steps")
    scheduler.set_timesteps(3)
    check_error(lambda: scheduler.step(Z, 0.123, X), TimestepError, "0.123")
    run(scheduler, 3, X)
    check_error(lambda: scheduler.step(Z, 1.0, X), TimestepError, "the run is over")
    again = ours.IPNDMScheduler(trained_betas=[0.3, 0.5, 1.0, 0.2], strict=True)
    check_error(lambda: run(again, 3, X), NoAnswerError, "α = 0")

"""Errors known exactly, and the solvers ranked by them, against the other library's in the same run."""

import pytest
import torch
from cases import check_error, normals, variance_reached
from peers import gaussian_eps, peer, run

from alphabar import DDIM, DDPM, GaussianMixture, NoiseSchedule, posterior, sample
from alphabar.errors import (
    AlphabarError,
    ConfigError,
    NoAnswerError,
    ShapeError,
    TimestepError,
    UnknownNameError,
)
from alphabar.samplers.adams import DEIS, LMS
from alphabar.samplers.dpm import DPMSolver
from alphabar.samplers.euler import Euler, EulerAncestral, Heun
from alphabar.samplers.exact import (
    WIDTHS,
    ExactDenoiser,
    gaussian_error,
    mixture_error,
    ranking,
    reverse_density,
    variances_reached,
)
from alphabar.samplers.fitted import Fitted
from alphabar.samplers.registry import SOLVERS
from alphabar.samplers.unipc import UniPC
from alphabar.schedule.levels import log_alpha_bar_between

LINEAR = NoiseSchedule.linear()
SCHEDULES = {
    "linear": LINEAR,
    "scaled_linear": NoiseSchedule.scaled_linear(),
    "scaled_linear of linear's ends": NoiseSchedule.scaled_linear(1000, 1e-4, 0.02),
    "cosine": NoiseSchedule.cosine(),
}


def centred(width):
    """N(0, width²) as a mixture of one."""
    return GaussianMixture(torch.zeros(1, 1, dtype=torch.float64), torch.tensor([width], dtype=torch.float64))


@pytest.mark.parametrize("solver", SOLVERS)
def test_multiplied_rows_are_what_sampling_does(solver):
    sampler = SOLVERS[solver](9, "karras")
    widths = torch.tensor([0.1, 0.7, 1.3], dtype=torch.float64)
    exact = variances_reached(sampler.plan(LINEAR), LINEAR, widths)
    for width, variance in zip(widths.tolist(), exact.tolist(), strict=True):
        start = torch.ones(1, 1, dtype=torch.float64)
        reached = sample(
            ExactDenoiser(centred(width), LINEAR),
            (1, 1),
            sampler,
            x_t=start,
            dtype=torch.float64,
            progress=False,
        )
        assert float(reached) ** 2 == pytest.approx(variance, rel=1e-11)


@pytest.mark.parametrize(
    "sampler", [DDPM(20), EulerAncestral(20), DDIM(20, 0.5), DDPM(20, "fixed_large")], ids=repr
)
def test_the_variance_of_fresh_noise_adds_up(sampler):
    # With one estimate a row, var_s = (a + b g)² var_t + c², where x̂_0 = g x_t.
    variance = torch.ones(3, dtype=torch.float64)
    widths = torch.tensor([0.1, 0.7, 1.3], dtype=torch.float64)
    for row in sampler.plan(LINEAR).rows:
        alpha_bar = log_alpha_bar_between(LINEAR, row.t).exp()
        gain = alpha_bar.sqrt() * widths**2 / (alpha_bar * widths**2 + 1 - alpha_bar)
        variance = (row.x + row.history[0] * gain) ** 2 * variance + row.z**2
    torch.testing.assert_close(variances_reached(sampler.plan(LINEAR), LINEAR, widths), variance)


def test_a_stochastic_multistep_solver_counts_the_noise_it_remembers(rng):
    plan = DPMSolver(12, sde=True).plan(LINEAR)
    images = sample(
        ExactDenoiser(centred(0.7), LINEAR), (40_000, 1), plan, seed=3, dtype=torch.float64, progress=False
    )
    # The variance of n samples has a relative standard deviation of √(2/n) = .007.
    assert float(images.var()) == pytest.approx(variance_reached(plan, LINEAR, 0.7), rel=0.03)


@pytest.mark.parametrize("solver", SOLVERS)
def test_more_evaluations_leave_less_error(solver):
    few, many = (gaussian_error(SOLVERS[solver](evaluations, "karras"), LINEAR) for evaluations in (10, 100))
    assert few > many
    assert many < 0.05


def test_for_one_gaussian_both_errors_are_the_same_number():
    x_t, widths = normals(50, 1, seed=1), torch.tensor([0.4], dtype=torch.float64)
    sampler = Heun(12)
    plans = (sampler.plan(LINEAR), Heun(100, "log_snr").plan(LINEAR))
    reached, true = (float(variances_reached(plan, LINEAR, widths)) ** 0.5 for plan in plans)
    away = abs(reached - true) * x_t.abs()
    distance = mixture_error(sampler, LINEAR, centred(0.4), x_t, reference=100)
    assert distance.median == pytest.approx(float(away.median()), rel=1e-6)
    assert distance.rms == pytest.approx(float(away.square().mean().sqrt()), rel=1e-6)


def test_on_mixtures_the_better_solver_ends_nearer_to_the_truth():
    mixture = GaussianMixture(normals(6, 4, seed=2), torch.full((6,), 0.3, dtype=torch.float64))
    x_t = normals(64, 4, seed=3)
    coarse, fine, best = (
        mixture_error(sampler, LINEAR, mixture, x_t, reference=200)
        for sampler in (Euler(10, "log_snr"), Euler(40, "log_snr"), UniPC(40, 3, spacing="log_snr"))
    )
    assert coarse.median > fine.median > 5 * best.median
    assert coarse.rms > fine.rms > best.rms


def test_a_ranking_is_sorted_honest_and_complete():
    scores = ranking(LINEAR, 8, spacings=["karras", "trailing"])
    assert len(scores) == 2 * len(SOLVERS) + 1
    assert [score.error for score in scores] == sorted(score.error for score in scores)
    for score in scores:
        own = score.solver == "Fitted"
        sampler = Fitted(8) if own else SOLVERS[score.solver](8, score.spacing)
        odd = score.solver in ("Heun", "DPM-Solver-2")
        assert score.evaluations == len(sampler.plan(LINEAR)) == (7 if odd else 8)
        assert score.error == gaussian_error(sampler, LINEAR)


@pytest.mark.parametrize(
    ("schedule", "evaluations"), [(LINEAR, 4), (LINEAR, 51), (NoiseSchedule.laplace(), 8)]
)
def test_a_ranking_leaves_out_what_was_not_fitted_to_the_problem(schedule, evaluations):
    assert {score.solver for score in ranking(schedule, evaluations)} == set(SOLVERS)


REFUSED = {
    "random end points": (
        lambda: mixture_error(DDPM(9), LINEAR, centred(1.0), normals(2, 1)),
        ConfigError,
        "DDPM",
        "adds noise",
    ),
    "no evaluations": (lambda: ranking(LINEAR, 0), ConfigError, "0"),
    "too many": (lambda: ranking(LINEAR, 2000), TimestepError, "2000", "T = 1000"),
    "spacing": (lambda: ranking(LINEAR, 9, spacings=["even"]), UnknownNameError, "'even'", "'karras'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_named_with_its_value_and_the_remedy(name):
    call, error, *fragments = REFUSED[name]
    check_error(call, error, *fragments)


# --- against the peer -----------------------------------------------------------------------------------

BEST = {
    ("linear", 6): UniPC(6, spacing="log_snr"),
    ("linear", 10): DEIS(10, 4, False, "log_snr"),
    ("linear", 20): UniPC(20, 3, spacing="log_snr"),
    ("linear", 50): DEIS(50, 4),
    ("linear", 100): LMS(100, spacing="log_snr"),
    ("scaled_linear", 10): UniPC(10, 3, lower_order_final=False, spacing="log_snr"),
    ("scaled_linear", 20): DPMSolver(20, 3, lower_order_final=False),
    ("scaled_linear", 50): LMS(50, 3),
    ("scaled_linear", 100): LMS(100, 3),
    ("scaled_linear of linear's ends", 10): DEIS(10, 4, False, "log_snr"),
    ("scaled_linear of linear's ends", 20): UniPC(20, 3, spacing="log_snr"),
    ("scaled_linear of linear's ends", 50): LMS(50),
    ("scaled_linear of linear's ends", 100): LMS(100),
    ("cosine", 10): DPMSolver(10, spacing="log_snr"),
    ("cosine", 20): DEIS(20, 4, False, "log_snr"),
    ("cosine", 50): UniPC(50, 3, spacing="log_snr"),
    ("cosine", 100): DEIS(100, 4),
}
"""The best of ours by :func:`ranking`, of settings that anybody could write down."""

SEEN = {
    "linear": {6: 0.069, 10: 0.108, 20: 0.037, 50: 0.0020, 100: 0.0009},
    "scaled_linear of linear's ends": {10: 0.080, 20: 0.013, 50: 0.0011, 100: 0.0008},
    "cosine": {10: 0.078, 20: 0.018, 50: 0.0054, 100: 0.0025},
}
"""The peer's best as measured before: DPM-Solver++ 2M and UniPC with Karras spacing."""

KARRAS, LU = {"use_karras_sigmas": True}, {"use_lu_lambdas": True}
FINAL = {"lower_order_final": True}
PEERS = [
    *(("DPMSolverMultistepScheduler", {"solver_order": n, **KARRAS}) for n in (2, 3)),
    *(("DPMSolverMultistepScheduler", {"solver_order": n, **LU}) for n in (2, 3)),
    ("DPMSolverSinglestepScheduler", {"solver_order": 3, **KARRAS, **FINAL}),
    *(("UniPCMultistepScheduler", {"solver_order": n, **KARRAS}) for n in (2, 3)),
    ("DEISMultistepScheduler", {"solver_order": 3, **KARRAS}),
    ("LMSDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", KARRAS),
    ("PNDMScheduler", {"skip_prk_steps": True}),
]
"""Of some forty of its settings those that came first or near it anywhere."""

STEPS = {"HeunDiscreteScheduler": lambda n: (n + 1) // 2, "PNDMScheduler": lambda n: n - 1}


def peer_error(schedule, evaluations, name, config):
    """As :func:`gaussian_error`."""
    scheduler = peer(name, schedule, STEPS.get(name, lambda n: n)(evaluations), **config)
    assert len(scheduler.timesteps) <= evaluations
    start = torch.ones(len(WIDTHS), 1, dtype=torch.float64) * scheduler.init_noise_sigma
    reached = run(scheduler, gaussian_eps(schedule, WIDTHS[:, None]), start)
    return float((reached.double()[:, 0].abs() / WIDTHS - 1).abs().mean())


@pytest.mark.parametrize(("schedule", "evaluations"), BEST)
def test_the_best_of_ours_is_no_worse_than_the_best_of_the_peers(schedule, evaluations):
    sampler = BEST[schedule, evaluations]
    assert len(sampler.plan(SCHEDULES[schedule])) <= evaluations
    ours = gaussian_error(sampler, SCHEDULES[schedule])
    theirs = min(peer_error(SCHEDULES[schedule], evaluations, *each) for each in PEERS)
    print(f"{schedule:32s} {evaluations:4d}  ours {ours:.5f}  peer's best {theirs:.5f}  {sampler}")
    assert ours <= theirs
    assert ours <= SEEN.get(schedule, {}).get(evaluations, 1)


# --- one step back ---


@pytest.fixture
def clusters():
    return GaussianMixture(
        torch.tensor([[-1.0, 0.3], [1.2, -0.4], [0.2, 1.5]], dtype=torch.float64),
        torch.tensor([0.3, 0.1, 0.5], dtype=torch.float64),
        torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64),
    )


def noised(mixture, t):
    """The distribution of x_t, written out."""
    alpha_bar = float(LINEAR.alpha_bar[t])
    widths = (alpha_bar * mixture.widths**2 + 1 - alpha_bar).sqrt()
    return GaussianMixture(alpha_bar**0.5 * mixture.means, widths, mixture.weights)


@pytest.mark.parametrize(("t", "s"), [(400, 399), (400, 100), (999, 0), (5, -1)])
def test_one_step_back_from_a_known_image_is_the_posterior(t, s):
    x_0, x_t = normals(1, 3, seed=1), normals(1, 3, seed=2)
    point = GaussianMixture(x_0, torch.zeros(1, dtype=torch.float64))
    found = reverse_density(point, LINEAR, x_t[0], t, s).moments
    expected = posterior(LINEAR, x_t, x_0, t, s)
    torch.testing.assert_close(found.mean, expected.mean[0])
    torch.testing.assert_close(found.covariance, torch.eye(3).double() * expected.variance)


@pytest.mark.parametrize(("t", "s"), [(400, 399), (400, 100), (900, 0)])
def test_one_step_back_is_what_bayes_says(clusters, t, s):
    x_t = torch.tensor([0.4, -0.2], dtype=torch.float64)
    found = reverse_density(clusters, LINEAR, x_t, t, s)
    side = torch.linspace(-5, 5, 501, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    ratio = float(LINEAR.alpha_bar[t] / LINEAR.alpha_bar[s])
    step = (-(x_t - ratio**0.5 * grid).square().sum(1) / (2 * (1 - ratio))).exp()
    joint = step * noised(clusters, s).density(grid)  # q(x_t | x_s) q(x_s)
    expected = joint / (joint.sum() * (side[1] - side[0]) ** 2)
    # A sum over a grid finer than the width of a Gaussian is its integral to rounding.
    torch.testing.assert_close(found.density(grid), expected, rtol=1e-9, atol=1e-9 * float(expected.max()))


def test_steps_back_from_everywhere_add_up_to_the_distribution_before():
    line = GaussianMixture(
        torch.tensor([[-1.0], [0.7]], dtype=torch.float64),
        torch.tensor([0.2, 0.4], dtype=torch.float64),
        torch.tensor([0.3, 0.7], dtype=torch.float64),
    )
    x = torch.linspace(-8, 8, 801, dtype=torch.float64)[:, None]
    weights = noised(line, 500).density(x) * 0.02
    total = sum(
        w * reverse_density(line, LINEAR, x_t, 500, 300).density(x) for w, x_t in zip(weights, x, strict=True)
    )
    torch.testing.assert_close(total, noised(line, 300).density(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("s", [-1, 0, 300])
def test_the_mean_one_step_back_is_that_of_the_exact_denoiser(clusters, s):
    x_t = torch.tensor([[0.4, -0.2]], dtype=torch.float64)
    x_0 = clusters.denoiser(LINEAR)(x_t, 400.0).x_0
    found = reverse_density(clusters, LINEAR, x_t[0], 400, s).moments
    torch.testing.assert_close(found.mean, posterior(LINEAR, x_t, x_0, 400, s).mean[0])


def test_moments_and_directions_are_those_of_the_density(clusters):
    mean, covariance = clusters.moments
    side = torch.linspace(-6, 6, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    weights = clusters.density(grid) * 0.02**2
    assert float(weights.sum()) == pytest.approx(1, rel=1e-9)
    torch.testing.assert_close(weights @ grid, mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        (weights[:, None] * (grid - mean)).T @ (grid - mean), covariance, rtol=1e-9, atol=1e-9
    )
    direction = torch.tensor([0.6, 0.8], dtype=torch.float64)
    along = clusters.along(direction).moments
    torch.testing.assert_close(along.mean, (mean @ direction)[None])
    torch.testing.assert_close(along.covariance, (direction @ covariance @ direction).view(1, 1))


def test_a_component_whose_share_vanishes_is_no_trouble(clusters):
    far = GaussianMixture(clusters.means * 1e3, clusters.widths)
    found = reverse_density(far, LINEAR, far.means[0], 10, 5)
    assert found.weights.min() == 0
    torch.testing.assert_close(found.moments.mean, found.means[0])


@pytest.mark.parametrize(
    ("x_t", "t", "s", "wrong"),
    [
        ([0.0, 0.0], 5, 5, TimestepError),
        ([0.0, 0.0], 5, 6, TimestepError),
        ([0.0, 0.0], 5, -2, TimestepError),
        ([0.0, 0.0], 1000, 5, TimestepError),
        ([0.0], 5, 4, ShapeError),
        ([0, 0], 5, 4, AlphabarError),
    ],
)
def test_a_step_that_does_not_go_back_is_refused(clusters, x_t, t, s, wrong):
    with pytest.raises(wrong):
        reverse_density(clusters, LINEAR, torch.tensor(x_t), t, s)


def test_points_have_no_density_and_weights_must_be_weights(clusters):
    with pytest.raises(NoAnswerError, match="width 0"):
        centred(0.0).density(torch.zeros(1, 1))
    for weights in ([0.0, 0.0, 0.0], [1.0, -1.0, 1.0]):
        with pytest.raises(ShapeError, match="one weight positive"):
            GaussianMixture(clusters.means, clusters.widths, torch.tensor(weights, dtype=torch.float64))

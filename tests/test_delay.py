"""A t of its own for each token: denoisers that are asked so, and plans whose rows some tokens take later."""

from itertools import pairwise

import pytest
import torch
from cases import check_error, normals
from hypothesis import given, settings
from hypothesis import strategies as st

from alphabar import (
    DDIM,
    DDPM,
    Clipped,
    Denoiser,
    DPMSolver,
    Estimate,
    Euler,
    EulerAncestral,
    NoiseSchedule,
    add_noise,
    iter_sample,
    sample,
)
from alphabar.denoise import ClassifierFree, ClassifierGuided
from alphabar.errors import ConfigError, DtypeError, NoAnswerError, ShapeError, TimestepError
from alphabar.process import PARAMETERISATIONS, target
from alphabar.samplers.exact import GaussianMixture
from alphabar.schedule import log_alpha_bar_between, noise_power

COSINE = NoiseSchedule.cosine()
ZERO_SNR = NoiseSchedule.linear().zero_terminal_snr()
SAMPLERS = {
    "DDPM": DDPM(7),
    "DDIM": DDIM(7),
    "DDIM .5": DDIM(7, 0.5),
    "Euler": Euler(7),
    "ancestral": EulerAncestral(7),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())


def each_by_itself(x_t, t):
    """A network whose answer for a token depends on that token and its t alone."""
    t = t.double().reshape(*t.shape, *[1] * (x_t.ndim - t.ndim))
    return torch.tanh(x_t * torch.cos(t / 300)) + t / 2000


# --- denoisers ---


@pytest.mark.parametrize("prediction", PARAMETERISATIONS)
@pytest.mark.parametrize("between", [0, 0.5])
def test_a_denoiser_is_asked_with_a_t_for_each_token_as_with_each_alone(prediction, between):
    """To the bit at whole t, for every kind of network; the network is told the time of each."""
    denoiser = Denoiser(each_by_itself, COSINE, prediction)
    x_t, t = normals(3, 2, 4, seed=1), torch.tensor([[[0, 17, 300, 990]], [[5, 5, 950, 1]], [[2, 7, 1, 8]]])
    t = (t - between).clamp(min=0).double() if between else t
    found = denoiser(x_t, t).x_0
    for sample_, row in enumerate(t[:, 0].tolist()):
        for token, level in enumerate(row):
            alone = denoiser(x_t[sample_, :, token][None], level).x_0[0]
            tolerance = 1e-12 if between else 0  # there ε divides by √ᾱ > 10⁻²
            torch.testing.assert_close(found[sample_, :, token], alone, rtol=tolerance, atol=tolerance)


def test_one_t_for_all_and_the_first_dimensions_of_data_of_any_shape():
    denoiser = Denoiser(each_by_itself, COSINE, "flow")
    x_t = normals(3, 5, 2)
    assert torch.equal(denoiser(x_t, torch.tensor(40)).x_0, denoiser(x_t, 40).x_0)
    assert torch.equal(denoiser(x_t, torch.full((3, 5), 40)).x_0, denoiser(x_t, 40).x_0)
    between = denoiser(x_t, torch.full((1, 5), 40.5)).x_0
    torch.testing.assert_close(between, denoiser(x_t, 40.5).x_0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prediction", PARAMETERISATIONS)
def test_what_is_clean_is_its_own_estimate_and_the_network_is_told_0(prediction):
    told = []
    denoiser = Denoiser(lambda x, t: told.append(t) or each_by_itself(x, t), COSINE, prediction)
    x_t = normals(2, 1, 3)
    found = denoiser(x_t, torch.tensor([[[-1, 700, 0]]])).x_0
    assert torch.equal(found[..., 0], x_t[..., 0])
    assert (found[..., 1:] != x_t[..., 1:]).all()
    assert told[0].shape == (2, 1, 3)
    assert torch.equal(told[0][..., 0], told[0][..., 2])


@pytest.mark.parametrize("prediction", PARAMETERISATIONS)
def test_a_perfect_network_gives_the_clean_data_at_a_t_for_each_token(prediction):
    x_0, noise = normals(3, 2, 4, seed=1), normals(3, 2, 4, seed=2)
    t = torch.tensor([0, 300, 600, 990])[None, None]
    x_t = add_noise(COSINE, x_0, noise, t)
    found = Denoiser(lambda x, time: target(COSINE, prediction, x_0, noise, t), COSINE, prediction)(x_t, t)
    torch.testing.assert_close(found.x_0, x_0, rtol=0, atol=1e-13)  # ε divides by √ᾱ > 10⁻²


def test_guidance_withholds_labels_at_each_token():
    def network(x_t, t, class_labels):
        return each_by_itself(x_t, t) + class_labels[:, None, None]

    inside = Denoiser(network, COSINE, "sample", labels=torch.tensor([1, 2]))
    guided = Clipped(ClassifierFree(inside, 3.0, null_label=0), 100.0)
    x_t = normals(2, 1, 3)
    for t in (torch.tensor([[[5, 500, -1]], [[9, 3, 70]]]), torch.tensor([[[5, 500, 7]]])):
        given, null = (
            Denoiser(network, COSINE, "sample", labels=torch.tensor(k))(x_t, t).x_0 for k in ([1, 2], [0, 0])
        )
        torch.testing.assert_close(guided(x_t, t).x_0, null + 3 * (given - null), rtol=1e-14, atol=1e-14)


# --- plans ---


@every_sampler
@pytest.mark.parametrize("noise", ["seed", "generator"])
@pytest.mark.parametrize("shape", [(2, 1, 5), (2, 5, 1), (2, 2, 5, 3)])
def test_without_a_delay_all_is_as_in_the_ordinary_chain(sampler, noise, shape):
    """To the bit: states, estimates, the noise that is added."""

    def drawn(**delay):
        source = {"seed": 3} if noise == "seed" else {"generator": torch.Generator().manual_seed(3)}
        return list(iter_sample(denoiser, shape, sampler, dtype=torch.float64, **source, **delay))

    denoiser = Denoiser(each_by_itself, COSINE, "v_prediction")
    for state, other in zip(drawn(), drawn(delay=torch.zeros(1, 1, shape[2]).long()), strict=True):
        assert (state.step, torch.full_like(other.t, state.t).tolist()) == (other.step, other.t.tolist())
        assert torch.equal(state.x_t, other.x_t)
        assert torch.equal(state.x_0, other.x_0)


def test_levels_between_the_integers_are_taken_with_a_delay_too():
    """Their coefficients are of log ᾱ by another road, and so equal to rounding."""
    denoiser, sampler = Denoiser(each_by_itself, COSINE, "v_prediction"), DDPM(5, spacing="log_snr")
    assert not all(isinstance(t, int) for t in sampler.plan(COSINE).timesteps)
    ends = [
        sample(denoiser, (2, 1, 5), sampler, seed=1, dtype=torch.float64, delay=delay)
        for delay in (None, torch.zeros(1).long())
    ]
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


@settings(max_examples=20)
@given(st.lists(st.integers(-4, 30), min_size=3, max_size=3).filter(lambda delay: max(delay) >= 0))
def test_tokens_that_a_network_takes_apart_end_alike_after_any_delay(delay):
    """A token that has rows behind it goes on from there; each ends where it ends alone."""
    plan, denoiser = DDIM(4).plan(COSINE), Denoiser(each_by_itself, COSINE, "v_prediction")
    x_t = normals(2, 1, 3)
    late = torch.tensor(delay)[None, None]
    found = sample(denoiser, x_t.shape, plan, x_t=x_t, delay=late, dtype=torch.float64)
    for token, waits in enumerate(delay):
        alone = x_t[:, :, token : token + 1]
        for row in plan.rows[max(0, -waits) :]:
            alone = row.advance(alone, [denoiser(alone, row.t).x_0])
        assert torch.equal(found[:, :, token : token + 1], alone)


def test_the_levels_of_a_pyramid():
    """Chen et al. 2024, figure 2: each token a row behind the one before it."""
    denoiser = Denoiser(each_by_itself, COSINE, "sample")
    states = list(iter_sample(denoiser, (1, 1, 3), DDIM(2), seed=0, delay=torch.arange(3)[None, None]))
    levels = [state.t[0, 0].tolist() for state in states]
    assert levels == [[999, 999, 999], [499, 999, 999], [-1, 499, 999], [-1, -1, 499], [-1, -1, -1]]
    for state, after in pairwise(states):
        waits = state.t == after.t
        assert torch.equal(state.x_t[waits], after.x_t[waits])


# --- exact answers: a sequence x_{k+1} = ρ x_k + √(1−ρ²) n, of which the mean given any levels is known ---

L, RHO = 4, 0.8
MEAN = torch.tensor([0.5, -1.0, 0.25, 2.0], dtype=torch.float64)
COVARIANCE = RHO ** (torch.arange(L)[:, None] - torch.arange(L)).abs().double()


class Sequence:
    """E[x_0 | x_t] of Gaussian data, (B, 1, L), at one t or a t for each place."""

    schedule = COSINE

    def __call__(self, x_t, t):
        log = torch.zeros(L, dtype=torch.float64)
        at = torch.as_tensor(t, dtype=torch.float64).expand(1, 1, L)[0, 0]
        log[at >= 0] = log_alpha_bar_between(COSINE, at[at >= 0])
        signal = (log / 2).exp()
        of_noisy = signal[:, None] * COVARIANCE * signal + noise_power(log).diag()
        gain = torch.linalg.solve(of_noisy, signal[:, None] * COVARIANCE).T
        return Estimate(MEAN + (x_t - signal * MEAN) @ gain.T)


def reached(steps, delay, known=None):
    """Mean and covariance of the end points of DDIM, whose map from noise to data is linear here: exact."""
    starts = torch.cat([torch.zeros(1, L), torch.eye(L)]).double()[:, None]
    if known is not None:
        starts = torch.where(delay <= -steps, known, starts)
    sampler = DDIM(steps)
    ends = sample(Sequence(), starts.shape, sampler, x_t=starts, delay=delay, dtype=torch.float64)[:, 0]
    columns = ends[1:] - ends[0]
    return ends[0], columns.T @ columns


DELAYS = {
    "together": lambda n: torch.zeros(L).long(),
    "pyramid": lambda n: torch.arange(L) * (n // 8),
    "one after another": lambda n: torch.arange(L) * n,
    "backwards": lambda n: torch.arange(L).flip(0) * n,
}


@pytest.mark.parametrize("delay", DELAYS.values(), ids=DELAYS.keys())
def test_a_gaussian_sequence_is_sampled_right_whatever_the_delays(delay):
    """Mean and covariance of the data, up to an error of first order in the steps, which is extrapolated."""
    coarse, fine = (reached(n, delay(n)[None, None]) for n in (40, 80))
    for rough, better, exact in zip(coarse, fine, (MEAN, COVARIANCE), strict=True):
        assert (rough - better).abs().max() < 0.1
        torch.testing.assert_close(2 * better - rough, exact, rtol=0, atol=3e-3)


def test_tokens_that_are_known_stay_and_the_others_are_drawn_given_them():
    """The conditional Gaussian: m_a + C_ab C_bb⁻¹ (x_b − m_b), C_aa − C_ab C_bb⁻¹ C_ba."""
    known, a, b = torch.tensor([0.0, 1.5, 0.0, -0.7]).double(), [0, 2], [1, 3]
    gain = COVARIANCE[a][:, b] @ COVARIANCE[b][:, b].inverse()
    mean = MEAN[a] + gain @ (known[b] - MEAN[b])
    covariance = COVARIANCE[a][:, a] - gain @ COVARIANCE[b][:, a]

    def conditional(n):
        found = reached(n, torch.tensor([0, -n, n // 4, -n])[None, None], known)
        assert torch.equal(found[0][b], known[b])
        return found[0][a], found[1][a][:, a]

    coarse, fine = conditional(40), conditional(80)
    for rough, better, exact in zip(coarse, fine, (mean, covariance), strict=True):
        torch.testing.assert_close(2 * better - rough, exact, rtol=0, atol=3e-3)


def test_ancestral_sampling_with_delays_draws_from_the_sequence():
    count = 8_000
    delay = (torch.arange(L) * 10)[None, None]
    x = sample(Sequence(), (count, 1, L), DDPM(120), seed=1, delay=delay, dtype=torch.float64)[:, 0]
    # Five standard errors, √(1/n) of a mean and at most √(2/n) of a covariance, and the error of 120 steps.
    torch.testing.assert_close(x.mean(0), MEAN, rtol=0, atol=5 / count**0.5 + 0.01)
    torch.testing.assert_close(x.T.cov(), COVARIANCE, rtol=0, atol=5 * (2 / count) ** 0.5 + 0.02)


# --- what is refused ---


@pytest.mark.parametrize(
    ("sampler", "delay", "error", "fragments"),
    [
        (DPMSolver(5), torch.zeros(1, 1, 3).long(), ConfigError, ("remembers 1", "ddim")),
        (DDIM(5, inverse=True), torch.zeros(1, 1, 3).long(), ConfigError, ("from data to noise",)),
        (DDPM(5, "learned_range"), torch.zeros(1, 1, 3).long(), ConfigError, ("fixed_small",)),
        (DDIM(5), torch.zeros(1, 1, 3), DtypeError, ("float32", "integers")),
        (DDIM(5), [0, 1, 2], DtypeError, ("list",)),
        (DDIM(5), torch.zeros(1, 1, 4).long(), ShapeError, ("delay has shape (1, 1, 4)", "(2, 1, 3)")),
        (DDIM(5), torch.zeros(1, 1, 0).long(), ShapeError, ("a number for each token",)),
        (DDIM(5), torch.full((1, 1, 3), -5), ConfigError, ("5 rows", "-5")),
    ],
)
def test_a_delay_that_cannot_be_is_a_named_error(sampler, delay, error, fragments):
    denoiser = Denoiser(each_by_itself, COSINE, "sample")
    check_error(lambda: sample(denoiser, (2, 1, 3), sampler, seed=0, delay=delay), error, *fragments)


@pytest.mark.parametrize(
    ("t", "error", "fragments"),
    [
        (torch.tensor([[[0, 1000, 3]]]), TimestepError, ("1000", "0 … 999")),
        (torch.tensor([[[0, -2, 3]]]), TimestepError, ("-2",)),
        (torch.tensor([[[0.5, -0.5, 3]]]), TimestepError, ("-0.5",)),
        (torch.zeros(3, 1, 3).long(), ShapeError, ("(3, 1, 3)", "(2, 1, 3)")),
        (torch.tensor([[[0, 999, 3]]]), NoAnswerError, ("epsilon", "ᾱ_t = 0")),
    ],
)
def test_a_t_that_cannot_be_is_a_named_error(t, error, fragments):
    denoiser = Denoiser(each_by_itself, ZERO_SNR, "epsilon")
    check_error(lambda: denoiser(normals(2, 1, 3), t), error, *fragments)


def test_what_takes_one_t_a_sample_says_so():
    t, x_t = torch.zeros(1, 1, 3).long(), normals(2, 1, 3)
    inside = Denoiser(each_by_itself, COSINE, "sample")
    classifier = ClassifierGuided(inside, lambda x, t: x[:, 0], torch.tensor([0, 1]))
    check_error(lambda: classifier(x_t, t), ConfigError, "one t for a sample")
    labelled = Denoiser(lambda x, t, class_labels: x, COSINE, "sample", labels=torch.tensor([0, 1]))
    guided = ClassifierFree(labelled, 2.0, 2, interval=(0, 500))
    check_error(lambda: guided(x_t, t), ConfigError, "interval")
    exact = GaussianMixture(torch.zeros(1, 3), torch.ones(1)).denoiser(COSINE)
    check_error(lambda: exact(x_t[:, 0], t[:, 0]), ShapeError, "(1, 3)")

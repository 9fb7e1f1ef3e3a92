"""The bound is the sum of its terms, the flow changes variables, and both find entropies that are known."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from cases import COSINE, Network, check_error, denoiser, normals, schedules
from hypothesis import given
from hypothesis import strategies as st
from improved_diffusion import calc_bpd_loop
from torch import nn
from torch.distributions import Normal, kl_divergence

from alphabar import (
    DDIM,
    DDPM,
    ClassifierFree,
    ClassifierGuided,
    Clipped,
    Denoiser,
    Estimate,
    GaussianMixture,
    NoiseSchedule,
    normal,
    posterior,
)
from alphabar.errors import ConfigError, DataError, DtypeError, NoAnswerError, ShapeError
from alphabar.evaluation import bits_per_dimension, flow_bits_per_dimension, joined
from alphabar.evaluation.bound import CHOICE, Bound, _chosen
from alphabar.evaluation.flow import PROBES
from alphabar.evaluation.likelihood import STREAM
from alphabar.samplers.editing import KNOWN
from alphabar.schedule import levels_at
from alphabar.training import Objective, streams

DENSITY = {"discrete": False, "dtype": torch.float64}
CHAINS = [
    DDPM(),
    DDPM(7),
    DDPM(9, "fixed_large", "log_snr"),
    DDPM(variance="learned"),
    DDPM(8, "learned_range"),
]
EDM = NoiseSchedule.edm(1000, sigma_min=0.005)


def gaussian(width: float, size: int = 2) -> GaussianMixture:
    return GaussianMixture(torch.zeros(1, size).double(), torch.tensor([width]).double())


MIXTURE = GaussianMixture(
    torch.tensor([[-0.4, 0.1], [0.3, 0.3], [0.2, -0.4]]).double(), torch.tensor([0.06, 0.15, 0.1]).double()
)


def bits(mixture: GaussianMixture, x: torch.Tensor) -> torch.Tensor:
    """−log₂ p(x)/D of each."""
    return -mixture.density(x).log2() / x.shape[1]


def pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    return (normals(*shape, seed=seed) * 120 + 128).round().clamp(0, 255) / 127.5 - 1


def noises(shape, steps: int, seed: int = 0) -> list[torch.Tensor]:
    """The noise of each step, by its address."""
    return [normal(shape, seed=seed, stream=STREAM + k).double() for k in range(steps)]


@dataclass
class Guess:
    """Answers with a smooth function of x_t, and one of its variance."""

    schedule: NoiseSchedule

    def __call__(self, x_t, t):
        return Estimate(0.9 * torch.tanh(2 * x_t), torch.sin(3 * x_t) - 0.2)


# --- the bound ---


@pytest.mark.parametrize("sampler", CHAINS, ids=str)
def test_the_terms_are_the_divergences_of_distributions_written_out(sampler):
    schedule = NoiseSchedule.cosine(24)
    x_0, guess = normals(3, 2, 4, seed=1), Guess(schedule)
    found = bits_per_dimension(guess, x_0, sampler, **DENSITY)
    plan = sampler.plan(schedule)
    stops = levels_at(schedule, plan.timesteps[::-1])
    for k, (row, level, noise) in enumerate(zip(plan.rows[::-1], stops, noises(x_0.shape, 24), strict=False)):
        alpha_bar = math.exp(level.log_alpha_bar)
        x_t = alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * noise
        estimate = guess(x_t, level.t)
        mean = row.x * x_t + row.history[0] * estimate.x_0
        if k:
            before = math.exp(stops[k - 1].log_alpha_bar)
            true = Normal(
                row.x * x_t + row.history[0] * x_0,
                ((1 - before) / (1 - alpha_bar) * (1 - alpha_bar / before)) ** 0.5,
            )
            cost = kl_divergence(true, Normal(mean, row.z_scale(estimate.variance)))
        elif sampler.variance == "learned":
            cost = -Normal(mean, (estimate.variance / 2).exp()).log_prob(x_0)
        elif sampler.variance == "learned_range":
            before = math.exp(stops[1].log_alpha_bar)
            low, high = (1 - alpha_bar) / (1 - before) * (1 - before / alpha_bar), 1 - alpha_bar
            share = (estimate.variance + 1) / 2
            cost = -Normal(mean, (low ** (1 - share) * high**share) ** 0.5).log_prob(x_0)
        else:
            cost = -Normal(mean, ((1 - alpha_bar) / alpha_bar) ** 0.5).log_prob(x_0)
        expected = cost.flatten(1).mean(1) / math.log(2)
        torch.testing.assert_close(found.terms_each[:, k], expected, rtol=1e-11, atol=1e-13)
    last = Normal(alpha_bar**0.5 * x_0, (1 - alpha_bar) ** 0.5)
    prior = kl_divergence(last, Normal(0.0, 1.0)).flatten(1).mean(1) / math.log(2)
    torch.testing.assert_close(found.prior_each, prior, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(found.each, found.prior_each + found.terms_each.sum(1), rtol=1e-13, atol=0)
    assert found.total == pytest.approx(found.prior + float(found.terms.sum()))


def test_a_row_of_the_chain_is_the_posterior_that_the_terms_compare_with():
    x_t, x_0 = normals(2, 3, seed=1), normals(2, 3, seed=2)
    row = DDPM().plan(COSINE).rows[500]
    exact = posterior(COSINE, x_t, x_0, row.t, row.s)
    torch.testing.assert_close(row.advance(x_t, (x_0,), torch.zeros_like(x_t)), exact.mean)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned", "learned_range"])
@pytest.mark.parametrize(
    "schedule", [NoiseSchedule.linear(40, rescale_to_steps=True), NoiseSchedule.cosine(40)]
)
def test_the_bound_is_the_one_of_guided_diffusion(schedule, variance):
    x_0, guess = pixels(3, 1, 4, 4), Guess(schedule)
    peers = calc_bpd_loop(schedule.beta.numpy(), guess, x_0, noises(x_0.shape, 40, seed=5), variance)
    found = bits_per_dimension(Clipped(guess), x_0, DDPM(variance=variance), seed=5, dtype=torch.float64)
    torch.testing.assert_close(found.each, peers["total_bpd"], rtol=1e-9, atol=0)
    torch.testing.assert_close(found.terms_each, peers["vb"].flip(1), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(found.prior_each, peers["prior_bpd"], rtol=1e-6, atol=1e-15)


def test_the_values_of_a_pixel_have_probabilities_that_sum_to_one():
    values = (torch.arange(256).double() / 127.5 - 1)[:, None]
    noise = NoiseSchedule.from_beta(
        [1.0]
    )  # x_T says nothing: the prior costs nothing, and L_0 is −log p(x_0)
    for place in (0.1, -0.97, 1.5):
        wide = Denoiser(lambda x_t, t, place=place: torch.full_like(x_t, place), noise, "sample")
        found = bits_per_dimension(wide, values, DDPM())
        assert found.prior == 0
        assert float(torch.exp2(-found.each).sum()) == pytest.approx(
            1, abs=256e-12
        )  # each has at least 1e-12


@dataclass
class Knowing:
    """The mean of Gaussian data, and the variance of a step from t to s: b² Var(x_0 | x_t) + β̃."""

    width: float
    schedule: NoiseSchedule
    before: dict[float, float]

    def __call__(self, x_t, t):
        (level,) = levels_at(self.schedule, [t])
        a, v, s = level.signal, level.sigma**2, math.exp(self.before[t])
        power = a * a * self.width**2 + v
        left = self.width**2 * v / power
        between = 1 - a * a / s
        scale = s**0.5 * between / v
        variance = scale**2 * left + (1 - s) / v * between
        return Estimate(a * self.width**2 / power * x_t, torch.full_like(x_t, math.log(variance)))


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_with_the_right_variance_the_bound_is_the_entropy_at_any_number_of_steps(steps):
    width, x = 0.5, gaussian(0.5, 64).draw(4000, generator=torch.Generator().manual_seed(1))
    stops = levels_at(EDM, DDPM(steps, spacing="log_snr").plan(EDM).timesteps)
    before = {t.t: s.log_alpha_bar for t, s in pairwise(stops)} | {stops[-1].t: 0.0}
    found = bits_per_dimension(
        Knowing(width, EDM, before), x, DDPM(steps, "learned", "log_snr"), seed=2, **DENSITY
    )
    excess = found.each - bits(gaussian(width, 64), x)
    entropy = math.log2(2 * math.pi * math.e * width**2) / 2
    assert abs(float(excess.mean())) < 3 * float(excess.std()) / 4000**0.5 < 0.015 * entropy
    assert float(excess.mean()) + entropy == pytest.approx(entropy, rel=0.005)
    low, high = found.interval
    assert low < entropy < high


def gap(width: float, steps: int, schedule: NoiseSchedule) -> float:
    """What the bound of a chain of small variance exceeds the entropy of Gaussian data by, in bits.

    A step's Gaussian has the variance β̃ where β̃ + b² Var(x_0 | x_t) is right.
    """
    stops = levels_at(schedule, DDPM(steps, spacing="log_snr").plan(schedule).timesteps)
    left = [width**2 * t.sigma**2 / (t.signal**2 * width**2 + t.sigma**2) for t in stops]
    ratios = [
        v * (s.signal**2 / s.sigma**2 - t.signal**2 / t.sigma**2)
        for (t, s), v in zip(pairwise(stops), left, strict=False)
    ]
    last = left[-1] / stops[-1].sigma_ve ** 2
    end = stops[0].signal ** 2 * width**2 + stops[0].sigma ** 2  # the variance of x_T, where the prior has 1
    nats = sum(r - math.log1p(r) for r in ratios) + last - 1 - math.log(last) + end - 1 - math.log(end)
    return nats / 2 / math.log(2)


def test_the_gap_of_the_bound_is_known_and_falls_with_the_number_of_steps():
    width, data = 0.5, gaussian(0.5, 64)
    x = data.draw(200, generator=torch.Generator().manual_seed(1))
    for steps in (25, 50, 100):
        found = bits_per_dimension(data.denoiser(EDM), x, DDPM(steps, spacing="log_snr"), **DENSITY)
        excess, expected = found.each - bits(data, x), gap(width, steps, EDM)
        assert abs(float(excess.mean()) - expected) < 3 * float(excess.std()) / 200**0.5 < 0.1 * expected
    ratios = [gap(width, n, EDM) / gap(width, 2 * n, EDM) for n in (125, 250, 500)]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] == pytest.approx(2, abs=0.03)  # first order
    fine = 2 * gap(width, 1000, EDM) - gap(width, 500, EDM)  # and what first order leaves is nothing
    assert abs(fine) < 0.005 * math.log2(2 * math.pi * math.e * width**2) / 2


def test_the_bound_of_a_mixture_comes_near_its_cross_entropy():
    x, bins = MIXTURE.draw(2000, generator=torch.Generator().manual_seed(1)), math.log2(127.5)
    schedule, true = NoiseSchedule.edm(1000, sigma_min=0.01), bits(MIXTURE, x)
    small, large = (  # the larger variance is right where data are smooth, to first order in the steps
        bits_per_dimension(MIXTURE.denoiser(schedule), x, DDPM(300, variance, "log_snr"), **DENSITY).each
        - true
        for variance in ("fixed_small", "fixed_large")
    )
    assert small.mean() > 3 * large.mean().abs()
    assert float((large + true).mean()) + bins == pytest.approx(float(true.mean()) + bins, rel=0.005)


def test_of_points_on_the_grid_the_bound_goes_to_the_logarithm_of_their_number():
    points = pixels(32, 2, seed=3)
    data, x_0 = GaussianMixture(points, torch.zeros(32).double()), points.repeat(16, 1)
    coarse, fine = (
        bits_per_dimension(data.denoiser(NoiseSchedule.edm(steps, sigma_min=1e-3)), x_0, dtype=torch.float64)
        for steps in (200, 400)
    )
    assert fine.terms[0] < 1e-9  # so near to clean data there is no doubt about the values
    assert coarse.total > fine.total > math.log2(32) / 2
    limit = 2 * fine.each - coarse.each
    assert abs(float(limit.mean()) - math.log2(32) / 2) < 3 * float(limit.std()) / 512**0.5 < 0.15


# --- fewer terms ---


@given(schedules, st.integers(3, 30), st.integers(0, 99))
def test_the_terms_that_are_drawn_stand_for_all(schedule, evaluations, seed):
    levels = levels_at(schedule, range(len(schedule)))
    chosen, counts = _chosen(levels, evaluations, seed)
    assert len(set(chosen)) == len(chosen) == len(counts) <= evaluations
    assert (chosen[0], counts[0]) == (0, 1)
    assert sum(counts) == pytest.approx(len(schedule))
    assert len(schedule) > evaluations or set(counts) == {1}


def test_fewer_terms_estimate_the_same_bound_and_say_how_well():
    x, sampler = MIXTURE.draw(60, generator=torch.Generator().manual_seed(1)), DDPM(200, spacing="log_snr")
    whole = bits_per_dimension(MIXTURE.denoiser(EDM), x, sampler, **DENSITY)
    levels, off, of_choice = levels_at(EDM, whole.t), [], []
    for seed in range(300):
        chosen, counts = _chosen(levels, 41, seed)
        t, terms = tuple(whole.t[k] for k in chosen), whole.terms_each[:, chosen]
        some = Bound(whole.each, whole.prior_each, terms, t, tuple(counts))  # the scatter of the images aside
        off.append(some.prior + float(some.terms @ torch.tensor(counts).double()) - whole.total)
        of_choice.append(some.standard_error**2 - whole.standard_error**2)
    off = torch.tensor(off)
    assert abs(off.mean()) < 3 * off.std() / 300**0.5 < 0.05
    assert math.sqrt(sum(of_choice) / 300) == pytest.approx(float(off.std()), rel=0.15)
    drawn = bits_per_dimension(MIXTURE.denoiser(EDM), x, sampler, evaluations=41, **DENSITY)
    assert len(drawn.t) <= 41
    assert sum(drawn.counts) == pytest.approx(200)
    torch.testing.assert_close(drawn.terms[0], whole.terms[0])
    expected = drawn.prior_each + drawn.terms_each @ torch.tensor(drawn.counts).double()
    torch.testing.assert_close(drawn.each, expected)


# --- the flow ---


@dataclass
class Correlated:
    """The mean of Gaussian data with a covariance."""

    covariance: torch.Tensor
    schedule: NoiseSchedule

    def __call__(self, x_t, t):
        (level,) = levels_at(self.schedule, [t])
        power = level.signal**2 * self.covariance + level.sigma**2 * torch.eye(len(self.covariance)).double()
        return Estimate(x_t @ torch.linalg.solve(power, level.signal * self.covariance))


def test_the_flow_of_correlated_data_is_their_density():
    root = normals(4, 4, seed=1) / 2
    covariance = root @ root.T + 0.1 * torch.eye(4)
    x = normals(20, 4, seed=2) @ torch.linalg.cholesky(covariance).T
    noise = levels_at(EDM, [0])[0].sigma_ve  # what is left of it at t = 0
    true = torch.distributions.MultivariateNormal(
        torch.zeros(4).double(), covariance + noise**2 * torch.eye(4)
    )
    found = flow_bits_per_dimension(Correlated(covariance, EDM), x, probes=None, **DENSITY)
    expected = -true.log_prob(x) / 4 / math.log(2)
    # x_T has the variance ᾱ Σ + 1 − ᾱ, and ᾱ_T = 1/6401.
    torch.testing.assert_close(found.each, expected, rtol=0, atol=2e-3)
    assert found.total == pytest.approx(float(expected.mean()), abs=2e-4)


def test_the_flow_converges_with_order_four_and_its_error_is_foretold():
    x, data = (
        gaussian(0.5).draw(40, generator=torch.Generator().manual_seed(1)),
        gaussian(0.5).denoiser(COSINE),
    )
    runs = {n: flow_bits_per_dimension(data, x, n, **DENSITY) for n in (24, 48, 192)}
    coarse, fine = (runs[192].each - runs[n].each for n in (24, 48))
    assert math.log2(float(coarse.norm() / fine.norm())) > 3.8
    for n, error in ((24, coarse), (48, fine)):
        assert 0.7 < float(runs[n].step_error_each.norm() / error.norm()) < 2.5
    low, high = runs[48].interval
    assert high - low == pytest.approx(3.92 * runs[48].standard_error + 2 * abs(runs[48].step_error))


def test_signs_estimate_the_trace_without_bias():
    x = MIXTURE.draw(1, generator=torch.Generator().manual_seed(3)).expand(4000, 2)
    data = MIXTURE.denoiser(COSINE)
    exact = flow_bits_per_dimension(data, x[:1], 16, probes=None, **DENSITY).total
    found = flow_bits_per_dimension(data, x, 16, **DENSITY)
    assert abs(found.total - exact) < 3 * found.standard_error
    many = flow_bits_per_dimension(data, x[:1000], 16, probes=4, **DENSITY)
    assert float(many.each.std() / found.each.std()) == pytest.approx(0.5, abs=0.05)


def test_of_independent_dimensions_one_sign_is_exact():
    x = gaussian(0.5, 8).draw(5, generator=torch.Generator().manual_seed(1))
    data = gaussian(0.5, 8).denoiser(COSINE)
    one, exact = (flow_bits_per_dimension(data, x, 8, probes=probes, **DENSITY) for probes in (1, None))
    torch.testing.assert_close(one.each, exact.each, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "schedule", [COSINE, NoiseSchedule.rectified_flow(), EDM, COSINE.zero_terminal_snr()]
)
def test_the_flow_of_a_mixture_is_its_density(schedule):
    x = MIXTURE.draw(200, generator=torch.Generator().manual_seed(1))
    found, true = (
        flow_bits_per_dimension(MIXTURE.denoiser(schedule), x, 48, probes=None, **DENSITY),
        bits(MIXTURE, x),
    )
    assert abs(found.total - float(true.mean())) < 0.001
    assert float((found.each - true).abs().max()) < 0.05  # far out, where the last noise is seen


def test_eight_bit_data_have_bits_of_their_bins():
    x = (MIXTURE.draw(2000, generator=torch.Generator().manual_seed(1)).clamp(-1, 1) * 127.5 + 127.5).round()
    x = x / 127.5 - 1
    inside = Normal(MIXTURE.means, MIXTURE.widths[:, None])
    bins = inside.cdf(x[:, None] + 1 / 255) - inside.cdf(x[:, None] - 1 / 255)
    true = -bins.prod(-1).mean(-1).log2() / 2
    found = flow_bits_per_dimension(MIXTURE.denoiser(EDM), x, 32, dtype=torch.float64)
    assert found.total == pytest.approx(float(true.mean()), rel=0.005)
    assert abs(found.total - float(true.mean())) < 3 * float((found.each - true).std()) / 2000**0.5


# --- both ---


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3 + 16, 96), nn.Linear(96, 96), nn.Linear(96, 3)])

    def forward(self, x, t):
        angles = torch.arange(1, 9) * t.float()[:, None] * 3 / 1000
        hidden = nn.functional.silu(self.layers[0](torch.cat([x, angles.sin(), angles.cos()], 1)))
        return self.layers[2](hidden + nn.functional.silu(self.layers[1](hidden)))


def test_both_agree_on_a_network_that_has_learned_digits(digits):
    """Of digits their three largest components, blurred: what so small a network learns well in seconds."""
    flat = digits.flatten(1) - digits.flatten(1).mean(0)
    x = (flat @ torch.linalg.svd(flat, full_matrices=False).Vh[:3].T / 3).float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, objective = Small(), Objective.of(COSINE, "v_prediction")
        optimizer = torch.optim.AdamW(network.parameters(), 4e-3)
        for step in range(300):
            optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / 300)
            clean = x[torch.randint(len(x), (128,))] + 0.15 * torch.randn(128, 3)
            noise, t = torch.randn(128, 3), torch.randint(1000, (128,))
            optimizer.zero_grad()
            objective.loss(network(*objective.ask(clean, noise, t)), clean, noise, t).backward()
            optimizer.step()
        held = x[-400:] + 0.15 * torch.randn(400, 3)
    learned = Denoiser(network.requires_grad_(False), COSINE, "v_prediction")
    flow = flow_bits_per_dimension(learned, held, 32, discrete=False)
    bound = bits_per_dimension(learned, held, DDPM(300, "fixed_large", "log_snr"), discrete=False)
    assert flow.step_error < 0.001
    assert bound.interval[0] < flow.interval[1]
    assert flow.interval[0] < bound.interval[1]
    assert abs(bound.total - flow.total) < 3 * float((bound.each - flow.each).std()) / 20 < 0.2


ESTIMATES = {
    "bound": lambda *a, **k: bits_per_dimension(*a, DDPM(8), **k),
    "flow": lambda *a, **k: flow_bits_per_dimension(*a, 4, probes=2, **k),
}
each_estimate = pytest.mark.parametrize("estimate", ESTIMATES.values(), ids=ESTIMATES.keys())


@each_estimate
def test_an_image_counts_the_same_in_any_batch(estimate):
    x_0, ask = pixels(7, 3, 4, 4).float(), denoiser()
    whole = estimate(ask, x_0, seed=3, first=10)
    parts = joined(
        [estimate(ask, x_0[rows], seed=3, first=10 + rows.start) for rows in (slice(0, 2), slice(2, 7))]
    )
    torch.testing.assert_close(parts.each, whole.each, rtol=1e-5, atol=0)
    assert parts.standard_error == pytest.approx(whole.standard_error, rel=1e-4)
    other = estimate(ask, x_0, seed=4, first=10)
    assert not torch.isclose(other.each, whole.each, rtol=1e-4).any()


@each_estimate
def test_labels_are_those_of_the_images(estimate):
    def network(x, t, class_labels):
        return x * class_labels.to(x)[:, None, None, None]

    x_0, labels = pixels(4, 1, 2, 2).float(), torch.tensor([0, 1, 0, 1])
    both = estimate(Denoiser(network, COSINE, "v_prediction", labels), x_0)
    for k in range(4):
        one = estimate(Denoiser(network, COSINE, "v_prediction", labels[k : k + 1]), x_0[k : k + 1], first=k)
        torch.testing.assert_close(one.each[0], both.each[k], rtol=1e-5, atol=0)
        assert one.standard_error == math.inf


def test_at_zero_terminal_snr_the_prior_costs_nothing_and_epsilon_has_no_bound_but_a_flow():
    zero = NoiseSchedule.cosine(20).zero_terminal_snr()
    x_0 = pixels(2, 3, 4, 4).float()
    found = bits_per_dimension(denoiser(schedule=zero), x_0)
    assert found.prior == 0
    assert found.each.isfinite().all()
    assert flow_bits_per_dimension(denoiser("epsilon", zero), x_0, 4).each.isfinite().all()
    check_error(lambda: bits_per_dimension(denoiser("epsilon", zero), x_0), NoAnswerError, "t = 19")


def test_no_noise_is_that_of_training_or_sampling():
    training = [value for value in vars(streams).values() if isinstance(value, int)]
    most = 1_000_000  # of levels, and so of steps
    assert max(*training, KNOWN + most) < STREAM
    assert STREAM + most < CHOICE < PROBES < PROBES + most < 2**32


# --- what has no answer ---

GREY = Denoiser(lambda x_t, t: 0 * x_t, COSINE, "sample")
IMAGES = pixels(2, 1, 4, 4).float()


def guided(x_t, t, class_labels):
    return x_t


LABELS = torch.tensor([0, 1])


@each_estimate
@pytest.mark.parametrize(
    ("ask", "x_0", "error", "says"),
    [
        (GREY, IMAGES * 127.5, DataError, "images / 127.5 - 1"),
        (GREY, IMAGES + 0.003, DataError, "discrete=False"),
        (GREY, IMAGES.where(IMAGES > 0, math.nan), DataError, "NaN"),
        (GREY, (IMAGES * 0).long(), DtypeError, "int64"),
        (GREY, IMAGES[0, 0, 0], ShapeError, "(4,)"),
        (GREY, IMAGES[:0], ShapeError, "(0, 1, 4, 4)"),
        (Denoiser(lambda x_t, t: x_t * math.nan, COSINE, "sample"), IMAGES, NoAnswerError, "NaN or infinity"),
        (lambda x_t, t: Estimate(x_t[:, :, :2]), IMAGES, ShapeError, "must return the shape"),
        (
            Clipped(ClassifierFree(Denoiser(guided, COSINE, "sample", LABELS), 2.0, 2)),
            IMAGES,
            ConfigError,
            "guided",
        ),
        (ClassifierGuided(GREY, guided, LABELS), IMAGES, ConfigError, "ClassifierGuided"),
    ],
)
def test_what_has_no_likelihood_is_said(estimate, ask, x_0, error, says):
    if not hasattr(ask, "schedule"):
        ask.schedule = COSINE
    check_error(lambda: estimate(ask, x_0), error, says)


def test_labels_without_guidance_have_one():
    plain = Denoiser(guided, COSINE, "sample", LABELS)
    found, wrapped = (
        bits_per_dimension(each, IMAGES, DDPM(5)) for each in (plain, ClassifierFree(plain, 1.0, 2))
    )
    assert torch.equal(found.each, wrapped.each)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: bits_per_dimension(GREY, IMAGES, DDIM(5)), DtypeError, "ancestral sampling"),
        (lambda: bits_per_dimension(GREY, IMAGES, DDPM(5, "learned_range")), ShapeError, "variance"),
        (lambda: bits_per_dimension(GREY, IMAGES, evaluations=2), ConfigError, "at least 3"),
        (lambda: bits_per_dimension(GREY, IMAGES, seed=-1), ConfigError, "seed"),
        (lambda: flow_bits_per_dimension(GREY, IMAGES, 5), ConfigError, "even"),
        (lambda: flow_bits_per_dimension(GREY, IMAGES, probes=0), ConfigError, "probes"),
        (
            lambda: flow_bits_per_dimension(
                Denoiser(GREY.network, NoiseSchedule.cosine(1), "sample"), IMAGES
            ),
            ConfigError,
            "two levels",
        ),
        (
            lambda: flow_bits_per_dimension(
                Denoiser(torch.no_grad()(lambda x_t, t: x_t / 2), COSINE, "sample"), IMAGES
            ),
            NoAnswerError,
            "no_grad",
        ),
        (lambda: joined([]), ConfigError, "at least one"),
        (
            lambda: joined([bits_per_dimension(GREY, IMAGES, DDPM(n)) for n in (2, 3)]),
            ConfigError,
            "different settings",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named(call, error, says):
    check_error(call, error, says)


def test_a_network_that_learns_its_variance_may_be_used_without():
    both = Denoiser(Network(learns_variance=True), COSINE, "v_prediction")
    x_0 = pixels(2, 3, 4, 4).float()
    found = bits_per_dimension(both, x_0, DDPM(6))

    def mean(x_t, t):
        return both.network(x_t, t).chunk(2, 1)[0]

    assert torch.equal(
        found.each, bits_per_dimension(Denoiser(mean, COSINE, "v_prediction"), x_0, DDPM(6)).each
    )

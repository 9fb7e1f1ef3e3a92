"""Guidance: wrappers of a denoiser, each checked where the right answer is known."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from cases import Known, check_error, normals

from alphabar import DDIM, DDPM, Clipped, Denoiser, Estimate, GaussianMixture, NoiseSchedule, sample
from alphabar.denoise.guidance import ClassifierFree, ClassifierGuided, DynamicThreshold
from alphabar.errors import ConfigError, DtypeError, NoAnswerError, ShapeError
from alphabar.process import PARAMETERISATIONS, addressed, coefficients_at, to_eps

F64 = torch.float64
COSINE = NoiseSchedule.cosine()
ZERO_SNR = NoiseSchedule.linear().zero_terminal_snr()
LABELS = torch.tensor([0, 2, 1])
NULL = 3
X = normals(3, 2, 4, 4, seed=1)


class Network(torch.nn.Module):
    """A different function of x_t for each label, the last label included; it counts its calls."""

    def __init__(self, learns_variance=False):
        super().__init__()
        self.scale = torch.tensor([0.5, -0.3, 0.8, 0.1])
        self.learns_variance = learns_variance
        self.batches = []

    def forward(self, x_t, t, class_labels):
        self.batches.append(class_labels.tolist())
        shift = class_labels.to(x_t)[:, None, None, None] - 1
        output = torch.tanh(self.scale.to(x_t)[class_labels][:, None, None, None] * x_t + shift)
        return torch.cat([output, output / 2 + shift], 1) if self.learns_variance else output


def conditional(prediction="v_prediction", schedule=COSINE, labels=LABELS, **more):
    return Denoiser(Network(**more), schedule, prediction, labels)


def unconditional(prediction="v_prediction"):
    return conditional(prediction, labels=torch.full((3,), NULL))


# --- classifier-free ---


@pytest.mark.parametrize("prediction", PARAMETERISATIONS)
@pytest.mark.parametrize("t", [0, 500, 0.5, 990])
def test_scale_1_is_the_label_and_scale_0_is_none_to_the_last_bit(prediction, t):
    guided = {scale: ClassifierFree(conditional(prediction), scale, NULL)(X, t).x_0 for scale in (0, 1)}
    assert torch.equal(guided[1], conditional(prediction)(X, t).x_0)
    assert torch.equal(guided[0], unconditional(prediction)(X, t).x_0)


@pytest.mark.parametrize("prediction", PARAMETERISATIONS)
@pytest.mark.parametrize("scale", [-1.0, 0.5, 3.0])
def test_guiding_x_0_is_guiding_what_the_network_returns(prediction, scale):
    network, t = conditional(prediction).network, torch.full((3,), 400)
    given = coefficients_at(COSINE, PARAMETERISATIONS[prediction], 400).input * X
    output = network(given, t, torch.full_like(LABELS, NULL))
    output = output + scale * (network(given, t, LABELS) - output)
    expected = Denoiser(lambda x_t, t: output, COSINE, prediction)(X, 400).x_0
    found = ClassifierFree(conditional(prediction), scale, NULL)(X, 400).x_0
    # Rounding of numbers up to 10, ε-prediction's divided by √ᾱ = .8.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_both_halves_are_asked_in_one_call_where_guidance_acts_and_the_label_alone_elsewhere():
    guided = ClassifierFree(conditional(), 2.0, NULL, interval=(200, 700))
    both = [*LABELS.tolist(), NULL, NULL, NULL]
    for t, asked in ((199, LABELS.tolist()), (200, both), (0.5, LABELS.tolist()), (700, both), (701, None)):
        found = guided(X, t).x_0
        assert guided.denoiser.network.batches.pop() == (asked or LABELS.tolist())
        assert not guided.denoiser.network.batches
        assert torch.equal(found, conditional()(X, t).x_0) == (asked != both)


@pytest.mark.parametrize("interval", [None, (0, 100)])
def test_a_learned_variance_is_that_of_the_label(interval):
    guided = ClassifierFree(conditional(learns_variance=True), 2.0, NULL, interval=interval)
    expected = conditional(learns_variance=True)(X, 400)
    assert torch.equal(guided(X, 400).variance, expected.variance)
    sampler = DDPM(4, "learned_range")
    assert sample(guided, X.shape, sampler, seed=1, dtype=F64).isfinite().all()


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_rescaling_restores_its_share_of_the_spread(share):
    def spread(x):
        return x.flatten(1).std(1)

    given, plain = conditional()(X, 600).x_0, ClassifierFree(conditional(), 4.0, NULL)(X, 600).x_0
    found = ClassifierFree(conditional(), 4.0, NULL, rescale=share)(X, 600).x_0
    # Equation 16 is linear in x̂_0: so are the standard deviations.
    expected = share * spread(given) + (1 - share) * spread(plain)
    torch.testing.assert_close(spread(found), expected, rtol=1e-13, atol=0)
    # It multiplies: the direction is that of the guided estimate.
    cosine = torch.cosine_similarity(found.flatten(1), plain.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(3, dtype=F64), rtol=1e-13, atol=0)


def test_a_flat_image_has_no_spread_to_restore():
    flat = Denoiser(
        lambda x, t, class_labels: torch.ones_like(x) * class_labels.to(x)[:, None], COSINE, "sample", LABELS
    )
    found = ClassifierFree(flat, 2.0, NULL, rescale=0.7)(normals(3, 2), 5).x_0
    assert torch.equal(found, (2 * LABELS - NULL).double()[:, None].expand(3, 2))


def test_guided_gaussians_arrive_where_the_guided_denoiser_takes_them():
    # x_0 | y ~ N(m, c²), without label N(0, c²): the guided score is that of N(w·m, c²), for every w.
    width, mean, scale = 0.4, 0.7, 3.0
    data = {label: torch.tensor([[label * mean]], dtype=F64) for label in (0, 1)}
    exact = {
        k: GaussianMixture(m, torch.tensor([width], dtype=F64)).denoiser(COSINE) for k, m in data.items()
    }
    guided_data = GaussianMixture(torch.tensor([[scale * mean]], dtype=F64), torch.tensor([width], dtype=F64))

    def network(x_t, t, class_labels):
        x_0 = [exact[int(label)](x[None], int(t[0])).x_0 for x, label in zip(x_t, class_labels, strict=True)]
        return torch.cat(x_0)

    labelled = Denoiser(network, COSINE, "sample", torch.ones(8, dtype=torch.int64))
    start = normals(8, 1)
    found = sample(ClassifierFree(labelled, scale, 0), (8, 1), DDIM(12), x_t=start, dtype=F64)
    expected = sample(guided_data.denoiser(COSINE), (8, 1), DDIM(12), x_t=start, dtype=F64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# --- a classifier ---

MIXTURE = GaussianMixture(
    torch.tensor([[-1.0, 0.2], [0.6, 0.9], [0.3, -0.8]], dtype=F64),
    torch.tensor([0.3, 0.5, 0.2], dtype=F64),
    torch.tensor([3.0, 2.0, 1.0], dtype=F64),
)


def bayes(x_t, t):
    """log p(x_t | y) + log p(y): the classifier that is right about ``MIXTURE`` with noise."""
    a, power = COSINE.signal_scale[t[0]], COSINE.noise_scale[t[0]] ** 2
    power = a**2 * MIXTURE.widths**2 + power
    away = (x_t[:, None] - a * MIXTURE.means).square().sum(-1)
    return MIXTURE.weights.log() - away / (2 * power) - power.log()


@pytest.mark.parametrize("t", [0, 100, 500, 950])
def test_a_right_classifier_gives_the_denoiser_of_the_class(t):
    # ∇ log p(x_t | y) = ∇ log p(x_t) + ∇ log p(y | x_t), and x̂_0 is linear in the score.
    x_t, labels = normals(6, 2), torch.arange(6) % 3
    found = ClassifierGuided(MIXTURE.denoiser(COSINE), bayes, labels)(x_t, t).x_0
    for i, y in enumerate(labels):
        of_class = GaussianMixture(MIXTURE.means[y : y + 1], MIXTURE.widths[y : y + 1]).denoiser(COSINE)
        # The gradient is multiplied by (1−ᾱ)/√ᾱ < 13.
        torch.testing.assert_close(found[i : i + 1], of_class(x_t[i : i + 1], t).x_0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", [100, 700])
def test_the_guided_estimate_is_differentiable_in_x_t(t):
    guided = ClassifierGuided(MIXTURE.denoiser(COSINE), bayes, torch.arange(4) % 3, 2.0)
    x_t = normals(4, 2, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: guided(x, t).x_0, x_t)


def test_twice_the_scale_moves_the_estimate_twice_as_far():
    x_t, labels = normals(6, 2), torch.arange(6) % 3
    none, one, two = (
        ClassifierGuided(MIXTURE.denoiser(COSINE), bayes, labels, scale)(x_t, 500).x_0 for scale in (0, 1, 2)
    )
    torch.testing.assert_close(two - none, 2 * (one - none), rtol=0, atol=1e-13)
    assert torch.equal(none, MIXTURE.denoiser(COSINE)(x_t, 500).x_0)


def test_a_whole_chain_is_guided_though_it_builds_no_graph():
    labels = torch.full((400,), 2)
    guided = ClassifierGuided(MIXTURE.denoiser(COSINE), bayes, labels)
    drawn = sample(guided, (400, 2), DDIM(40), seed=1, dtype=F64)
    assert not drawn.requires_grad
    # 4.5 standard errors around the class's mean, and what 40 steps of DDIM leave of its width of .2.
    assert (drawn.mean(0) - MIXTURE.means[2]).abs().max() < 4.5 * 0.2 / 400**0.5
    assert drawn.std(0).tolist() == pytest.approx([0.2, 0.2], rel=0.25)


# --- all of them ---


def wrappers():
    inner = conditional(learns_variance=True)
    free = ClassifierFree(inner, 2.0, NULL, rescale=0.5)

    def classifier(x_t, t):
        return x_t.flatten(1)[:, :3]

    return [free, Clipped(free), DynamicThreshold(free, 0.9), ClassifierGuided(inner, classifier, LABELS)]


@pytest.mark.parametrize("wrapper", wrappers(), ids=lambda wrapper: type(wrapper).__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64], ids=str)
def test_a_wrapper_is_a_denoiser_and_a_value(wrapper, dtype):
    x_t = X.to(dtype)
    found = wrapper(x_t, 500)
    wide = torch.promote_types(dtype, torch.float32)
    assert wrapper.schedule is COSINE
    assert (found.x_0.shape, found.x_0.dtype) == (X.shape, wide)
    assert torch.equal(found.variance, conditional(learns_variance=True)(x_t, 500).variance)
    with pytest.raises(FrozenInstanceError):
        wrapper.denoiser = None
    z = addressed.normal(X.shape, seed=1)
    reached = sample(wrapper, X.shape, DDIM(3), x_t=z, dtype=dtype)
    assert reached.isfinite().all()
    assert reached.dtype == dtype


def guided(scale=2.0, null=NULL, inner=None, **more):
    return ClassifierFree(inner or conditional(), scale, null, **more)


def classified(logits=lambda x, t: x, labels=LABELS, scale=1.0, schedule=COSINE):
    return ClassifierGuided(Known(X[:, 0, 0], schedule), logits, labels, scale)


def test_a_denoiser_that_returns_another_shape_is_named_with_step_and_t():
    def grows(x_t, t):
        return Estimate(x_t.repeat(1, 1 + (t < 500), 1, 1))

    grows.schedule = COSINE
    check_error(
        lambda: sample(grows, X.shape, DDIM(5), seed=1),
        ShapeError,
        "step 3, t = 399",
        "(3, 4, 4, 4)",
        "(3, 2",
    )


BAD = {
    "no labels": (
        lambda: guided(inner=conditional(labels=None)),
        ConfigError,
        "scale 2.0 on a network without labels",
        "class_conditional",
    ),
    "around a wrapper": (
        lambda: guided(inner=Clipped(conditional())),
        DtypeError,
        "denoiser is a Clipped",
        "Clipped(ClassifierFree(",
    ),
    "nan": (lambda: guided(float("nan")), ConfigError, "scale is nan", "finite"),
    "rescale": (lambda: guided(rescale=1.5), ConfigError, "rescale is 1.5", "[0, 1]"),
    "interval": (lambda: guided(interval=(700, 200)), ConfigError, "(700, 200)", "lowest t first"),
    "labels of another batch": (
        lambda: guided(inner=conditional(labels=LABELS[:2]))(X, 5),
        ShapeError,
        "labels have shape",
        "(6, 2, 4, 4)",
        "one a sample",
    ),
    "one label for all": (
        lambda: guided(inner=conditional(labels=torch.tensor(1))).denoiser(X, 5),
        ShapeError,
        "labels have shape ()",
        "one a sample",
    ),
    "a quantile of 0": (
        lambda: DynamicThreshold(conditional(), 0.0),
        ConfigError,
        "quantile is 0.0",
        "(0, 1]",
    ),
    "largest of 0": (
        lambda: DynamicThreshold(conditional(), largest=0),
        ConfigError,
        "largest is 0",
        "at least 1",
    ),
    "infinite": (lambda: classified(scale=float("inf")), ConfigError, "scale is inf", "finite"),
    "logits": (lambda: classified(lambda x, t: x[0])(X[:, 0, 0], 5), ShapeError, "(4,)", "(B, classes)"),
    "no logits": (lambda: classified(lambda x, t: None)(X[:, 0, 0], 5), DtypeError, "classifier's answer"),
    "labels": (lambda: classified(labels=LABELS[:2])(X[:, 0, 0], 5), ShapeError, "2 labels", "(B,)"),
    "a classifier of noise": (
        lambda: classified(schedule=ZERO_SNR)(X[:, 0, 0], 999),
        NoAnswerError,
        "t = 999",
        "ᾱ_t = 0",
        "ClassifierFree",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_with_its_value_and_the_remedy(case):
    check_error(*case)


def test_epsilon_and_x_0_are_guided_alike():
    eps = {
        label: to_eps(COSINE, "sample", X, denoiser(X, 300).x_0, 300)
        for label, denoiser in (("given", conditional("sample")), ("null", unconditional("sample")))
    }
    found = to_eps(COSINE, "sample", X, ClassifierFree(conditional("sample"), 2.5, NULL)(X, 300).x_0, 300)
    torch.testing.assert_close(found, eps["null"] + 2.5 * (eps["given"] - eps["null"]), rtol=0, atol=1e-13)

"""Editing, on data whose answer is known: from a picture, around what is known of one, and between two."""

import math
from itertools import pairwise

import pytest
import torch
from cases import check_error, normals

from alphabar import (
    DDIM,
    DDPM,
    Denoiser,
    GaussianMixture,
    NoiseSchedule,
    Plan,
    add_noise,
    iter_sample,
    normal,
    sample,
)
from alphabar.errors import ConfigError, DtypeError, ShapeError, TimestepError
from alphabar.samplers.editing import image_to_image, inpaint, interpolate, invert, resampled, slerp
from alphabar.samplers.euler import EulerAncestral, Heun
from alphabar.samplers.unipc import UniPC

F64 = torch.float64
COSINE = NoiseSchedule.cosine()
ZERO_SNR = COSINE.zero_terminal_snr()
MIXTURE = GaussianMixture(
    torch.tensor([[-1.0, -0.8], [0.2, 1.0]], dtype=F64),
    torch.tensor([0.5, 0.4], dtype=F64),
    torch.tensor([1.0, 2.0], dtype=F64),
)
EXACT = MIXTURE.denoiser(COSINE)


@pytest.fixture(scope="module")
def data():
    return MIXTURE.draw(500, generator=torch.Generator().manual_seed(1))


def network(x_t, t):
    return torch.tanh(x_t) * torch.cos(t.to(x_t) / 300).reshape(-1, *[1] * (x_t.ndim - 1))


IMAGES = normals(2, 3, 4, 4, seed=1, dtype=torch.float32)
PLAIN = Denoiser(network, COSINE, "v_prediction")


# --- image to image ---


@pytest.mark.parametrize("t_start", [0, 5, 50, 200])
def test_a_little_noise_moves_an_image_a_little(t_start, data):
    moved = image_to_image(EXACT, data, DDIM(200), t_start, seed=1) - data
    # The noise itself is √(1−ᾱ)/√ᾱ of what is left of the picture; the denoiser takes out what it can.
    added = (COSINE.noise_scale / COSINE.signal_scale)[t_start]
    assert 0.7 * added < moved.square().mean().sqrt() < 1.1 * added


def test_from_the_noisy_end_it_is_sampling_of_new_data(data):
    made = image_to_image(EXACT, data, DDIM(100), 999, seed=1)
    # Nothing of the picture is left: ᾱ = 2e-9. 4.5 standard errors of a correlation.
    correlation = torch.corrcoef(torch.stack([made[:, 0], data[:, 0]]))[0, 1]
    assert abs(correlation) < 4.5 / len(data) ** 0.5


def test_the_law_of_the_data_is_kept_whatever_t(data):
    for t_start in (100, 400, 800):
        made = image_to_image(EXACT, data, DDPM(250), t_start, seed=1)
        # 5 standard errors of the difference of two means, and the first-order error of the steps.
        error = 5 * (2 / len(data)) ** 0.5 * data.std(0)
        assert ((made.mean(0) - data.mean(0)).abs() < error + 0.02).all()
        assert (made.std(0) / data.std(0) - 1).abs().max() < 0.1


def test_image_to_image_is_noise_by_address_and_the_samplers_own_chain():
    z = normal(IMAGES.shape, seed=4, first=7)
    x_t = add_noise(COSINE, IMAGES, z, 600)
    expected = sample(PLAIN, IMAGES.shape, DDPM(8), x_t=x_t, t_start=600, seed=4, first=7)
    assert torch.equal(image_to_image(PLAIN, IMAGES, DDPM(8), 600, seed=4, first=7), expected)


def test_every_state_of_a_chain_can_be_revised_before_anything_sees_it():
    seen = []

    def revise(step, t, x_t):
        seen.append((step, t))
        return torch.full_like(x_t, step / 8)

    states = list(iter_sample(PLAIN, IMAGES.shape, DDPM(4), seed=1, revise=revise))
    assert seen == [(0, 999), (1, 749), (2, 499), (3, 249), (4, -1)]
    assert all(state.x_t.eq(state.step / 8).all() for state in states)
    expected = PLAIN(torch.full_like(IMAGES, 2 / 8), 499).x_0
    assert torch.equal(states[2].x_0, expected)


# --- inpainting ---


def conditional(mixture, known):
    """Mean and variance of the second coordinate when the first is known: a mixture in closed form."""
    away = (known - mixture.means[:, 0]) / mixture.widths
    share = mixture.weights / mixture.widths * (-away.square() / 2).exp()
    share, mean = share / share.sum(), mixture.means[:, 1]
    total = (share * mean).sum()
    return total.item(), (share * (mixture.widths**2 + mean**2)).sum().item() - total.item() ** 2


def painted(mixture, known, sampler, count=3000, **more):
    x_0 = torch.tensor([[known, 0.0]], dtype=F64).expand(count, 2)
    found = inpaint(mixture.denoiser(COSINE), x_0, torch.tensor([True, False]), sampler, seed=3, **more)
    assert found[:, 0].eq(known).all()
    return found[:, 1]


TWO_MODES = GaussianMixture(
    torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=F64),
    torch.tensor([0.3, 0.3], dtype=F64),
    torch.ones(2, dtype=F64),
)


@pytest.mark.parametrize(
    ("sampler", "jump"), [(DDPM(25, "fixed_large"), 1), (DDPM(25, "fixed_large"), 5), (EulerAncestral(25), 1)]
)
def test_what_is_made_follows_the_law_given_what_is_known(sampler, jump):
    mean, variance = conditional(TWO_MODES, 1.0)
    found = painted(TWO_MODES, 1.0, sampler, resamples=5, jump=jump)
    # Of 3000 samples 4.5 standard errors of the mean are .025. The variance is that of 25 steps: too large
    # with the large variance of a step, too small with the small one.
    assert found.mean() == pytest.approx(mean, abs=0.025)
    assert found.var() == pytest.approx(variance, rel=0.4)


def test_going_back_and_forth_brings_the_parts_together():
    # Without it the made part is chosen before the known one shows through the noise.
    mean, variance = conditional(MIXTURE, 0.0)
    found = [painted(MIXTURE, 0.0, DDPM(25), 2000, resamples=r) for r in (1, 3, 12)]
    errors = [abs(x.mean() - mean) for x in found]
    assert all(more < 0.75 * less for less, more in pairwise(errors))
    assert errors[-1] < 0.1
    assert found[-1].var() == pytest.approx(variance, rel=0.15)


SHAPES = [(4, 4), (1, 4, 4), (3, 4, 4), (2, 1, 4, 4), (2, 3, 4, 4), (1, 1, 1, 4), (4,)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, F64], ids=str)
@pytest.mark.parametrize("data_dtype", [torch.float16, torch.float32], ids=str)
def test_what_is_known_stays_to_the_last_bit(shape, dtype, data_dtype):
    mask = normals(*shape) > 0
    x_0 = IMAGES.to(data_dtype)
    found = inpaint(PLAIN, x_0, mask.to(dtype), DDIM(5, eta=1), resamples=2, jump=2, seed=1)
    known = mask.expand(IMAGES.shape)
    assert found.dtype == data_dtype
    assert torch.equal(found[known], x_0[known])
    assert (found[~known] - x_0[~known]).abs().min() > 0


def test_with_nothing_known_it_is_sampling():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    expected = sample(PLAIN, IMAGES.shape, DDPM(5), seed=1)
    assert torch.equal(inpaint(PLAIN, IMAGES, mask, DDPM(5), seed=1), expected)


def test_half_a_mask_is_half_of_each():
    made = inpaint(PLAIN, IMAGES, torch.full((4, 4), 0.5), DDIM(1), seed=1)
    z, known = (normal(IMAGES.shape, seed=1, stream=stream) for stream in (0, 1 << 31))
    x_0 = PLAIN((z + add_noise(COSINE, IMAGES, known, 999)) / 2, 999).x_0
    torch.testing.assert_close(made, (x_0 + IMAGES) / 2, rtol=0, atol=1e-6)


def test_an_inpainted_image_does_not_depend_on_its_batch():
    mask = normals(4, 4) > 0
    whole = inpaint(PLAIN, IMAGES, mask, DDPM(5), resamples=2, seed=1)
    second = inpaint(PLAIN, IMAGES[1:], mask, DDPM(5), resamples=2, seed=1, first=1)
    assert torch.equal(whole[1:], second)


# --- jumps ---


@pytest.mark.parametrize(("resamples", "jump"), [(1, 1), (2, 1), (3, 2), (2, 4), (4, 9)])
def test_each_stretch_is_gone_through_so_many_times(resamples, jump):
    steps = 10
    plan = resampled(DDPM(steps).plan(COSINE), COSINE, resamples, jump)
    visits = [plan.timesteps.count(t) for t in DDPM(steps).plan(COSINE).timesteps]
    # The last step is taken once; stretches before it count from the clean end; what is left at the noisy end
    # is no whole stretch.
    left = (steps - 1) % jump
    assert visits == [1] * left + [resamples] * (steps - 1 - left) + [1]


@pytest.mark.parametrize("schedule", [COSINE, ZERO_SNR], ids=["cosine", "zero SNR"])
@pytest.mark.parametrize("sampler", [DDPM(6), DDIM(6, eta=0.5)], ids=["DDPM", "DDIM"])
def test_a_jump_back_keeps_the_marginal(schedule, sampler):
    # With x_0 known, √ᾱ_t x_0 + √(1−ᾱ_t) z goes to √ᾱ_s x_0 + √(1−ᾱ_s) z, whether s lies below t or above.
    plan = resampled(sampler.plan(schedule), schedule, 3, 2)
    assert any(row.s > row.t for row in plan.rows)
    for row in plan.rows[:-1]:
        a, s = schedule.signal_scale[[row.t, row.s]], schedule.noise_scale[[row.t, row.s]]
        assert row.x * a[0] + row.history[0] == pytest.approx(a[1].item(), abs=1e-14)
        assert math.hypot(row.x * s[0], row.z) == pytest.approx(s[1].item(), abs=1e-14)


def test_one_sample_is_the_plan_itself():
    plan = DDPM(7).plan(COSINE)
    assert resampled(plan, COSINE, 1, 3) == plan
    assert plan.plan(COSINE) is plan


# --- there and back ---


def test_inversion_and_sampling_return_to_the_picture_as_steps_grow(data):
    exact, errors = MIXTURE.denoiser(NoiseSchedule.linear()), []
    for steps in (50, 100, 200, 400):
        z = invert(exact, data, steps)
        back = sample(exact, data.shape, DDIM(steps), x_t=z, dtype=F64)
        errors.append((back - data).square().mean().sqrt())
    # First order: half the error for twice the steps. Measured: 1.95 … 2.0 times.
    assert all(1.8 < less / more < 2.2 for less, more in pairwise(errors))
    assert errors[-1] < 0.005


def test_what_is_inverted_is_noise(data):
    z = invert(EXACT, data, 200)
    # 4.5 standard errors of mean, standard deviation and correlation, and the steps' own 4 % of the width.
    assert z.mean(0).abs().max() < 4.5 / len(z) ** 0.5
    assert (z.std(0) - 1).abs().max() < 4.5 * (0.5 / len(z)) ** 0.5 + 0.04
    assert abs(torch.corrcoef(z.T)[0, 1]) < 4.5 / len(z) ** 0.5


def test_between_two_pictures_lie_theirs_at_the_ends(data):
    x_a, x_b = data[:50], data[50:100]
    between = interpolate(EXACT, x_a, x_b, (0, 0.25, 0.5, 1), 200)
    assert between.shape == (4, 50, 2)
    for end, x_0 in ((between[0], x_a), (between[-1], x_b)):
        back = sample(EXACT, x_0.shape, DDIM(200), x_t=invert(EXACT, x_0, 200), dtype=F64)
        assert torch.equal(end, back)
        assert (end - x_0).square().mean().sqrt() < 0.03
    assert torch.equal(interpolate(EXACT, x_b, x_a, (0.5,), 200)[0], between[2])


def test_the_middle_of_one_gaussian_is_the_middle_along_the_sphere():
    # The denoiser of N(0, c²) is linear: what is done to the noise is done to the picture.
    one = GaussianMixture(torch.zeros(1, 6, dtype=F64), torch.tensor([0.5], dtype=F64)).denoiser(COSINE)
    x_a, x_b = normals(4, 6, seed=1), normals(4, 6, seed=2)
    ends = interpolate(one, x_a, x_b, (0, 1), 20)
    found = interpolate(one, x_a, x_b, (0.3,), 20)[0]
    torch.testing.assert_close(found, slerp(ends[0], ends[1], 0.3), rtol=0, atol=1e-13)


def test_interpolation_leaves_the_global_generator_alone(data):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    interpolate(EXACT, data[:1], data[1:2], (0.5,), 5)
    assert torch.rand(1) == expected


# --- the sphere ---


def test_slerp_ends_exactly_at_its_ends():
    a, b = normals(5, 3, 4, seed=1), normals(5, 3, 4, seed=2)
    assert torch.equal(slerp(a, b, 0), a)
    assert torch.equal(slerp(a, b, 1), b)


@pytest.mark.parametrize("weight", [-0.5, 0.1, 0.5, 0.9])
def test_slerp_goes_evenly_along_the_arc(weight):
    angle = torch.tensor([0.1, 1.0, 2.0, 3.0], dtype=F64)
    a = torch.tensor([1.0, 0.0], dtype=F64).expand(4, 2).contiguous()
    b = torch.stack([angle.cos(), angle.sin()], 1)
    expected = torch.stack([(weight * angle).cos(), (weight * angle).sin()], 1)
    torch.testing.assert_close(slerp(a, b, weight), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64], ids=str)
@pytest.mark.parametrize("factor", [1.0, -1.0, 0.0, 2.0])
def test_parallel_vectors_are_joined_by_a_straight_line(dtype, factor):
    a = normals(5, 100, dtype=dtype)
    found = slerp(a, factor * a, 0.25)
    assert found.dtype == dtype
    torch.testing.assert_close(found, (0.75 + 0.25 * factor) * a)


# --- bad input ---

MASK = torch.ones(4, 4, dtype=torch.bool)


def fill(mask=MASK, sampler=None, x_0=IMAGES, **more):
    return inpaint(PLAIN, x_0, mask, sampler or DDPM(5), **more)


BAD = {
    "mask of another size": (lambda: fill(MASK[:3]), ShapeError, "(3, 4)", "(2, 3, 4, 4)", "(B, 1, H, W)"),
    "mask of another batch": (lambda: fill(MASK.expand(5, 1, 4, 4)), ShapeError, "(5, 1, 4, 4)", "broadcast"),
    "mask of more dimensions": (lambda: fill(MASK[None, None, None]), ShapeError, "(1, 1, 1, 4, 4)"),
    "mask of integers": (lambda: fill(MASK.int()), DtypeError, "torch.int32", "mask > 0"),
    "no mask": (lambda: fill(None), DtypeError, "NoneType", "tensor of bool"),
    "mask of bytes' range": (lambda: fill(255.0 * MASK), ConfigError, "outside 0 … 1"),
    "mask of nan": (lambda: fill(torch.full((4, 4), math.nan)), ConfigError, "outside 0 … 1"),
    "picture of integers": (lambda: fill(x_0=IMAGES.byte()), DtypeError, "torch.uint8", "[-1, 1]"),
    "a solver with memory": (lambda: fill(sampler=UniPC(5)), ConfigError, "remembers", "DDPM, DDIM"),
    "a solver of two stages": (lambda: fill(sampler=Heun(5)), ConfigError, "remembers 1", "DDPM, DDIM"),
    "no resamples": (lambda: fill(resamples=0), ConfigError, "resamples is 0", "at least 1"),
    "no jump": (lambda: fill(jump=0), ConfigError, "jump is 0", "at least 1"),
    "a jump of all steps": (lambda: fill(resamples=2, jump=5), ConfigError, "jump is 5", "5 steps"),
    "a learned variance": (
        lambda: fill(sampler=DDPM(5, "learned_range"), resamples=2),
        ConfigError,
        "learned variance",
        "fixed_small",
    ),
    "a plan entered elsewhere": (
        lambda: Plan(DDIM(3).plan(COSINE).rows).plan(COSINE, 500),
        ConfigError,
        "t_start is 500",
        "t = 999",
    ),
    "t_start of T": (lambda: image_to_image(PLAIN, IMAGES, DDIM(5), 1000), TimestepError, "1000", "0 … 999"),
    "no weights": (lambda: interpolate(PLAIN, IMAGES, IMAGES, ()), ConfigError, "weights", "at least one"),
    "pictures of two shapes": (
        lambda: interpolate(PLAIN, IMAGES, IMAGES[:1], (0.5,)),
        ShapeError,
        "x_b",
        "(1, 3, 4, 4)",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_with_its_value_and_the_remedy(case):
    check_error(*case)

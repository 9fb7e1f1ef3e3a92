"""The one loop that runs every sampler."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from cases import denoiser, normals

from alphabar import (
    DDIM,
    DDPM,
    DEIS,
    DPM2,
    LMS,
    PNDM,
    Clipped,
    Denoiser,
    DPMSolver,
    Estimate,
    Fitted,
    Heun,
    NoiseSchedule,
    UniPC,
    add_noise,
    iter_sample,
    sample,
)
from alphabar.process import addressed
from alphabar.samplers import AmplificationWarning

COSINE = NoiseSchedule.cosine()
ZERO_SNR = NoiseSchedule.linear().zero_terminal_snr()
VARIANCES = ("fixed_small", "fixed_large", "learned_range", "learned")
SAMPLERS = {
    **{variance: DDPM(6, variance) for variance in VARIANCES},
    **{f"DDIM {eta}": DDIM(6, eta) for eta in (0.0, 0.5, 1.0)},
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())


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
        z = addressed.normal((2, 3, 8, 8), seed=1, stream=state.step + 1)
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
        (after.x_t - row.x * state.x_t) / row.z
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
    x_t = add_noise(COSINE, x_0, addressed.normal(x_0.shape, seed=1), 600)
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


def test_a_chain_that_begins_by_amplifying_errors_warns_and_names_remedies():
    network = Denoiser(lambda x_t, t: x_t, COSINE, "epsilon")
    with pytest.warns(AmplificationWarning, match=r"t = 999 are 20,\d+ times.*Clipped.*v_prediction"):
        sample(network, (1, 2), DDIM(3), seed=0)
    for quiet in (Clipped(network), replace(network, prediction="v_prediction")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sample(quiet, (1, 2), DDIM(3), seed=0)


# --- aliasing: the loop writes into no tensor that the denoiser has seen ---

REMEMBERING = {
    "DPM-Solver++ 2M": DPMSolver(6),
    "DPM-Solver++ 3S": DPMSolver(6, order=3, multistep=False),
    "UniPC": UniPC(6, order=3),
    "DEIS": DEIS(6),
    "LMS": LMS(6),
    "PNDM": PNDM(6),
    "Heun": Heun(4),
    "DPM-Solver-2": DPM2(4),
    "Fitted": Fitted(6),
    **SAMPLERS,
}
LINEAR = NoiseSchedule.linear()


@dataclass
class Answering:
    """A denoiser whose answer lies where ``place`` puts it."""

    place: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    schedule: NoiseSchedule = LINEAR

    def __call__(self, x_t, t):
        return Estimate(self.place(x_t, torch.tanh(x_t) * (1 - t / 2000)), torch.zeros_like(x_t))


def in_one_buffer():
    held = torch.empty(2, 3)
    return lambda x_t, answer: held.copy_(answer)


@pytest.mark.parametrize("sampler", REMEMBERING.values(), ids=REMEMBERING.keys())
def test_an_answer_in_one_buffer_again_and_again_gives_the_same_image(sampler):
    expected = sample(Answering(lambda x_t, answer: answer), (2, 3), sampler, seed=1)
    assert torch.equal(sample(Answering(in_one_buffer()), (2, 3), sampler, seed=1), expected)


@pytest.mark.parametrize("sampler", REMEMBERING.values(), ids=REMEMBERING.keys())
def test_an_answer_that_is_x_t_itself_gives_the_image_of_its_copy(sampler):
    copied = sample(Answering(lambda x_t, answer: x_t.clone()), (2, 3), sampler, seed=1)
    assert torch.equal(sample(Answering(lambda x_t, answer: x_t), (2, 3), sampler, seed=1), copied)


@pytest.mark.parametrize("sampler", REMEMBERING.values(), ids=REMEMBERING.keys())
def test_what_the_network_was_given_stays_as_it_was(sampler):
    given, start = [], normals(2, 3, dtype=torch.float32)

    def keep(x_t, answer):
        given.append((x_t, x_t.clone()))
        return answer

    kept = start.clone()
    sample(Answering(keep), (2, 3), sampler, seed=1, x_t=start)
    assert torch.equal(start, kept)
    assert all(torch.equal(x_t, copy) for x_t, copy in given)

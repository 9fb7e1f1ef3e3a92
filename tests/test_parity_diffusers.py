"""Parity with diffusers 0.42.1, and the places where it is wrong: what it does there, and what this does.

A test of the second kind holds both halves, so that it fails when the peer changes.
"""

import pytest
import torch
from cases import check_error, normals
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers.scheduling_ddpm import betas_for_alpha_bar, rescale_zero_terminal_snr

from alphabar import DDIM, DDPM, Clipped, Denoiser, NoiseSchedule, add_noise, iter_sample, sample, velocity
from alphabar.errors import NoAnswerError
from alphabar.schedule.spacing import visited

NAMES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")
SHAPE = (2, 3, 8, 8)
SEED = 11
FLOAT32 = torch.finfo(torch.float32).eps


def seeded():
    return torch.Generator().manual_seed(SEED)


# --- schedules ---


@pytest.mark.parametrize("steps", [1000, 50, 997])
@pytest.mark.parametrize("name", NAMES)
def test_a_config_of_the_peer_gives_the_peers_beta(name, steps):
    peer = DDPMScheduler(num_train_timesteps=steps, beta_schedule=name)
    # The peer's own arithmetic is float32: a few roundings of β.
    ours = NoiseSchedule.from_config(peer.config)
    torch.testing.assert_close(ours.beta.float(), peer.betas, rtol=4 * FLOAT32, atol=0)
    # A product of up to 1000 rounded factors.
    torch.testing.assert_close(ours.alpha_bar.float(), peer.alphas_cumprod, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_peer_reads_our_config_as_the_same_schedule(name):
    ours = NoiseSchedule.from_config({"beta_schedule": name}).respaced(range(0, 1000, 7))
    for schedule in (ours, ours.zero_terminal_snr()):
        peer = DDPMScheduler.from_config(schedule.to_config())
        torch.testing.assert_close(schedule.alpha_bar.float(), peer.alphas_cumprod, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_zero_terminal_snr_is_the_peers(name):
    schedule = NoiseSchedule.from_config({"beta_schedule": name})
    # Its function in float64: equal to rounding. Its schedule in float32: equal to a thousand roundings.
    alpha = 1 - rescale_zero_terminal_snr(schedule.beta)
    torch.testing.assert_close(schedule.zero_terminal_snr().alpha_bar, alpha.cumprod(0), rtol=0, atol=1e-12)
    peer = DDPMScheduler(beta_schedule=name, rescale_betas_zero_snr=True)
    ours = NoiseSchedule.from_config(peer.config)
    torch.testing.assert_close(ours.alpha_bar.float(), peer.alphas_cumprod, rtol=0, atol=2e-6)
    assert ours.alpha_bar[-1] == 0


def test_exponential_is_the_peers_exp():
    peer = betas_for_alpha_bar(1000, alpha_transform_type="exp")
    torch.testing.assert_close(NoiseSchedule.exponential().beta.float(), peer, rtol=FLOAT32, atol=0)


def test_the_peers_laplace_is_the_root_of_what_it_means():
    # Half of the power is left at the middle of the paper's schedule: λ(½) = 0.
    peer = DDPMScheduler(beta_schedule="laplace")
    assert peer.alphas_cumprod[499].item() == pytest.approx(0.5**0.5, abs=1e-3)
    assert NoiseSchedule.laplace().alpha_bar[499].item() == pytest.approx(0.5, abs=1e-3)
    # A file of the peer describes what its network was trained with.
    assert NoiseSchedule.from_config(peer.config).alpha_bar[499].item() == pytest.approx(0.5**0.5, abs=1e-3)


# --- noising ---


@pytest.mark.parametrize("name", ["linear", "squaredcos_cap_v2"])
def test_noise_and_velocity_are_the_peers_in_float32(name):
    peer = DDPMScheduler(beta_schedule=name)
    schedule, t = NoiseSchedule.from_config(peer.config), torch.arange(1000)
    x_0, noise = normals(1000, 8, seed=1, dtype=torch.float32), normals(1000, 8, seed=2, dtype=torch.float32)
    # The peer's √(1−ᾱ) is off by 2·10⁻⁶ where 1−ᾱ = 4·10⁻⁵ is a difference of float32 numbers.
    for ours, theirs in ((add_noise, peer.add_noise), (velocity, peer.get_velocity)):
        torch.testing.assert_close(ours(schedule, x_0, noise, t), theirs(x_0, noise, t), rtol=0, atol=3e-5)


LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize(
    ("config", "dtype", "silent"),
    [
        ({"beta_schedule": "linear"}, torch.bfloat16, 10),
        ({"beta_schedule": "linear"}, torch.float16, 2),
        ({"beta_schedule": "squaredcos_cap_v2"}, torch.bfloat16, 21),
        ({"beta_schedule": "squaredcos_cap_v2"}, torch.float16, 4),
        (LATENT, torch.bfloat16, 2),
    ],
)
def test_the_peer_adds_no_noise_to_half_precision_data_at_first(config, dtype, silent):
    x_0, noise, t = torch.zeros(1000, 8, dtype=dtype), torch.ones(1000, 8, dtype=dtype), torch.arange(1000)
    theirs = DDPMScheduler(**config).add_noise(x_0, noise, t)
    assert (theirs[:silent] == 0).all()
    assert (theirs[silent:] > 0).all()
    assert (add_noise(NoiseSchedule.from_config(config), x_0, noise, t) > 0).all()


# --- timesteps ---


def peers_timesteps(spacing, steps, total=1000):
    peer = DDPMScheduler(num_train_timesteps=total, timestep_spacing=spacing)
    peer.set_timesteps(steps)
    return tuple(peer.timesteps.tolist())


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_the_peer_visits_the_same_t(spacing):
    schedule = NoiseSchedule.cosine()
    for steps in range(2, 1001):
        assert visited(schedule, steps, spacing) == peers_timesteps(spacing, steps)


def test_the_peer_visits_the_same_t_with_trailing_spacing_where_it_stays_in_range():
    schedule, out_of_range = NoiseSchedule.cosine(), []
    for steps in range(1, 1001):
        ours, theirs = visited(schedule, steps, "trailing"), peers_timesteps("trailing", steps)
        if theirs[-1] < 0:
            out_of_range.append(steps)
        assert ours == theirs[:steps]
    assert out_of_range[:3] == [61, 103, 121]


def test_trailing_with_61_steps_visits_minus_one_in_the_peer():
    theirs = peers_timesteps("trailing", 61)
    assert (len(theirs), theirs[-1]) == (62, -1)
    ours = DDPM(61, spacing="trailing").plan(NoiseSchedule.linear()).timesteps
    assert (len(ours), ours[-1]) == (61, 15)
    assert ours == theirs[:61]


def test_one_step_of_linspace_visits_the_clean_end_in_the_peer():
    assert peers_timesteps("linspace", 1) == (0,)
    assert DDPM(1, spacing="linspace").plan(NoiseSchedule.linear()).timesteps == (999,)


# --- whole loops ---


def stand_in(prediction, schedule, learns_variance=False):
    """A smooth nonlinear network. v̂ in [−2, 2] keeps x̂_0 = √ᾱ x − √(1−ᾱ) v̂ and ε̂ as bounded as x."""
    a, s = schedule.signal_scale, schedule.noise_scale

    def network(x_t, t):
        i, x = int(t.flatten()[0]), x_t.double()
        v = 2 * torch.tanh(0.7 * x + 0.4 * x.roll(1, -1) - 0.6 * x.roll(1, 1) + float(i) / 500 - 1)
        output = {"epsilon": s[i] * x + a[i] * v, "sample": a[i] * x - s[i] * v, "v_prediction": v}[
            prediction
        ]
        if learns_variance:
            output = torch.cat([output, torch.cos(2 * x + i / 100)], 1)
        return output.to(x_t.dtype)

    return network


def peers_states(peer, network, steps, **settings):
    generator = seeded()
    states = [torch.randn(SHAPE, generator=generator)]
    peer.set_timesteps(steps)
    for t in peer.timesteps:
        step = peer.step(network(states[-1], t), t, states[-1], generator=generator, **settings)
        states.append(step.prev_sample)
    return states


def our_states(config, network, sampler):
    denoiser = Denoiser(network, NoiseSchedule.from_config(config), config["prediction_type"])
    denoiser = Clipped(denoiser) if config["clip_sample"] else denoiser
    return [state.x_t for state in iter_sample(denoiser, SHAPE, sampler, generator=seeded())]


def assert_same(ours, theirs):
    for step, (x, y) in enumerate(zip(ours, theirs, strict=True)):
        assert (x - y).abs().max() < 1e-4, f"after {step} steps"


CONFIGS = {
    f"{name}{'-zero-snr' * zero_snr}-{prediction}{'-clipped' * clip}": {
        "beta_schedule": name,
        "rescale_betas_zero_snr": zero_snr,
        "prediction_type": prediction,
        "clip_sample": clip,
    }
    for name, zero_snr in [("linear", False), ("squaredcos_cap_v2", False), ("linear", True)]
    for prediction in ("epsilon", "sample", "v_prediction")
    for clip in (False, True)
    if not (zero_snr and (prediction == "epsilon" or clip))
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@every_config
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_ddpm_gives_the_peers_images(config, spacing, variance):
    peer = DDPMScheduler(**config, timestep_spacing=spacing, variance_type=variance)
    network = stand_in(
        config["prediction_type"], NoiseSchedule.from_config(config), variance == "learned_range"
    )
    theirs = peers_states(peer, network, 50)
    ours = our_states(config, network, DDPM(50, variance=variance, spacing=spacing))
    # The peer adds noise after a last step from t > 0: see below.
    end = -1 if spacing == "trailing" and variance != "fixed_small" else None
    assert_same(ours[:end], theirs[:end])


@every_config
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_gives_the_peers_images(config, spacing, eta):
    peer = DDIMScheduler(**config, timestep_spacing=spacing)
    network = stand_in(config["prediction_type"], NoiseSchedule.from_config(config))
    theirs = peers_states(peer, network, 50, eta=eta, use_clipped_model_output=True)
    assert_same(our_states(config, network, DDIM(50, eta, spacing)), theirs)


def test_a_given_list_of_t_gives_the_peers_images():
    timesteps = [990, 800, 799, 500, 20, 3]
    config = CONFIGS["linear-epsilon"]
    network = stand_in("epsilon", NoiseSchedule.from_config(config))
    peer = DDPMScheduler(**config)
    peer.set_timesteps(timesteps=timesteps)
    peer.set_timesteps = lambda steps: None
    assert_same(our_states(config, network, DDPM(spacing=timesteps)), peers_states(peer, network, None))


def test_half_precision_noise_is_drawn_as_the_peer_draws_it():
    config = CONFIGS["linear-v_prediction"]
    network = stand_in("v_prediction", NoiseSchedule.from_config(config))
    denoiser = Denoiser(network, NoiseSchedule.from_config(config), "v_prediction")
    states = iter_sample(denoiser, SHAPE, DDPM(10), generator=seeded(), dtype=torch.float16)
    assert torch.equal(next(states).x_t, torch.randn(SHAPE, generator=seeded(), dtype=torch.float16).float())


# --- where the peer is wrong ---


@every_config
def test_the_peers_ddim_with_linspace_steps_to_a_t_that_it_does_not_visit_next(config):
    network = stand_in(config["prediction_type"], NoiseSchedule.from_config(config))
    ours = our_states(config, network, DDIM(50, 0.0, "linspace"))

    class Mended(DDIMScheduler):
        def step(self, output, t, x_t, **settings):
            later = self.timesteps[self.timesteps < t]
            # It steps by T // num_inference_steps: 50 for steps of 20, 47 for those of 21.
            self.num_inference_steps = {20: 50, 21: 47}[int(t - later[0])] if len(later) else 50
            return super().step(output, t, x_t, **settings)

    settings = {"timestep_spacing": "linspace", **config}
    wrong = peers_states(DDIMScheduler(**settings), network, 50, use_clipped_model_output=True)
    assert (wrong[-1] - ours[-1]).abs().max() > 1e-3
    assert_same(ours, peers_states(Mended(**settings), network, 50, use_clipped_model_output=True))


@pytest.mark.parametrize(
    ("spacing", "steps", "visited_next", "stepped_to"),
    [("linspace", 10, 888, 899), ("trailing", 13, 922, 923)],
)
def test_the_peers_ddim_misses_the_t_it_visits_next(spacing, steps, visited_next, stepped_to):
    peer, schedule = DDIMScheduler(clip_sample=False, timestep_spacing=spacing), NoiseSchedule.linear()
    peer.set_timesteps(steps)
    assert peer.timesteps[:2].tolist() == [999, visited_next]
    x_t, x_0 = normals(*SHAPE, seed=1), normals(*SHAPE, seed=2)
    eps = (x_t - schedule.signal_scale[999] * x_0) / schedule.noise_scale[999]
    theirs = peer.step(eps, torch.tensor(999), x_t).prev_sample

    def distance(s):
        return (DDIM(spacing=[999, s]).plan(schedule).rows[0].advance(x_t, [x_0]) - theirs).abs().max()

    assert distance(stepped_to) < 2e-5
    assert distance(visited_next) > 2e-4
    row = DDIM(steps, spacing=spacing).plan(schedule).rows[0]
    assert (row.t, row.s) == (999, visited_next)


@pytest.mark.parametrize("variance", ["fixed_large", "learned_range"])
def test_the_peer_adds_noise_after_a_last_step_from_above_zero(variance):
    # Ten trailing steps end at t = 99. A network that says x̂_0 = ½: the image must be ½.
    schedule, draws = NoiseSchedule.linear(), seeded()

    def network(x_t, t):
        half, largest = torch.full_like(x_t, 0.5), torch.ones_like(x_t)
        return torch.cat([half, largest], 1) if variance == "learned_range" else half

    peer = DDPMScheduler(prediction_type="sample", variance_type=variance, timestep_spacing="trailing")
    theirs = peers_states(peer, network, 10)[-1]
    z = [torch.randn(SHAPE, generator=draws) for _ in range(11)][-1]
    assert schedule.noise_scale[99].item() == pytest.approx(0.32, abs=0.005)
    torch.testing.assert_close(theirs, 0.5 + schedule.noise_scale[99].float() * z, rtol=0, atol=1e-5)
    ours = sample(Denoiser(network, schedule, "sample"), SHAPE, DDPM(10, variance), generator=seeded())
    assert torch.equal(ours, torch.full(SHAPE, 0.5))


def test_the_peers_ddim_keeps_the_unclipped_noise_by_default():
    # x_s = √ᾱ_s x̂_0 + √(1−ᾱ_s) ε̂ holds x̂_0 and ε̂ of one x_t. The peer clips x̂_0 and keeps the old ε̂, unless
    # it is told use_clipped_model_output=True; here ε̂ follows x̂_0, as in the authors' own code.
    config = CONFIGS["linear-epsilon-clipped"]
    network = stand_in("epsilon", NoiseSchedule.from_config(config))
    ours = our_states(config, network, DDIM(50, 0.0, "leading"))
    peer = DDIMScheduler(**config, timestep_spacing="leading")
    assert_same(ours, peers_states(peer, network, 50, use_clipped_model_output=True))
    assert (ours[-1] - peers_states(peer, network, 50)[-1]).abs().max() > 1e-2


def test_the_peers_learned_variance_is_the_root_of_the_raw_output():
    # Nichol & Dhariwal 2021: the output is the log-variance; half of its values are negative.
    schedule, log_variance = (
        NoiseSchedule.linear(),
        torch.linspace(-4, 1, 192).reshape(1, 3, 8, 8).expand(SHAPE),
    )
    mean, x_t = normals(*SHAPE, seed=1).float(), normals(*SHAPE, seed=2).float()
    peer = DDPMScheduler(prediction_type="sample", variance_type="learned", clip_sample=False)
    theirs = peer.step(torch.cat([mean, log_variance], 1), 500, x_t, generator=seeded()).prev_sample
    assert torch.equal(theirs.isnan(), log_variance < 0)
    row, noise = DDPM(variance="learned").plan(schedule).rows[499], torch.randn(SHAPE, generator=seeded())
    assert row.t == 500
    ours = row.advance(x_t, [mean], noise, log_variance)
    still = row.advance(x_t, [mean], torch.zeros(SHAPE), log_variance)
    torch.testing.assert_close(ours - still, (log_variance / 2).exp() * noise, rtol=0, atol=1e-5)


@pytest.mark.parametrize("peer", [DDPMScheduler, DDIMScheduler])
def test_the_peer_is_not_finite_where_no_signal_is_left_and_noise_is_predicted(peer):
    config = {"rescale_betas_zero_snr": True, "clip_sample": False, "prediction_type": "epsilon"}
    network = stand_in("epsilon", NoiseSchedule.from_config(config))
    theirs = peers_states(peer(**config, timestep_spacing="trailing"), network, 10)
    assert not theirs[-1].isfinite().all()
    check_error(lambda: our_states(config, network, DDIM(10)), NoAnswerError, "ᾱ_t = 0", "v_prediction")

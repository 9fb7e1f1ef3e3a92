"""Whole chains beside diffusers', two images of one generator; and the runs that schedulers share."""

import itertools
import logging

import diffusers
import pytest
import torch

import alphabar.diffusers as ours
from alphabar.diffusers import runs
from alphabar.diffusers.steps import stack
from alphabar.errors import ConfigError

SHAPE = (1, 2, 4, 4)
EULER, SINGLE = "EulerDiscreteScheduler", "DPMSolverSinglestepScheduler"


def chain(scheduler, steps, **options):
    """Two images of one generator, and x̂_0 of each last step, where it is returned."""
    generator, states = torch.Generator().manual_seed(0), []
    for _ in range(2):
        scheduler.set_timesteps(steps)
        x = torch.randn(SHAPE, generator=generator, dtype=torch.float64) * float(scheduler.init_noise_sigma)
        for t in scheduler.timesteps:
            output = torch.tanh(0.9 * scheduler.scale_model_input(x, t) + float(t) / 1000)
            result = scheduler.step(output, t, x, generator=generator, **options)
            x = result.prev_sample
        states += [x, result.get("pred_original_sample", x)]
    return torch.stack(states)


def both(name, steps, options=None, **config):
    """The same chain of ours and of diffusers, on the same timesteps."""
    mine, theirs = (getattr(library, name)(**config) for library in (ours, diffusers))
    pair = [chain(scheduler, steps, **(options or {})) for scheduler in (mine, theirs)]
    assert mine.sigmas.shape == theirs.sigmas.shape
    # diffusers looks t up by float32 σ.
    torch.testing.assert_close(mine.timesteps.double(), theirs.timesteps.double(), rtol=0, atol=0.02)
    return pair


def check_close(mine, theirs):
    """To diffusers' rounding of σ to float32, which chains carry on."""
    torch.testing.assert_close(mine.double(), theirs.double(), rtol=0, atol=1e-3 * float(theirs.abs().max()))


SPACINGS = ({}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True})


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("timestep_type", ["discrete", "continuous"])
def test_euler_reads_v_at_continuous_timesteps(timestep_type, spacing):
    config = {"prediction_type": "v_prediction", "timestep_type": timestep_type, **spacing}
    check_close(*both(EULER, 8, **config))


@pytest.mark.parametrize("churn", [0.0, 20.0])
@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("interpolation", ["linear", "log_linear"])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_euler_between_interpolated_levels_and_down_to_the_smallest(final, interpolation, spacing, churn):
    config = {"final_sigmas_type": final, "interpolation_type": interpolation, **spacing}
    check_close(*both(EULER, 10, {"s_churn": churn}, timestep_spacing="leading", **config))


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("DPMSolverMultistepScheduler", "sde-dpmsolver++"),
        ("DPMSolverMultistepScheduler", "sde-dpmsolver"),
        (SINGLE, "sde-dpmsolver++"),
    ],
)
def test_the_second_image_of_a_generator_has_its_own_noise(name, algorithm, final):
    if algorithm == "sde-dpmsolver" and final == "zero":
        with pytest.raises(ConfigError):
            ours.DPMSolverMultistepScheduler(algorithm_type=algorithm, final_sigmas_type=final)
        return
    check_close(*both(name, 6, algorithm_type=algorithm, final_sigmas_type=final))


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("algorithm", ["dpmsolver", "dpmsolver++", "sde-dpmsolver++"])
def test_single_steps_end_where_their_last_evaluation_is(algorithm, order, spacing):
    """With ``sigma_min`` the last step of a warped spacing has no length, yet ends a step of order 2 or 3."""
    logging.disable(logging.WARNING)  # diffusers tells of each order that it lowers
    for steps, lowers in itertools.product((6, 7), (True, False)):
        config = {"solver_order": order, "algorithm_type": algorithm, "lower_order_final": lowers, **spacing}
        check_close(*both(SINGLE, steps, final_sigmas_type="sigma_min", **config))
    logging.disable(logging.NOTSET)


def test_unipc_takes_flow_matching_on_the_spacing_of_karras():
    config = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "use_karras_sigmas": True}
    mine, theirs = (library.UniPCMultistepScheduler(**config) for library in (ours, diffusers))
    for scheduler in (mine, theirs):
        scheduler.set_timesteps(9)
    assert torch.equal(mine.timesteps, theirs.timesteps)
    torch.testing.assert_close(mine.sigmas, theirs.sigmas)


@pytest.mark.parametrize("terminal", [None, 0.1])
@pytest.mark.parametrize("total", [1000, 100])
@pytest.mark.parametrize(
    "name", ["DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep"]
)
def test_flow_matching_asks_at_the_same_whole_timesteps(name, total, terminal):
    """They are cut off after multiplying, so that one rounding error would ask at another t."""
    config = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "num_train_timesteps": total}
    config |= {"shift_terminal": terminal} if name == "UniPCMultistep" else {}
    for steps, shift in itertools.product((3, 7, 9, 20, 33), (1.0, 1.7, 3.0)):
        mine, theirs = (
            getattr(library, f"{name}Scheduler")(flow_shift=shift, **config) for library in (ours, diffusers)
        )
        for scheduler in (mine, theirs):
            scheduler.set_timesteps(steps)
        assert torch.equal(mine.timesteps, theirs.timesteps)


@pytest.mark.parametrize("spacing", SPACINGS[1:], ids=str)
def test_with_zero_terminal_snr_t_is_found_in_a_table_that_falls_at_the_end(spacing):
    """ᾱ = 2⁻²⁴ takes the place of 0, though ᾱ of the t before is smaller."""
    config = {"rescale_betas_zero_snr": True, **spacing}
    mine, theirs = (library.EulerDiscreteScheduler(**config) for library in (ours, diffusers))
    for scheduler in (mine, theirs):
        scheduler.set_timesteps(10)
    torch.testing.assert_close(mine.timesteps, theirs.timesteps, rtol=0, atol=0.05)


@pytest.mark.parametrize("name", sorted(ours.adapter.SCHEDULERS))
@pytest.mark.parametrize("foreign", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"])
def test_a_configuration_of_another_family_is_refused(name, foreign):
    kind = ours.adapter.SCHEDULERS[name]
    config = getattr(diffusers, foreign)().config
    if "beta_schedule" not in kind().config:
        return
    with pytest.raises(ConfigError, match="is of a schedule of β"):
        kind.from_config(config)


def test_flow_matching_may_be_handed_to_a_solver_that_knows_it():
    config = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config
    wants = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    assert ours.DPMSolverMultistepScheduler.from_config(config, **wants).config.flow_shift == 3.0


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
def test_a_run_that_begins_later_does_not_need_an_answer_at_pure_noise(name):
    """As image to image does: of zero terminal SNR with ε it avoids the one t that has none."""
    config = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    results = []
    for library in (ours, diffusers):
        scheduler = getattr(library, name)(**config)
        scheduler.set_timesteps(10)
        generator, x = torch.Generator().manual_seed(0), torch.ones(SHAPE)
        for t in scheduler.timesteps[3:]:
            x = scheduler.step(torch.tanh(x), t, x, generator=generator).prev_sample
        results.append(x)
    check_close(*results)


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("name", [EULER, "HeunDiscreteScheduler", "UniPCMultistepScheduler", SINGLE])
def test_an_image_is_noised_at_the_level_where_the_run_goes_on(name, schedule, spacing):
    generator = torch.Generator().manual_seed(0)
    x_0, noise = (torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    results = []
    for library in (ours, diffusers):
        scheduler = getattr(library, name)(beta_schedule=schedule, **spacing)
        scheduler.set_timesteps(6)
        scheduler.set_begin_index(4)
        results.append(scheduler.add_noise(x_0, noise, scheduler.timesteps[4:5]))
    check_close(*results)


def test_noise_that_rises_is_named():
    """Of zero terminal SNR diffusers takes ᾱ = 2⁻²⁴ for 0, above that of the t before, and returns NaN."""
    scheduler = ours.EulerAncestralDiscreteScheduler(
        rescale_betas_zero_snr=True, timestep_spacing="trailing", beta_schedule="squaredcos_cap_v2"
    )
    falling = ours.EulerAncestralDiscreteScheduler(rescale_betas_zero_snr=True)
    x = torch.ones(SHAPE)
    for given, steps in ((scheduler, 10), (falling, 4)):
        given.set_timesteps(steps)
        assert given.step(x, given.timesteps[0], x).prev_sample.isfinite().all()
    falling.set_timesteps(500)
    with pytest.raises(ConfigError, match="σ rises from 4096"):
        falling.step(x, falling.timesteps[0], x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pndm_mixes_eps_of_networks_that_predict_x_0_without_rounding_it(dtype):
    chains = []
    for precision in (dtype, torch.float64):
        scheduler = ours.PNDMScheduler(
            prediction_type="sample", skip_prk_steps=True, beta_schedule="squaredcos_cap_v2"
        )
        scheduler.set_timesteps(8)
        x = torch.linspace(-1, 1, 8, dtype=precision).view(1, 8)
        for t in scheduler.timesteps:
            x = scheduler.step(torch.tanh(x.double()).to(precision), t, x).prev_sample
        assert x.dtype == precision
        chains.append(x.double())
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(*chains, rtol=0, atol=8 * eps)  # a rounding of x̂_0 in each of nine evaluations


def test_samples_of_a_batch_may_take_steps_of_no_length_beside_others():
    scheduler = ours.EulerAncestralDiscreteScheduler(num_train_timesteps=24, timestep_spacing="trailing")
    scheduler.set_timesteps(29)
    steps, x = scheduler._make_steps(0)[1:3], torch.ones(2, 4, dtype=torch.float64)
    assert len(steps[1].prev_sample) == 1
    both = scheduler._compute_step(stack(steps, x), x / 2, x, noise=x)[:2]
    each = [scheduler._compute_step(step, x / 2, x, noise=x)[:2] for step in steps]
    for k, found in enumerate(both):
        torch.testing.assert_close(found, torch.stack([each[0][k][0], each[1][k][1]]), rtol=1e-15, atol=1e-15)


def test_a_shift_whose_exponential_is_infinite_is_named():
    scheduler = ours.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    with pytest.raises(ConfigError, match="mu is 1000"):
        scheduler.set_timesteps(4, mu=1000)


# --- shared runs ---


def test_a_run_is_built_once_for_the_same_settings():
    first, second = ours.DDIMScheduler(), ours.DDIMScheduler()
    first.set_timesteps(20)
    chain_of(first)
    second.set_timesteps(20)
    assert first._run is second._run
    second.timesteps[0] = -5  # a caller's own copy
    first.set_timesteps(20)
    assert first.timesteps[0] == 950
    for other in (ours.DDIMScheduler(clip_sample=False), ours.DDIMScheduler(strict=True)):
        other.set_timesteps(20)
        assert other._run is not first._run


def test_a_setting_changed_later_is_another_run():
    scheduler = ours.DDIMScheduler()
    scheduler.set_timesteps(10)
    before = scheduler._run
    scheduler.register_to_config(timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    assert scheduler._run is not before
    assert scheduler.timesteps[0] == 999


def test_only_the_runs_used_last_are_kept():
    scheduler = ours.DDIMScheduler()
    for steps in range(1, 3 * runs.RUNS):
        scheduler.set_timesteps(steps)
    assert len(runs._runs) == runs.RUNS


def test_options_of_a_step_do_not_pile_up():
    scheduler = ours.EulerDiscreteScheduler()
    x = torch.ones(1, 4)
    for k in range(runs.MOST_STEPS // 900):
        scheduler.set_timesteps(1000)
        scheduler.step(x, scheduler.timesteps[0], x, s_churn=0.1 + k, generator=torch.Generator())
    assert len(scheduler._run.steps) <= runs.MOST_STEPS


def chain_of(scheduler):
    x = torch.zeros(1, 4)
    for t in scheduler.timesteps:
        x = scheduler.step(x, t, x).prev_sample

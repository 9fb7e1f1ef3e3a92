"""Schedules as diffusers' configurations: read by class name, written so that they read back bit for bit."""

import json
import math

import diffusers
import pytest
import torch
from cases import check_error
from hypothesis import given
from hypothesis import strategies as st

from alphabar import NoiseSchedule
from alphabar.errors import CheckpointError, ConfigError, ScheduleError, UnknownNameError
from alphabar.schedule import FAMILIES, log_alpha_bar_between
from alphabar.training.checkpoint import Checkpoint, load, save
from alphabar.training.network import unet

EPS = torch.finfo(torch.float32).eps
FLOWS = [
    diffusers.FlowMatchEulerDiscreteScheduler,
    diffusers.FlowMatchHeunDiscreteScheduler,
    diffusers.FlowMatchLCMScheduler,
]
EDMS = [diffusers.EDMEulerScheduler, diffusers.EDMDPMSolverMultistepScheduler]


def time(schedule: NoiseSchedule) -> torch.Tensor:
    """u, the time of rectified flow, from the noisy end."""
    return (schedule.noise_scale / (schedule.signal_scale + schedule.noise_scale)).flip(0)


def written(scheduler) -> dict:
    """What diffusers writes to a file: with the name of the class, which ``.config`` may lack."""
    return json.loads(scheduler.to_json_string())


# --- what diffusers means ---


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize(
    "config", [{}, {"shift": 3.0}, {"num_train_timesteps": 50, "shift": 0.7}], ids=["default", "3", "50"]
)
def test_flow_matching_has_the_levels_of_diffusers(kind, config):
    peer = kind(**config)
    schedule = NoiseSchedule.from_config(written(peer))
    assert len(schedule) == len(peer.sigmas)
    # diffusers rounds t/T, shift · v, 1 + (shift−1) v and their ratio to float32.
    torch.testing.assert_close(time(schedule).float(), peer.sigmas, rtol=4 * EPS, atol=0)


@given(st.integers(1, 2000), st.floats(0.1, 20))
def test_flow_matching_has_the_levels_of_diffusers_for_any_setting(steps, shift):
    peer = diffusers.FlowMatchEulerDiscreteScheduler(steps, shift)
    schedule = NoiseSchedule.from_config(written(peer))
    torch.testing.assert_close(time(schedule).float(), peer.sigmas, rtol=16 * EPS, atol=0)


@pytest.mark.parametrize("kind", [FLOWS[0], FLOWS[2]])
def test_dynamic_shifting_leaves_the_table_of_training_unshifted(kind):
    peer = kind(shift=3.0, use_dynamic_shifting=True)
    schedule = NoiseSchedule.from_config(written(peer))
    assert schedule == NoiseSchedule.rectified_flow()
    torch.testing.assert_close(time(schedule).float(), peer.sigmas, rtol=4 * EPS, atol=0)


def test_a_scheduler_without_dynamic_shifting_shifts_whatever_its_file_says():
    config = {"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 3.0, "use_dynamic_shifting": True}
    assert NoiseSchedule.from_config(config) == NoiseSchedule.rectified_flow(shift=3.0)


@pytest.mark.parametrize("kind", EDMS)
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"sigma_min": 0.02, "sigma_max": 500.0, "rho": 5.0, "num_train_timesteps": 30},
        {"sigma_schedule": "exponential", "rho": 3.0},
    ],
    ids=["default", "other", "exponential"],
)
def test_edm_has_the_levels_of_diffusers(kind, config):
    peer = kind(**config)
    schedule = NoiseSchedule.from_config(written(peer))
    peer.set_timesteps(len(schedule))
    assert len(schedule) == peer.config.num_train_timesteps
    # σ^{1/ρ} and log σ, |log σ| < 7, in float32, to the power ρ or through exp.
    torch.testing.assert_close(schedule.snr.rsqrt().flip(0).float(), peer.sigmas[:-1], rtol=32 * EPS, atol=0)


def test_a_configuration_is_read_by_its_class_and_not_by_its_keys():
    keys = {"shift": 3.0, "sigma_min": 0.1, "rho": 5.0, "num_train_timesteps": 20}
    linear = NoiseSchedule.from_config({"num_train_timesteps": 20})
    assert NoiseSchedule.from_config(keys) == linear
    for name in ("DDIMScheduler", "ADifferentScheduler", None, ["EDMEulerScheduler"]):
        assert NoiseSchedule.from_config({**keys, "_class_name": name}) == linear
    flow = {**keys, "_class_name": "FlowMatchEulerDiscreteScheduler", "beta_schedule": "scaled_linear"}
    assert NoiseSchedule.from_config(flow) == NoiseSchedule.rectified_flow(20, 3.0)
    edm = {**keys, "_class_name": "EDMEulerScheduler", "trained_betas": [0.1]}
    assert NoiseSchedule.from_config(edm) == NoiseSchedule.edm(20, sigma_min=0.1, rho=5.0)


# --- what is written reads back ---

MADE = {
    "linear": NoiseSchedule.linear(),
    "laplace": NoiseSchedule.laplace(300),
    "laplace, zero SNR": NoiseSchedule.laplace(300).zero_terminal_snr(),
    "diffusers' laplace": NoiseSchedule.from_config({"beta_schedule": "laplace"}),
    "exponential": NoiseSchedule.exponential(7),
    "diffusers' exponential, zero SNR": NoiseSchedule.from_config(
        {"beta_schedule": "exp", "rescale_betas_zero_snr": True}
    ),
    "cosine, respaced": NoiseSchedule.cosine().respaced(range(3, 1000, 9)),
    "cosine, respaced, zero SNR": NoiseSchedule.cosine().respaced(range(3, 1000, 9)).zero_terminal_snr(),
    "zero SNR, respaced": NoiseSchedule.linear().zero_terminal_snr().respaced([0, 500, 998, 999]),
    "β of one": NoiseSchedule.linear(4000).respaced([100, 3998, 3999]),
    "β of one, zero SNR": NoiseSchedule.linear(4000).respaced([100, 3998, 3999]).zero_terminal_snr(),
    "tiny": NoiseSchedule.from_alpha_bar([0.5, 1e-18, 1e-300]),
    "zero": NoiseSchedule.from_alpha_bar([0.5, 1e-18, 0]),
    "flow": NoiseSchedule.rectified_flow(1000, 3.0),
    "flow, respaced": NoiseSchedule.rectified_flow(1000, 3.0).respaced(range(9, 1000, 10)),
    "edm": NoiseSchedule.edm(),
    "edm, respaced": NoiseSchedule.edm().respaced(range(0, 1000, 10)),
    "edm, zero SNR": NoiseSchedule.edm(50, 0.1, 10.0, 5.0).zero_terminal_snr(),
    "edm, log": NoiseSchedule.edm(50, rho=math.inf),
}


@pytest.mark.parametrize("schedule", MADE.values(), ids=MADE.keys())
def test_what_is_written_reads_back_bit_for_bit(schedule):
    config = schedule.to_config()
    again = NoiseSchedule.from_config(json.loads(json.dumps(config, allow_nan=False)))
    assert again == schedule
    assert torch.equal(again.beta, schedule.beta)
    assert again.to_config() == config
    last = len(schedule) - 1 - int(schedule.alpha_bar[-1] == 0)
    t = torch.linspace(0, last, 40, dtype=torch.float64)
    assert torch.equal(log_alpha_bar_between(again, t), log_alpha_bar_between(schedule, t))


@given(st.lists(st.floats(1e-300, 0.99999), min_size=1, max_size=20, unique=True))
def test_any_alpha_bar_reads_back_bit_for_bit(values):
    schedule = NoiseSchedule.from_alpha_bar(sorted(values, reverse=True))
    again = NoiseSchedule.from_config(json.loads(json.dumps(schedule.to_config(), allow_nan=False)))
    assert again == schedule
    assert torch.equal(again.beta, schedule.beta)


@pytest.mark.parametrize(("name", "kind"), [("rectified_flow", FLOWS[0]), ("edm", EDMS[0])])
def test_diffusers_reads_what_is_written(name, kind):
    config = FAMILIES[name](100).to_config()
    assert config["_class_name"] == kind.__name__
    peer = kind.from_config(config)
    assert NoiseSchedule.from_config(written(peer)) == FAMILIES[name](100)


def test_keys_of_our_own_are_written_only_where_diffusers_has_none():
    ours = {"alphabar_family", "log_alpha_bar"}
    for name in ("linear", "cosine", "rectified_flow", "edm"):
        assert not ours & FAMILIES[name](1000).to_config().keys()
    assert not ours & NoiseSchedule.from_beta([0.1, 0.5]).to_config().keys()
    assert not ours & NoiseSchedule.linear().zero_terminal_snr().to_config().keys()


# --- in a checkpoint ---


@pytest.mark.parametrize("kind", ["v_prediction", "flow", "edm"])
@pytest.mark.parametrize(
    "schedule",
    [
        NoiseSchedule.rectified_flow(20, 3.0),
        NoiseSchedule.edm(20, 0.01, 50.0),
        NoiseSchedule.exponential(20),
        NoiseSchedule.from_alpha_bar([0.5, 1e-18]),
    ],
    ids=["flow", "edm", "exponential", "numbers"],
)
def test_every_schedule_comes_back_with_every_kind_of_network(schedule, kind, tmp_path):
    saved = Checkpoint(unet((1, 8, 8), channels=(8,)).eval(), schedule, kind, (1, 8, 8))
    loaded = load(save(tmp_path / "run", saved))
    assert loaded.schedule == schedule
    assert loaded.prediction == kind


@pytest.mark.parametrize(
    ("scheduler", "fragment"),
    [
        (diffusers.EDMEulerScheduler(prediction_type="v_prediction"), "prediction_type 'v_prediction'"),
        (diffusers.EDMEulerScheduler(sigma_data=-1.0), "sigma_data -1.0"),
    ],
)
def test_an_edm_scheduler_of_another_meaning_is_refused(scheduler, fragment, tmp_path):
    diffusers.DDPMPipeline(unet=unet((1, 8, 8), channels=(8,)), scheduler=scheduler).save_pretrained(tmp_path)
    check_error(lambda: load(tmp_path), CheckpointError, fragment)


# --- configurations that cannot be ---

TINY = NoiseSchedule.from_alpha_bar([0.5, 1e-18]).to_config()
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
EDM = {"_class_name": "EDMEulerScheduler"}
BAD = {
    "other β": (
        TINY | {"trained_betas": [0.1, 0.2]},
        ConfigError,
        "log_alpha_bar",
        "leave log_alpha_bar out",
    ),
    "more β": (TINY | {"trained_betas": [0.5, 0.9, 0.9]}, ConfigError, "trained_betas", "different"),
    "rising log ᾱ": (TINY | {"log_alpha_bar": [-2, -1]}, ScheduleError, "log_alpha_bar[1] is -1", "fall"),
    "log ᾱ of 0": (TINY | {"log_alpha_bar": [0.0, -1]}, ScheduleError, "log_alpha_bar[0] is 0", "below 0"),
    "null inside": (TINY | {"log_alpha_bar": [None, -1]}, ScheduleError, "log_alpha_bar is [None, -1]"),
    "word for log ᾱ": (TINY | {"log_alpha_bar": "cosine"}, ScheduleError, "log_alpha_bar is 'cosine'"),
    "word for β": (TINY | {"trained_betas": "linear"}, ScheduleError, "trained_betas is 'linear'", "list"),
    "β of another family": (
        NoiseSchedule.laplace(5).to_config() | {"alphabar_family": "exponential"},
        ConfigError,
        "trained_betas and alphabar_family",
    ),
    "a family nobody knows": (
        NoiseSchedule.laplace(5).to_config() | {"alphabar_family": "gumbel"},
        UnknownNameError,
        "alphabar_family 'gumbel'",
        "'laplace'",
    ),
    "shift of 0": (FLOW | {"shift": 0}, ScheduleError, "shift is 0", "positive"),
    "T beyond all memory": (
        {"num_train_timesteps": 10**9},
        ConfigError,
        "num_train_timesteps is 1000000000",
        "at most",
    ),
    "word for T": (FLOW | {"num_train_timesteps": "a"}, ConfigError, "steps is 'a'", "whole number"),
    "no σ_max": (EDM | {"sigma_max": None}, ScheduleError, "sigma_max is None", "positive number"),
    "another spacing of σ": (
        EDM | {"sigma_schedule": "linear"},
        UnknownNameError,
        "sigma_schedule 'linear'",
        "'exponential', 'karras'",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_a_bad_configuration_is_named_with_its_value_and_the_remedy(case):
    config, *expected = case
    check_error(lambda: NoiseSchedule.from_config(config), *expected)

"""Flow matching's drop-ins: parity with diffusers over all options, state, errors."""

import copy
import itertools
import math
import pickle

import diffusers
import numpy as np
import pytest
import torch
from cases import check_error
from flows import EULER, HEUN, X, Z, chain, network, pair
from peers import widened

import alphabar.diffusers as ours
from alphabar import NoiseSchedule
from alphabar.errors import ConfigError, ScheduleError, ShapeError, TimestepError, UnknownNameError

ROUNDING = 2e-5  # of chains in float32 through a network whose slope is at most 1
both = pytest.mark.parametrize("name", [EULER, HEUN])


def two_images(scheduler, given, x=X, **options):
    """Two runs of one scheduler with one generator, and where they went."""
    generator, images = torch.Generator().manual_seed(3), []
    for _ in range(2):
        scheduler.set_timesteps(**given)
        images.append(chain(scheduler, x, generator, **options))
    return torch.stack(images), scheduler.timesteps, scheduler.sigmas


def check_same(schedulers, given, x=X, **options):
    mine, theirs = (two_images(scheduler, given, x, **options) for scheduler in schedulers)
    torch.testing.assert_close(mine[1].double(), theirs[1].double(), rtol=0, atol=2.5e-4)  # σ · 1000
    torch.testing.assert_close(mine[2].double(), theirs[2].double(), rtol=0, atol=2e-7)
    torch.testing.assert_close(mine[0], theirs[0], rtol=0, atol=ROUNDING * float(theirs[0].abs().max()))


# --- parity ---

OPTIONS = {
    "shift": [{}, {"shift": 3.0}],
    "dynamic": [
        {},
        {"use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    ],
    "terminal": [{}, {"shift_terminal": 0.1}],
    "spacing": [{}, *({f"use_{kind}_sigmas": True} for kind in ("karras", "exponential", "beta"))],
    "kind": [{}, {"stochastic_sampling": True}, {"invert_sigmas": True}],
}
GIVEN = {
    "7": {"num_inference_steps": 7},
    "sigmas": {"sigmas": [1.0, 0.7, 0.4, 0.1], "num_inference_steps": 4},
    "timesteps": {"timesteps": [1000.0, 700.0, 401.5, 100.0]},
    "both": {"timesteps": np.array([990.0, 500.0]), "sigmas": np.array([0.9, 0.4])},
}


@pytest.mark.parametrize("given", GIVEN)
def test_whole_chains_are_the_peers(given):
    for parts in itertools.product(*OPTIONS.values()):
        config = {key: value for part in parts for key, value in part.items()}
        check_same(pair(EULER, **config), {**GIVEN[given], "mu": 1.15})


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_whole_chains_of_heun_are_the_peers(monkeypatch, steps, shift):
    mine, theirs = pair(HEUN, shift=shift)  # the peer divides by σ, in float32 with an error of 1e-7/σ
    check_same((mine, widened(monkeypatch, theirs)), {"num_inference_steps": steps}, X.double())


CHURN = [
    {"s_churn": 2.0},
    {"s_churn": 40.0, "s_noise": 1.1},
    {"s_churn": 3.0, "s_tmin": 0.2, "s_tmax": 0.8},
]


@both
@pytest.mark.parametrize("churn", CHURN)
def test_churn_is_the_peers(monkeypatch, name, churn):
    mine, theirs = pair(name, shift=2.0)
    check_same((mine, widened(monkeypatch, theirs)), {"num_inference_steps": 6}, X.double(), **churn)


@both
@pytest.mark.parametrize("config", [{}, {"shift": 3.0}, {"num_train_timesteps": 10, "shift": 0.3}])
def test_tables_before_the_first_run_are_the_peers(name, config):
    mine, theirs = pair(name, **config)
    for table in ("timesteps", "sigmas"):
        torch.testing.assert_close(getattr(mine, table), getattr(theirs, table), rtol=3e-7, atol=0)
    assert (mine.sigma_min, mine.sigma_max) == pytest.approx((theirs.sigma_min, theirs.sigma_max), rel=2e-7)
    assert mine.step_index is mine.begin_index is None
    t = theirs.timesteps[3:5]
    noises = [scheduler.scale_noise(X[:1], t[:1], Z[:1]) for scheduler in (mine, theirs)]
    torch.testing.assert_close(*noises, rtol=0, atol=1e-6)
    assert mine.schedule == NoiseSchedule.rectified_flow(
        **{"steps": len(mine), "shift": config.get("shift", 1.0)}
    )


@both
def test_own_ends_and_shift_are_the_peers(name):
    runs = []
    for smallest in (0.0, 0.1, 0.3):  # some pipelines let the last step begin at clean data
        results = []
        for scheduler in pair(name, shift=2.0):
            if name == EULER:
                scheduler.set_shift(5.0)
                assert scheduler.shift == 5.0
            scheduler.sigma_min = max(smallest, 0.01 * (name == HEUN))  # the peer divides by it
            scheduler.set_timesteps(5)
            results.append((chain(scheduler, X), scheduler.sigmas))
        torch.testing.assert_close(*results, rtol=0, atol=1e-5)
        runs.append(results[0][1])
    assert not torch.equal(runs[1], runs[2]), "another run"


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_the_helpers_are_the_peers(kind):
    mine, theirs = pair(EULER, time_shift_type=kind, shift_terminal=0.2)
    t = torch.linspace(1, 0.05, 9, dtype=torch.float64)
    for exponent in (1.0, 1.7):
        torch.testing.assert_close(mine.time_shift(0.8, exponent, t), theirs.time_shift(0.8, exponent, t))
    torch.testing.assert_close(mine.stretch_shift_to_terminal(t), theirs.stretch_shift_to_terminal(t))


@pytest.mark.parametrize("config", [{}, {"stochastic_sampling": True}, {"invert_sigmas": True}])
def test_a_t_for_each_token_is_the_peers(config):
    tokens = torch.tensor([[1000.0, 640.0, 0.0], [333.0, 750.0, 900.0]])
    for given in (tokens, torch.tensor([[500.0], [20.0]])):
        results = []
        for scheduler in pair(EULER, shift=2.0, **config):
            scheduler.set_timesteps(6)
            options = {"per_token_timesteps": given, "generator": torch.Generator().manual_seed(4)}
            results.append(scheduler.step(Z, scheduler.timesteps[0], X, **options).prev_sample)
            assert scheduler.step_index == 1
        torch.testing.assert_close(*results, rtol=0, atol=2e-6)
        half = scheduler.step(Z.half(), scheduler.timesteps[0], X.half(), **options).prev_sample
        mine = pair(EULER, **config)[0]
        assert mine.step(Z.half(), mine.timesteps[0], X.half(), **options).prev_sample.dtype == half.dtype


@both
@pytest.mark.parametrize(
    "dtypes", list(itertools.product([torch.float16, torch.bfloat16, torch.float32], repeat=2))
)
def test_the_sample_has_the_outputs_dtype_as_the_peers(name, dtypes):
    results = []
    for scheduler in pair(name, shift=3.0):
        scheduler.set_timesteps(4)
        t = scheduler.timesteps[0]
        results.append(scheduler.step(Z.to(dtypes[1]), t, X.to(dtypes[0])).prev_sample)
    assert results[0].dtype == results[1].dtype == dtypes[1]
    eps = torch.finfo(dtypes[1]).eps
    torch.testing.assert_close(*results, rtol=eps, atol=eps)


@both
def test_noising_within_a_run_is_the_peers(name):
    for begin in (None, 2):
        results = []
        for scheduler in pair(name, shift=2.0):
            scheduler.set_timesteps(6)
            if begin is not None:
                scheduler.set_begin_index(begin)
            t = scheduler.timesteps[2 if begin is None else begin]
            x = scheduler.scale_noise(X, t.reshape(1), Z)
            results.append(x)
            x = scheduler.step(network(x, t), t, x).prev_sample
            results.append(scheduler.scale_noise(X, scheduler.timesteps[scheduler.step_index].reshape(1), Z))
            results.append(x)
        for mine, theirs in zip(results[:3], results[3:], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-6)


def test_each_sample_noised_at_its_own_t():
    mine, theirs = pair(EULER, shift=2.0)
    for scheduler in (mine, theirs):
        scheduler.set_timesteps(6)
    t = mine.timesteps[[1, 4]]
    torch.testing.assert_close(mine.scale_noise(X, t, Z), theirs.scale_noise(X, t, Z), rtol=0, atol=1e-6)
    alone = mine.scale_noise(X[1:], float(t[1]), Z[1:])
    assert torch.equal(mine.scale_noise(X, t, Z)[1:], alone)


@both
def test_a_whole_t_is_found_where_rounding_has_moved_it(name):
    mine, theirs = pair(name)
    whole = theirs.timesteps.round()
    moved = int((theirs.timesteps != whole).nonzero()[0])
    assert mine.index_for_timestep(whole[moved]) == moved
    assert mine.index_for_timestep(whole[moved], theirs.timesteps) == moved
    assert [mine.index_for_timestep(t) for t in theirs.timesteps[[0, 500, 999]]] == [0, 500, 999]
    with pytest.raises(IndexError):  # still
        theirs.index_for_timestep(whole[moved])
    sigma = torch.tensor([0.254, 0.5])[:, None, None]
    seen = mine.scale_noise(X, torch.tensor([254, 500]), Z)
    torch.testing.assert_close(seen, (1 - sigma) * X + sigma * Z, rtol=0, atol=1e-6)
    check_error(lambda: mine.index_for_timestep(500.5), TimestepError, "500.5")


# --- state ---


def test_what_is_set_stays_with_copies_and_files(tmp_path):
    scheduler = ours.FlowMatchEulerDiscreteScheduler(shift=2.0, num_train_timesteps=500)
    scheduler.set_shift(4.0)
    scheduler.set_timesteps(6)
    for twin in (scheduler.fork(), copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert twin.shift == 4.0
        assert torch.equal(twin.sigmas, scheduler.sigmas)
        assert torch.equal(chain(twin, X), chain(scheduler.fork(), X))
    scheduler.set_shift(1.0)
    assert torch.equal(twin.sigmas, scheduler.sigmas), "a shift counts from the next set_timesteps on"
    scheduler.set_timesteps(6)
    assert not torch.equal(twin.sigmas, scheduler.sigmas)
    scheduler.save_pretrained(tmp_path)
    again = ours.FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path, strict=True)
    assert (again.shift, len(again), again.strict, again.sigma_min) == (2.0, 500, True, 1 / 500)
    theirs = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path)
    assert theirs.config.shift == 2.0


def test_an_option_changed_in_the_config_counts():
    mine, theirs = pair(EULER)
    for scheduler in (mine, theirs):
        scheduler.register_to_config(stochastic_sampling=True, shift_terminal=0.3)
    results = [two_images(scheduler, {"num_inference_steps": 4})[0] for scheduler in (mine, theirs)]
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


# --- errors ---


def test_what_is_wrong_is_named():
    make, scheduler = ours.FlowMatchEulerDiscreteScheduler, ours.FlowMatchEulerDiscreteScheduler()
    check_error(lambda: make(shift=0.0), ScheduleError, "shift")
    check_error(lambda: scheduler.set_shift(-1.0), ConfigError, "shift", "positive")
    check_error(lambda: make(time_shift_type="cosine"), UnknownNameError, "time_shift_type", "'linear'")
    check_error(
        lambda: make(use_karras_sigmas=True, use_beta_sigmas=True), ConfigError, "use_karras_sigmas", "one"
    )
    check_error(scheduler.set_timesteps, ConfigError, "num_inference_steps", "sigmas")
    check_error(lambda: scheduler.set_timesteps(0), ConfigError, "num_inference_steps")
    check_error(lambda: scheduler.set_timesteps(3, sigmas=[1.0, 0.5]), ConfigError, "same number")
    check_error(lambda: scheduler.set_timesteps(sigmas=[1.5, 0.5]), ConfigError, "1.5", "0 … 1")
    check_error(lambda: scheduler.set_timesteps(timesteps=[1200.0, 500.0]), ConfigError, "1.2", "1000")
    check_error(lambda: scheduler.set_timesteps(sigmas=[math.nan]), ConfigError, "nan")
    check_error(lambda: make(use_dynamic_shifting=True).set_timesteps(4), ConfigError, "mu")
    linear = make(use_dynamic_shifting=True, time_shift_type="linear")
    check_error(lambda: linear.set_timesteps(4, mu=-1.0), ConfigError, "mu", "positive")
    exponential = make(use_exponential_sigmas=True)
    check_error(lambda: exponential.set_timesteps(sigmas=[1.0, 0.0]), ConfigError, "above 0")
    strict = make(use_karras_sigmas=True, strict=True)
    for given in ({"timesteps": [900.0, 100.0]}, {"sigmas": [0.9, 0.1]}):
        check_error(lambda given=given: strict.set_timesteps(**given), ConfigError, "use_karras_sigmas")
    scheduler.set_timesteps(3)
    t = scheduler.timesteps[0]
    check_error(lambda: scheduler.step(Z, 1, X), TimestepError, "whole number")
    check_error(lambda: scheduler.step(Z, 123.0, X), TimestepError, "123")
    check_error(lambda: scheduler.step(Z, t, X, per_token_timesteps=t[None]), ShapeError, "(B, N)")
    check_error(lambda: scheduler.scale_noise(X, t), ConfigError, "noise")
    check_error(lambda: strict.step(Z, 1.0, X, s_churn=1.0), ConfigError, "s_churn", "stochastic_sampling")
    heun = ours.FlowMatchHeunDiscreteScheduler()
    check_error(lambda: heun.step(Z, heun.timesteps[0], X), ConfigError, "set_timesteps")
    check_error(lambda: heun.set_timesteps(0), ConfigError, "num_inference_steps")


def test_the_configuration_of_another_family_is_refused():
    flow, beta = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), diffusers.DDPMScheduler()
    edm = diffusers.EDMEulerScheduler()
    for name in ("EulerDiscreteScheduler", "DDIMScheduler", "UniPCMultistepScheduler"):
        for other in (flow, edm):
            check_error(
                lambda n=name, o=other: getattr(ours, n).from_config(o.config), ConfigError, "β", name
            )
    for name in (EULER, HEUN):
        check_error(lambda n=name: getattr(ours, n).from_config(beta.config), ConfigError, "beta_schedule")
        check_error(lambda n=name: getattr(ours, n).from_config(edm.config), ConfigError, "sigma_data")
        assert getattr(ours, name).from_config(flow.config).config.shift == 3.0
        assert getattr(ours, name).from_config({}).config.shift == 1.0
    solver = ours.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    assert ours.FlowMatchEulerDiscreteScheduler.from_config(solver.config, shift=2.0).config.shift == 2.0
    kept = ours.UniPCMultistepScheduler.from_config(flow.config, use_flow_sigmas=True, flow_shift=3.0)
    assert kept.config.flow_shift == 3.0

"""The drop-in schedulers' protocol: outputs, places in the run, precision, state, and what is more."""

import copy
import inspect
import pickle
from concurrent.futures import ThreadPoolExecutor

import diffusers
import pytest
import torch
from cases import check_error, normals

import alphabar.diffusers as ours
from alphabar import NoiseSchedule
from alphabar.diffusers.adapter import SCHEDULERS
from alphabar.errors import ShapeError

diffusers.utils.logging.set_verbosity_error()
every = pytest.mark.parametrize("name", SCHEDULERS)
SHAPE = (2, 2, 3, 3)
X, Z = normals(*SHAPE, seed=1, dtype=torch.float32), normals(*SHAPE, seed=2, dtype=torch.float32)


def peer(name):
    return getattr(diffusers, name)


def made(name, **config):
    return getattr(ours, name)(**config)


def as_input(scheduler, x, t):
    """What the network is given; flow matching of diffusers has no such method: the sample as it is."""
    return scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x


def noised(scheduler, x, z, t):
    return scheduler.add_noise(x, z, t) if hasattr(scheduler, "add_noise") else scheduler.scale_noise(x, t, z)


@every
def test_timesteps_device_and_outputs(name):
    mine, theirs = made(name), peer(name)()
    for scheduler in (mine, theirs):
        scheduler.set_timesteps(8, device="cpu")
    torch.testing.assert_close(mine.timesteps, theirs.timesteps)
    t = mine.timesteps[0]
    for scheduler in (mine, theirs):
        as_input(scheduler, X, t)
    output = mine.step(Z, t, X)
    assert type(output) is type(theirs.step(Z, t, X))
    assert torch.equal(output[0], output.prev_sample)
    assert torch.equal(output["prev_sample"], output.to_tuple()[0])
    tuples = [
        scheduler.fork() if scheduler is mine else copy.deepcopy(scheduler) for scheduler in (mine, theirs)
    ]
    assert len({len(scheduler.step(Z, mine.timesteps[1], X, return_dict=False)) for scheduler in tuples}) == 1


def test_custom_timesteps_and_sigmas():
    mine = made("DDPMScheduler")
    mine.set_timesteps(timesteps=[900, 50, 3])
    assert [int(mine.previous_timestep(t)) for t in (900, 50, 3)] == [50, 3, -1]
    for name, given in [
        ("DPMSolverMultistepScheduler", {"timesteps": [900, 50, 3]}),
        ("EulerDiscreteScheduler", {"timesteps": [900, 50, 3]}),
        ("EulerDiscreteScheduler", {"sigmas": [10.0, 2.0, 0.3, 0.0]}),
        ("HeunDiscreteScheduler", {"timesteps": [900, 50, 3]}),
    ]:
        mine, theirs = made(name), peer(name)()
        for scheduler in (mine, theirs):
            scheduler.set_timesteps(**given)
        torch.testing.assert_close(mine.timesteps, theirs.timesteps, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(mine.sigmas, theirs.sigmas, rtol=1e-5, atol=1e-6)


SOLVERS = [
    name for name in SCHEDULERS if name not in ("DDPMScheduler", "DDIMScheduler", "DDIMInverseScheduler")
]


@pytest.mark.parametrize("name", [name for name in SOLVERS if "IPNDM" not in name])  # which adds no noise
def test_beginning_within_the_run_as_image_to_image_does(name):
    ends = []
    for kind in (SCHEDULERS[name], peer(name)):
        scheduler, generator = kind(), torch.Generator().manual_seed(0)
        scheduler.set_timesteps(10)
        if name != "PNDMScheduler":  # which counts its calls
            scheduler.set_begin_index(4 * scheduler.order)
        x = noised(scheduler, X, Z, scheduler.timesteps[4 * scheduler.order :][:1])
        options = (
            {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
        )
        for t in scheduler.timesteps[4 * scheduler.order :]:
            output = torch.tanh(as_input(scheduler, x, t)) + 0.1
            x = scheduler.step(output, t, x, **options).prev_sample
        ends.append(x)
    torch.testing.assert_close(*ends, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_start_scale_and_model_input(name):
    mine, theirs = made(name), peer(name)()
    for scheduler in (mine, theirs):
        scheduler.set_timesteps(10)
    start = getattr(theirs, "init_noise_sigma", 1.0)
    torch.testing.assert_close(float(mine.init_noise_sigma), float(start), rtol=1e-5, atol=0)
    inputs = [as_input(scheduler, X, scheduler.timesteps[2]) for scheduler in (mine, theirs)]
    torch.testing.assert_close(*inputs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"])
def test_variances_are_the_peers(variance):
    mine, theirs = (
        made("DDPMScheduler", variance_type=variance),
        diffusers.DDPMScheduler(variance_type=variance),
    )
    for t in (1, 487, 999):
        torch.testing.assert_close(mine._get_variance(t), theirs._get_variance(t), rtol=2e-3, atol=0)
    ddim, theirs = made("DDIMScheduler"), diffusers.DDIMScheduler()
    for t, s in ((420, 400), (980, 960), (0, -1)):
        torch.testing.assert_close(ddim._get_variance(t, s), theirs._get_variance(t, s), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_noise_in_any_precision(dtype):
    schedule, t = NoiseSchedule.linear(), torch.tensor([5, 400])
    scales = [table[t].reshape(2, 1, 1, 1) for table in (schedule.signal_scale, schedule.noise_scale)]
    x, z = X.to(dtype), Z.to(dtype)
    exact = scales[0] * x.double() + scales[1] * z.double()
    for name in ("DDPMScheduler", "DPMSolverMultistepScheduler"):
        noisy = made(name).add_noise(x, z, t)
        assert noisy.dtype == dtype
        torch.testing.assert_close(
            noisy.double(), exact, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps
        )
    for one in (5, 400):
        noisy = made("DDPMScheduler").add_noise(X, Z, torch.tensor([one]))
        torch.testing.assert_close(
            noisy[0], made("DDPMScheduler").add_noise(X, Z, torch.tensor([one, one]))[0]
        )


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half_and_near(name, dtype):
    ends = []
    for kind in (torch.float32, dtype):
        scheduler = made(name)
        scheduler.set_timesteps(5)
        x = X.to(dtype).to(kind)
        for t in scheduler.timesteps[:2]:
            output = scheduler.scale_model_input(x, t) * 0.5
            x = scheduler.step(output, t, x, **seeded(scheduler)).prev_sample
            assert x.dtype == kind
        ends.append(x.float())
    if name not in NOISY:  # whose noise is drawn in this precision
        torch.testing.assert_close(ends[1], ends[0], rtol=0.05, atol=0.05)


NOISY = (
    "DDPMScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LCMScheduler",
    "TCDScheduler",
)


def seeded(scheduler):
    takes = "generator" in inspect.signature(scheduler.step).parameters
    return (
        {"generator": torch.Generator().manual_seed(0)}
        if takes and not scheduler.config.get("solver_order")
        else {}
    )


@every
def test_a_network_that_writes_all_its_outputs_into_one_tensor(name):
    ends = []
    for buffer in (None, torch.empty(SHAPE)):
        scheduler, x = made(name, **SAMPLE.get(name, {"prediction_type": "sample"})), X
        scheduler.set_timesteps(8)
        for t in scheduler.timesteps:
            output = torch.tanh(scheduler.scale_model_input(x, t) + float(t) / 1000)
            output = output if buffer is None else buffer.copy_(output)
            x = scheduler.step(output, t, x, **seeded(scheduler)).prev_sample
        ends.append(x)
    assert torch.equal(*ends)


SAMPLE = {
    **{
        name: {"prediction_type": "epsilon"}
        for name in ("PNDMScheduler", "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
    },  # PNDM keeps outputs as they are; EDM has no such type
    "FlowMatchEulerDiscreteScheduler": {},
    "FlowMatchHeunDiscreteScheduler": {},
    "IPNDMScheduler": {},
}


# --- more than the peer does ---


AT_ANY_T = [name for name in SCHEDULERS if not getattr(SCHEDULERS[name], "uses_history", "PNDM" in name)]


@pytest.mark.parametrize("name", AT_ANY_T)
def test_each_sample_at_its_own_t(name):
    scheduler = made(name)
    scheduler.set_timesteps(10)
    first, second = scheduler.timesteps[2], scheduler.timesteps[7]
    ts = torch.stack([first, second])
    torch.manual_seed(0)
    both, inputs = scheduler.step(Z, ts, X), scheduler.scale_model_input(X, ts)
    for i, t in enumerate((first, second)):
        alone = scheduler.fork()
        torch.testing.assert_close(inputs[i], alone.scale_model_input(X, t)[i])
        torch.manual_seed(0)
        for together, single in zip(both.to_tuple(), alone.step(Z, t, X).to_tuple(), strict=True):
            torch.testing.assert_close(together[i], single[i], rtol=1e-5, atol=1e-5)


def test_each_sample_at_its_own_t_with_a_learned_variance():
    scheduler, output = made("DDPMScheduler", variance_type="learned_range"), torch.cat([Z, X], 1)
    torch.manual_seed(0)
    both = scheduler.step(output, torch.tensor([30, 700]), X).prev_sample
    torch.manual_seed(0)
    torch.testing.assert_close(both[1], scheduler.step(output, 700, X).prev_sample[1])


@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in AT_ANY_T])
def test_a_solver_that_remembers_refuses_a_t_for_each_sample(name):
    scheduler = made(name)
    scheduler.set_timesteps(5)
    check_error(lambda: scheduler.step(Z, scheduler.timesteps[:2], X), ShapeError, "DDPM", "Euler")


@every
def test_forks_run_side_by_side_in_threads(name):
    scheduler = made(name)
    scheduler.set_timesteps(6)

    def request(seed):
        own, x = scheduler.fork(), X + seed
        for t in own.timesteps:
            options = (
                {"generator": torch.Generator().manual_seed(3)}
                if "generator" in inspect.signature(own.step).parameters
                else {}
            )
            x = own.step(torch.tanh(own.scale_model_input(x, t)), t, x, **options).prev_sample
        return x

    alone = [request(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for one, other in zip(alone, pool.map(request, range(6)), strict=True):
            assert torch.equal(one, other)


@every
def test_copies_and_pickles(name):
    scheduler = made(name, num_train_timesteps=800)
    scheduler.set_timesteps(6)
    for twin in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert type(twin) is type(scheduler)
        assert twin.config == scheduler.config
        t = scheduler.timesteps[0]
        steps = [
            s.step(Z, t, s.scale_model_input(X, t), **seeded(s)).prev_sample for s in (twin, scheduler.fork())
        ]
        torch.testing.assert_close(*steps)


def test_strict_lands_on_the_t_that_is_visited_next():
    for strict, landed in ((True, 888), (False, 899)):
        scheduler = made("DDIMScheduler", timestep_spacing="linspace", clip_sample=False, strict=strict)
        scheduler.set_timesteps(10)
        clean, schedule = normals(*SHAPE, seed=3, dtype=torch.float32), scheduler.schedule
        x, expected = (schedule.signal_scale[t] * clean + schedule.noise_scale[t] * Z for t in (999, landed))
        torch.testing.assert_close(
            scheduler.step(Z, 999, x.float()).prev_sample, expected.float(), rtol=0, atol=1e-4
        )


def test_strict_adds_no_noise_to_the_finished_image():
    for strict, spread in ((True, 0.0), (False, 0.3)):
        scheduler = made(
            "DDPMScheduler", variance_type="fixed_large", timestep_spacing="trailing", strict=strict
        )
        scheduler.set_timesteps(10)
        zero = torch.zeros(1, 1, 32, 32)
        assert scheduler.step(zero, scheduler.timesteps[-1], zero).prev_sample.std() >= spread
        assert strict <= (scheduler.step(zero, scheduler.timesteps[-1], zero).prev_sample.std() == 0)


def test_strict_starts_a_solver_with_the_variance_it_needs():
    for strict, square in ((True, 1.0), (False, 0.0)):
        scheduler = made("EulerDiscreteScheduler", strict=strict)
        assert float(scheduler.init_noise_sigma**2 - scheduler.sigmas.max() ** 2) == pytest.approx(
            square, abs=0.01
        )

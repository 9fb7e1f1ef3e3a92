"""The warning that the first reading of the network amplifies its errors beyond use."""

import math
import warnings

import pytest
import torch

from alphabar import DDIM, DDPM, Clipped, Denoiser, DPMSolver, DynamicThreshold, NoiseSchedule
from alphabar.process import PARAMETERISATIONS
from alphabar.samplers import AmplificationWarning, amplification, sample, warn_if_amplified
from alphabar.schedule import FAMILIES

COSINE, LINEAR = NoiseSchedule.cosine(), NoiseSchedule.linear()
ZERO_SNR = LINEAR.zero_terminal_snr()


def denoiser(schedule, prediction="epsilon"):
    return Denoiser(lambda x_t, t: 0.5 * x_t, schedule, prediction)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("t", [0, 500, 999])
def test_epsilon_is_amplified_by_the_noise_to_signal_ratio(name, t):
    schedule = FAMILIES[name](1000)
    alpha_bar = float(schedule.alpha_bar[t])
    expected = math.sqrt((1 - alpha_bar) / alpha_bar) if alpha_bar else math.inf
    found = amplification(schedule, PARAMETERISATIONS["epsilon"], t)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in PARAMETERISATIONS if kind != "epsilon"])
@pytest.mark.parametrize("name", FAMILIES)
def test_other_kinds_amplify_nothing(kind, name):
    schedule = FAMILIES[name](1000)
    assert max(amplification(schedule, PARAMETERISATIONS[kind], t) for t in range(1000)) <= 1


def test_it_is_the_change_of_x_0_when_the_output_changes():
    x_t, plan = torch.full((1, 1), 0.3, dtype=torch.float64), DDIM(50).plan(COSINE)
    t = plan.timesteps[0]
    one, other = (
        Denoiser(lambda x, t, e=e: torch.full_like(x, 0.3 + e), COSINE)(x_t, t).x_0 for e in (0.0, 1e-3)
    )
    factor = amplification(COSINE, PARAMETERISATIONS["epsilon"], t)
    assert float((one - other).abs()) == pytest.approx(factor * 1e-3, rel=1e-9)


def test_where_there_is_no_answer_it_is_infinite():
    assert amplification(ZERO_SNR, PARAMETERISATIONS["epsilon"], 999) == math.inf


@pytest.mark.parametrize("sampler", [DDPM(), DDIM(50), DPMSolver(20)], ids=repr)
def test_epsilon_with_the_cosine_schedule_warns_and_names_the_remedies(sampler):
    with pytest.warns(AmplificationWarning, match="t = 999 are 20,291 times") as caught:
        warn_if_amplified(denoiser(COSINE), sampler.plan(COSINE))
    for remedy in ("Clipped", "v_prediction", "spacing='leading'", "schedule that ends with more signal"):
        assert remedy in str(caught[0].message)


SILENT = {
    "linear, as in DDPM": (denoiser(LINEAR), DDPM().plan(LINEAR)),
    "exponential": (denoiser(FAMILIES["exponential"](1000)), DDPM().plan(FAMILIES["exponential"](1000))),
    "v": (denoiser(COSINE, "v_prediction"), DDPM().plan(COSINE)),
    "leading": (denoiser(COSINE), DDIM(50, spacing="leading").plan(COSINE)),
    "entered later": (denoiser(COSINE), DDIM(50).plan(COSINE, 700)),
    "inversion": (denoiser(COSINE), DDIM(50, inverse=True).plan(COSINE)),
    "clipped": (Clipped(denoiser(COSINE)), DDPM().plan(COSINE)),
    "thresholded": (DynamicThreshold(denoiser(COSINE)), DDPM().plan(COSINE)),
    "an error follows": (denoiser(ZERO_SNR), DDPM().plan(ZERO_SNR)),
}


@pytest.mark.parametrize("name", SILENT)
def test_no_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_amplified(*SILENT[name])


def test_no_warning_in_a_graph():
    plan, network = DDPM(2).plan(COSINE), denoiser(COSINE)

    def run(x):
        warn_if_amplified(network, plan)
        return 2 * x

    _ = network.kind  # held before the graph
    with warnings.catch_warnings():
        warnings.simplefilter("error", AmplificationWarning)
        graph = torch.compile(run, backend="eager", fullgraph=True)
        assert torch.equal(graph(torch.ones(2)), torch.full((2,), 2.0))


@pytest.mark.parametrize(("spacing", "explodes"), [("trailing", True), ("leading", False)])
def test_the_samples_that_it_warns_of_do_leave_the_range_of_the_data(spacing, explodes):
    # Data N(0, .7²), whose exact ε̂ = √(1−ᾱ)/(.49 ᾱ + 1 − ᾱ) · x_t; the network is off by a hundredth.
    def network(x_t, t):
        alpha_bar = COSINE.alpha_bar[int(t[0])]
        return (1 - alpha_bar).sqrt() / (0.49 * alpha_bar + 1 - alpha_bar) * x_t + 0.01

    sampler = DDIM(50, spacing=spacing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AmplificationWarning)
        found = sample(Denoiser(network, COSINE), (500, 1), sampler, seed=0, dtype=torch.float64)
    assert (float(found.abs().mean()) > 2) == explodes  # .56 of the data

"""The fitted tables: what they promise, on exact problems, and that they are still consistent rows."""

import ast
import json
import math
import sys
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
import torch
from cases import normals
from test_exact import PEERS, SEEN, peer_error

from alphabar import DEIS, Denoiser, DPMSolver, Fitted, GaussianMixture, Heun, NoiseSchedule, UniPC, sample
from alphabar.errors import ConfigError, NoAnswerError
from alphabar.samplers.exact import gaussian_error, mixture_error
from alphabar.samplers.fitted import _tables
from alphabar.schedule.levels import CLEAN, levels_at
from alphabar.schedule.noise_schedule import FAMILIES

FILE = Path(sys.modules[Fitted.__module__].__file__).with_name("fitted.json")
LINEAR, COSINE = NoiseSchedule.linear(), NoiseSchedule.cosine()
EVERY = [(name, int(steps)) for name, tables in _tables().items() for steps in tables]


@pytest.mark.parametrize("steps", [6, 10, 15, 20, 50])
@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine"])
def test_on_gaussian_data_the_error_is_a_tenth_of_the_peers_best_and_half_beyond_20(name, steps):
    schedule = FAMILIES[name](1000)
    peers = (peer_error(schedule, steps, *each) for each in PEERS)
    best = min(SEEN.get(name, {}).get(steps, 1), *peers)
    assert gaussian_error(Fitted(steps), schedule) <= best * (0.1 if steps <= 20 else 0.5)


@pytest.mark.parametrize("name", _tables())
def test_the_error_on_gaussian_data_is_small_at_every_number_of_evaluations(name):
    # The best hand-made tables leave .2/n² (linear, 10 evaluations) to 2/n²: no count may fall behind.
    schedule = FAMILIES[name](1000)
    errors = {int(n): gaussian_error(Fitted(int(n)), schedule) for n in _tables()[name]}
    assert list(errors) == list(range(5, 51))
    assert max(error * n**2 for n, error in errors.items()) < 0.5
    assert max(errors.values()) < 0.001


PEERS_TABLES = {
    kind: [kind(9, order=order, spacing=spacing) for order in (2, 3) for spacing in spacings]
    for kind, spacings in {
        DPMSolver: ("trailing", "karras", "log_snr"),
        UniPC: ("trailing", "karras"),
        DEIS: ("trailing", "karras"),
    }.items()
}
"""What the peer has too, row for row (test_solver_parity.py)."""


@pytest.fixture(scope="module", params=["linear", "cosine"])
def distances(request):
    """By evaluations and sampler: distances over √D to the truth, (M · B,), on mixtures no fit has seen."""
    schedule, found = FAMILIES[request.param](1000), {}
    for D, width, components in [(2, 0.1, 4), (5, 0.05, 12), (12, 0.3, 7), (24, 0.2, 5), (40, 0.05, 3)]:
        means = normals(components, D, seed=D) * 0.7
        mixture = GaussianMixture(means, torch.full((components,), width, dtype=torch.float64))
        x_t, denoiser = normals(60, D, seed=1), mixture.denoiser(schedule)
        ends = partial(sample, denoiser, x_t.shape, x_t=x_t, dtype=torch.float64, progress=False)
        true = ends(Heun(150, spacing="log_snr"))
        for steps in (6, 10, 20):
            peers = [replace(each, steps=steps) for each in chain(*PEERS_TABLES.values())]
            for sampler in (Fitted(steps), *peers):
                away = (ends(sampler) - true).norm(dim=1) / D**0.5
                found.setdefault(steps, {}).setdefault(sampler, []).append(away)
    return {n: {sampler: torch.cat(each) for sampler, each in of_n.items()} for n, of_n in found.items()}


@pytest.mark.parametrize("steps", [6, 10, 20])
def test_on_mixtures_outside_the_fit_it_ends_nearer_than_the_peers_tables(distances, steps):
    away = distances[steps].copy()
    fitted = away.pop(Fitted(steps))
    assert fitted.median() <= 0.6 * min(other.median() for other in away.values())
    assert fitted.square().mean() <= min(other.square().mean() for other in away.values())


@pytest.mark.parametrize(("name", "steps"), EVERY)
def test_every_row_maps_a_noised_point_to_the_same_point_less_noised(name, steps):
    schedule = FAMILIES[name](1000)
    plan = Fitted(steps).plan(schedule)
    assert len(plan) == steps
    stops = (*levels_at(schedule, plan.timesteps), CLEAN)
    assert plan.timesteps[0] == len(schedule) - 1 and plan.timesteps[-1] > 0
    for row, t, s in zip(plan.rows, stops[:-1], stops[1:], strict=True):
        assert not row.is_random
        assert row.x * t.sigma == pytest.approx(s.sigma, rel=1e-14)
        assert row.x * t.signal + math.fsum(row.history) == pytest.approx(s.signal, rel=1e-13)


def test_it_asks_the_network_as_often_as_it_says():
    asked = []

    def network(x_t, t):
        asked.append(float(t[0]))
        return torch.zeros_like(x_t)

    sample(Denoiser(network, COSINE, "sample"), (2, 1, 2, 2), Fitted(7), seed=0)
    assert asked == pytest.approx(list(Fitted(7).plan(COSINE).timesteps), abs=1e-4)


def test_equal_settings_make_equal_plans_and_a_schedule_rounded_to_float32_is_the_same_one():
    assert Fitted(9) == Fitted(9)
    assert Fitted(9).plan(LINEAR) == Fitted(9).plan(NoiseSchedule.from_config(LINEAR.to_config()))
    rounded = NoiseSchedule.from_beta(LINEAR.beta.float().double())
    assert Fitted(9).plan(rounded).timesteps == Fitted(9).plan(LINEAR).timesteps


@pytest.mark.parametrize("t_start", [600, 120.5])
def test_entered_on_the_way_it_stops_where_it_would_have_and_solves_with_third_order(t_start):
    whole = Fitted(12).plan(LINEAR)
    plan = Fitted(12).plan(LINEAR, t_start)
    assert plan.timesteps == (t_start, *(t for t in whole.timesteps if t < t_start))
    given = DPMSolver(order=3, rule="exact", spacing=plan.timesteps)
    assert plan == given.plan(LINEAR)
    assert Fitted(12).plan(LINEAR, 999) == whole


@pytest.mark.parametrize("steps", [4, 51, 0, -3, 7.5])
def test_another_number_of_evaluations_is_refused(steps):
    with pytest.raises(ConfigError):
        Fitted(steps)


@pytest.mark.parametrize(
    "schedule", [NoiseSchedule.laplace(), NoiseSchedule.cosine(500), LINEAR.zero_terminal_snr()]
)
def test_a_schedule_without_a_table_is_named_with_those_that_have_one_and_another_sampler(schedule):
    with pytest.raises(NoAnswerError, match=r"linear.*cosine.*DEIS\(steps, order=4") as error:
        Fitted(10).plan(schedule)
    assert isinstance(
        DEIS(10, order=4, lower_order_final=False, spacing="log_snr").plan(schedule).timesteps, tuple
    )
    assert repr(schedule) in str(error.value)


def test_the_file_says_how_it_was_made_and_stays_small():
    text = FILE.read_text(encoding="utf-8")
    script = Path(__file__).parents[1] / "research" / "settings.py"
    written = json.loads(text)["settings"]
    (settings,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(script.read_text(encoding="utf-8")).body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "SETTINGS"
    ]
    assert written == settings
    assert len(text) < 200_000


@pytest.mark.parametrize("name", _tables())
def test_more_evaluations_end_nearer_to_the_truth(name):
    mixture = GaussianMixture(normals(5, 6, seed=2), torch.full((5,), 0.2, dtype=torch.float64))
    start, schedule = normals(50, 6, seed=3), FAMILIES[name](1000)
    errors = [
        mixture_error(Fitted(n), schedule, mixture, start, reference=150).median for n in (5, 9, 16, 28)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 10

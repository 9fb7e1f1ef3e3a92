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
from alphabar.samplers.fitted import _numbers
from alphabar.schedule.levels import CLEAN, levels_at
from alphabar.schedule.noise_schedule import FAMILIES

FILE = Path(sys.modules[Fitted.__module__].__file__).with_name("fitted.json")
LINEAR, COSINE = NoiseSchedule.linear(), NoiseSchedule.cosine()
EVERY = [(name, int(steps)) for name, tables in _numbers().items() for steps in tables]


@pytest.mark.parametrize("steps", [6, 10, 15, 20, 50])
@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine"])
def test_on_gaussian_data_the_error_is_a_tenth_of_the_peers_best_and_half_beyond_20(name, steps):
    schedule = FAMILIES[name](1000)
    peers = (peer_error(schedule, steps, *each) for each in PEERS)
    best = min(SEEN.get(name, {}).get(steps, 1), *peers)
    assert gaussian_error(Fitted(steps), schedule) <= best * (0.1 if steps <= 20 else 0.5)


@pytest.mark.parametrize("name", _numbers())
def test_the_error_on_gaussian_data_is_small_at_every_number_of_evaluations(name):
    # The best hand-made tables leave .2/n² (linear, 10 evaluations) to 2/n²: no count may fall behind.
    schedule = FAMILIES[name](1000)
    errors = {int(n): gaussian_error(Fitted(int(n)), schedule) for n in _numbers()[name]}
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
    # A level of log-SNR moves by as much as log ᾱ is rounded, and a t is rounded to six digits.
    assert Fitted(9).plan(rounded).timesteps == pytest.approx(Fitted(9).plan(LINEAR).timesteps, rel=1e-4)


@pytest.mark.parametrize(("name", "steps"), EVERY)
def test_on_the_schedules_of_the_fit_the_numbers_are_those_of_the_file(name, steps):
    schedule, numbers = FAMILIES[name](1000), _numbers()[name][str(steps)]
    plan = Fitted(steps).plan(schedule)
    assert plan.timesteps == tuple(numbers["t"])
    stops = (*levels_at(schedule, numbers["t"]), CLEAN)
    for row, s, w in zip(plan.rows, stops[1:], numbers["w"], strict=True):
        assert [b / s.signal for b in row.history[1:]] == pytest.approx(w, rel=1e-14)


OTHERS = {
    "β up to .015": NoiseSchedule.linear(1000, 1e-4, 0.015),
    "β up to .03": NoiseSchedule.linear(1000, 1e-4, 0.03),
    "T = 400": NoiseSchedule.linear(400, 2.5e-4, 0.05),
    "cosine, T = 300": NoiseSchedule.cosine(300),
    "log-SNR of cosine less log 4": NoiseSchedule.from_alpha_bar(1 / (1 + 4 / COSINE.snr)),
    "zero terminal SNR": LINEAR.zero_terminal_snr(),
}
"""Schedules that nothing was fitted to."""


@pytest.mark.parametrize("steps", [6, 10])
@pytest.mark.parametrize("schedule", OTHERS.values(), ids=OTHERS)
def test_other_schedules_are_served_as_well_as_those_of_the_fit(schedule, steps):
    mixture = GaussianMixture(normals(7, 12, seed=4) * 0.7, torch.full((7,), 0.2, dtype=torch.float64))
    start = normals(60, 12, seed=5)
    asked = {each: UniPC(100, order=3, spacing="log_snr") for each in (schedule, LINEAR, COSINE)}
    errors = {}
    for each, teacher in asked.items():
        ends = partial(sample, mixture.denoiser(each), start.shape, x_t=start, dtype=start.dtype)
        errors[each] = float((ends(Fitted(steps)) - ends(teacher)).norm(dim=1).median())
    assert errors[schedule] <= 1.1 * max(errors[LINEAR], errors[COSINE])


def test_in_x_over_the_signal_the_coefficients_depend_on_log_snr_alone():
    # Both are served by the numbers of linear; only how far the first step leads differs.
    one, other = LINEAR, OTHERS["β up to .015"]
    rows = []
    for schedule in (one, other):
        plan = Fitted(8).plan(schedule)
        stops = (*levels_at(schedule, plan.timesteps), CLEAN)
        rows.append(
            [
                (t.half_log_snr, row.x * t.signal / s.signal, *(b / s.signal for b in row.history))
                for row, t, s in zip(plan.rows[1:], stops[1:-1], stops[2:], strict=True)
            ]
        )
    for a, b in zip(*rows, strict=True):
        assert a == pytest.approx(b, rel=1e-4)  # t has six digits


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
    ("schedule", "says"),
    [
        (
            NoiseSchedule.from_beta(torch.linspace(1e-4, 0.004, 1000, dtype=torch.float64)),
            r"√ᾱ of 0\.36 at T−1: needed are .* ± 0\.05 \(linear\)",
        ),
        (NoiseSchedule.laplace(), r"log-SNR -6\.9\d … 3\.1\d.*: needed are .*\(cosine\)"),
        (NoiseSchedule.from_beta([0.999]), r"serves NoiseSchedule"),
    ],
)
def test_a_schedule_that_lacks_the_levels_is_told_which_are_needed_and_another_sampler(schedule, says):
    with pytest.raises(NoAnswerError, match=says) as error:
        Fitted(10).plan(schedule)
    assert repr(schedule) in str(error.value)
    assert "otherwise take DEIS(steps, order=4" in str(error.value)


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


@pytest.mark.parametrize("name", _numbers())
def test_more_evaluations_end_nearer_to_the_truth(name):
    mixture = GaussianMixture(normals(5, 6, seed=2), torch.full((5,), 0.2, dtype=torch.float64))
    start, schedule = normals(50, 6, seed=3), FAMILIES[name](1000)
    errors = [
        mixture_error(Fitted(n), schedule, mixture, start, reference=150).median for n in (5, 9, 16, 28)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 10

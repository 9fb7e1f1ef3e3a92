"""The measuring code, on made-up numbers: nothing here looks at how fast the machine is."""

import json
import math
import sys
from functools import partial
from itertools import combinations, pairwise
from multiprocessing import Pipe
from threading import Thread

import pytest
import torch

from alphabar import GaussianMixture, NoiseSchedule
from alphabar.evaluation import Interval
from alphabar.samplers import SOLVERS, fitted_to, hand_made
from alphabar.training import Checkpoint, ImageData, TrainConfig
from alphabar.training.state import TrainState
from benchmarks import check, gits, report
from benchmarks.__main__ import main
from benchmarks.measure import FEWEST, Case, Result, Settings, measure, spread
from benchmarks.subjects import SUBJECTS, checkpoints, fitting, serving, subject
from benchmarks.subjects.growth import slope
from benchmarks.subjects.quality import _known


def made_up(ours=2.0, theirs=6.0, aim=2.5):
    return Result("adding", {"alphabar": [ours] * 5, "diffusers": [theirs] * 5}, {"diffusers": aim})


def recorded(out, *results):
    facts = {
        "date": "2026-01-01",
        "machine": {"CPU": "one", "threads": 2},
        "versions": {"torch": "2"},
        "absent": {},
    }
    report.save(out / "cpu", "noising", facts, [result.record() for result in results])
    return report.load(out / "cpu", "noising")


@pytest.fixture(autouse=True)
def nothing_is_left_behind(monkeypatch):
    """The command sets threads, warnings and logging for the whole process, here that of all tests."""
    monkeypatch.setattr("benchmarks.__main__._quiet", lambda given: None)


@pytest.fixture
def only_noising(monkeypatch):
    """Let the subject ``noising`` yield the result that a test makes up."""

    def set_to(result):
        monkeypatch.setattr(subject("noising"), "run", lambda settings: iter([result]))

    return set_to


def test_median_and_quartiles():
    assert spread([4.0]) == (4, 4, 4)
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == (3, 2, 4)


def test_ratio_is_taken_within_each_round():
    # A machine that slows down by ten in the middle of a run changes no ratio.
    result = Result("adding", {"alphabar": [1.0, 1.0, 10.0], "diffusers": [3.0, 3.0, 30.0]})
    assert result.ratio("diffusers") == (3, 3, 3)


def test_record_survives_json():
    record = made_up().record()
    assert json.loads(json.dumps(record)) == record
    assert record["ratios"]["diffusers"]["median"] == 3
    assert record["values"]["alphabar"] == {"median": 2, "low": 2, "high": 2}


def test_entrants_take_turns_there_and_back():
    calls = []
    case = Case("turns", {"alphabar": lambda: calls.append("a"), "diffusers": lambda: calls.append("d")})
    result = measure(case, Settings(budget=0))
    turns = "".join(calls)
    assert {len(numbers) for numbers in result.samples.values()} == {FEWEST}
    runs = [turn for i, turn in enumerate(turns) if i == 0 or turns[i - 1] != turn]
    # To warm up a, then d; then a d | d a | a d | …, which meet in pairs.
    assert len(runs) == 2 + FEWEST + 1


@pytest.mark.parametrize(
    ("floor", "theirs", "code"),
    [(3.0, [6.0, 6.0, 6.0], 0), (3.1, [6.0, 6.0, 6.0], 1), (3.1, [5.0, 6.0, 7.0], 0)],
)
def test_check_fails_below_the_floor_by_more_than_the_spread(
    tmp_path, only_noising, capsys, floor, theirs, code
):
    result = Result("adding", {"alphabar": [2.0] * 3, "diffusers": theirs}, {"diffusers": 1.0})
    only_noising(result)
    (tmp_path / "cpu").mkdir()
    floors = {"noising": {"adding | diffusers": floor, "no longer measured | azula": 9.0}}
    (tmp_path / "cpu" / "floors.json").write_text(json.dumps(floors))
    assert main(["--check", "--out", str(tmp_path)]) == code
    assert ("floor 3.10" in capsys.readouterr().out) == bool(code)
    assert not (tmp_path / "cpu" / "noising.json").exists()


def test_check_without_floors_is_no_success(tmp_path):
    assert main(["--check", "--out", str(tmp_path)]) == 1


def test_floors_are_what_was_measured_less_a_tenth(tmp_path):
    recorded(tmp_path, made_up())
    check.record_floors(tmp_path / "cpu")
    assert check.read_floors(tmp_path / "cpu") == {"noising": {"adding | diffusers": 2.7}}


def test_tables_come_from_the_record_alone(tmp_path):
    recorded(tmp_path, made_up())
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- results: cpu -->\nstale\n<!-- /results: cpu -->\nafter\n")
    report.refresh(tmp_path)
    once = page.read_text()
    assert "| Noising: adding | diffusers | 3.00 (3.00 … 3.00) | ≥ 2.50 | reached |" in once
    assert "| adding | 2 s | 6 s | 3.00 (3.00 … 3.00) |" in once
    assert once.startswith("before\n") and once.endswith("after\n") and "stale" not in once
    report.refresh(tmp_path)
    assert page.read_text() == once


def test_committed_tables_are_those_of_the_committed_records(tmp_path):
    committed = (report.DOCS / "README.md").read_text()
    for record in report.DOCS.rglob("*.*"):
        copy = tmp_path / record.relative_to(report.DOCS)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(record.read_bytes())
    report.refresh(tmp_path)
    assert (tmp_path / "README.md").read_text() == committed


def test_a_missed_aim_is_said(tmp_path):
    assert "**missed**" in report.aims_table([recorded(tmp_path, made_up(aim=3.5))])


def test_a_run_writes_its_record_its_picture_and_the_page(tmp_path, only_noising):
    only_noising(made_up())
    (tmp_path / "README.md").write_text("<!-- results: cpu -->\n<!-- /results: cpu -->\n")
    assert main(["noising", "--out", str(tmp_path)]) == 0
    assert report.load(tmp_path / "cpu", "noising")["cases"] == [made_up().record()]
    assert (tmp_path / "cpu" / "noising.png").stat().st_size > 1000
    assert "![Noising](cpu/noising.png)" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_subject_imports_and_is_described(name):
    module = subject(name)
    assert module.TITLE and module.ABOUT.endswith(".") and callable(module.run)


def test_list_names_every_subject(capsys):
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SUBJECTS)


def test_unknown_subject_is_refused(tmp_path):
    assert main(["nosing", "--out", str(tmp_path)]) == 2


def test_slope_of_a_straight_line_is_one():
    assert slope([(10**power, 3e-9 * 10**power + 1e-6) for power in range(5, 9)]) == pytest.approx(
        1, abs=1e-3
    )
    assert slope([(1, 5.0), (10**5, 1.0), (10**6, 10.0), (10**7, 100.0)]) == pytest.approx(1)


def test_earlier_runs_of_the_same_kind_are_kept():
    told = {"seconds": 300.0, "samples": 1000, "training images": 55000}
    samples = {"alphabar": [5.0], "real": [1.0]}
    case = Result("d", samples, unit="distance", notes={**told, "updates of alphabar": 900}).record()
    kept = _known({"cases": [case]}, told)
    assert kept == {"alphabar": {"distance": 5.0, "updates": 900}, "real": {"distance": 1.0}}
    assert _known({"cases": [case]}, {**told, "seconds": 60.0}) == {}
    assert _known({}, told) == {}


def test_each_reading_of_a_kept_run_holds_one_checkpoint(monkeypatch):
    written, write = [], TrainState.write

    def noted(state, run):
        written.append(state.step)
        return write(state, run)

    monkeypatch.setattr(TrainState, "write", noted)
    data = ImageData(torch.zeros(8, 1, 8, 8, dtype=torch.uint8))
    tried = checkpoints.Subject(TrainConfig(steps=100, batch_size=4, channels=(8,)), data, None)
    record = checkpoints.compared("tried", lambda: tried, every=4, rounds=2).record()
    assert written == [4, 8]  # of the readings 3 … 6 and 7 … 10
    assert record["rounds"] == 2
    assert record["aims"] == {"without": 0.98}


@pytest.mark.parametrize("name", ["plain", "diffusers"])
def test_an_entrant_answers_once_its_batch_is_drawn(name):
    pytest.importorskip("diffusers")
    asking, asked = Pipe()
    serves = Thread(target=serving.serve, args=(name, "cpu", 1, (2, 1), asked))
    serves.start()
    for _ in range(2):
        asking.send(True)
        assert asking.recv() == 2
    asking.send(False)
    serves.join()


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_the_levels_of_gits_are_the_cheapest_of_all(steps):
    n, gamma = 8, 1.15
    costs = torch.rand(n, n, generator=torch.Generator().manual_seed(steps), dtype=torch.float64).triu(1)
    costs[costs == 0] = math.inf

    def price(way):
        return sum(gamma**k * float(costs[a, b]) for k, (a, b) in enumerate(pairwise([*way, n - 1])))

    ways = [[0, *between] for between in combinations(range(1, n - 1), steps - 1)]
    assert gits.cheapest(costs, steps, gamma) == min(ways, key=price)


def test_no_way_of_more_steps_than_levels():
    with pytest.raises(ValueError, match="no way of 4 steps leads through 3 levels"):
        gits.cheapest(torch.full((3, 3), math.inf).triu_(1) + 1, 4)


def test_a_step_of_gits_costs_what_it_leads_off_the_chord_and_nothing_on_a_straight_chain():
    sigma = [3.0, 2.0, 1.0, 0.0]
    x_0 = torch.tensor([[1.0, 2.0]])
    straight = torch.stack([x_0 + s * torch.tensor([[0.6, 0.8]]) for s in sigma])
    costs = gits.step_costs(straight, x_0.expand(3, 1, 2), sigma)
    assert costs.isinf().equal(torch.ones(4, 4).tril().bool())
    assert costs.triu(1).nan_to_num(posinf=0).abs().max() < 1e-5  # float32
    # From (3, 0) to (0, 0) by way of (2, 1), where the estimate turns from (0, 3) to the end: Euler's
    # first step is right, and carried on to σ = 1 it leads two off the chord.
    bent = torch.tensor([[[3.0, 0.0]], [[2.0, 1.0]], [[1.0, 0.5]], [[0.0, 0.0]]])
    estimates = torch.tensor([[[0.0, 3.0]], [[0.0, 0.0]], [[0.0, 0.0]]])
    costs = gits.step_costs(bent, estimates, sigma)
    assert costs[0, 1:].tolist() == pytest.approx([0.0, 1.5, 3.0])
    assert costs[1, 2:].tolist() == pytest.approx([0.0, 0.0])


class Opened(Checkpoint):
    """A mixture in place of a trained network."""

    def guided(self, *args, **options):
        means = torch.tensor([[-0.5, 0.5], [0.4, -0.2]])
        return GaussianMixture(means, torch.tensor([0.2, 0.3])).denoiser(self.schedule)


class Judge:
    real = torch.zeros(20, 2)

    def interval(self, images):
        return Interval(float(images.square().mean()), 0.1, 0.1)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    few = {name: SOLVERS[name] for name in ("UniPC 2", "Heun")}
    for module in (fitting, sys.modules[hand_made.__module__]):
        monkeypatch.setattr(module, "SOLVERS", few)
    monkeypatch.setattr(fitting, "fitted_to", partial(fitted_to, updates=3))
    for name, number in {"BATCH": 4, "FITTED": 1, "CHOOSING": 1, "FRESH": 8}.items():
        monkeypatch.setattr(fitting, name, number)
    opened = Opened(torch.nn.Identity(), NoiseSchedule.cosine(), "sample", (2,))
    return partial(fitting.Trained, label="mixture, cosine", place=tmp_path, opened=opened, scored=Judge())


def test_a_cell_of_fitting_compares_every_table_and_is_not_fitted_again(trained, monkeypatch):
    results = list(trained(Settings(samples=20)).cell(6))
    assert [result.name.split(": ")[1] for result in results] == [
        "root mean square",
        "median",
        "Fréchet distance",
    ]
    for result in results[:2]:
        assert set(result.samples) == {"alphabar", "hand-made", "hand-made at 1.5 N", "Fitted", "GITS"}
        assert result.aims == {"hand-made": 2, "Fitted": 2, "GITS": 2, "hand-made at 1.5 N": 1}
        assert "," in result.notes["hand-made"] and result.notes["GITS"]
    assert {"teacher", "real"} <= set(results[2].samples)
    recorded = {"cases": [result.record() for result in results]}
    monkeypatch.setattr(fitting, "fitted_to", None)
    again = list(trained(Settings(samples=20)).cell(6))
    assert [result.record() for result in again] == recorded["cases"]
    assert trained(Settings(recorded=recorded)).is_recorded(6)
    assert not trained(Settings(recorded=recorded)).is_recorded(5)
    assert not trained(Settings(recorded=recorded, ablate=True)).is_recorded(6)
    assert not trained(Settings(recorded={"cases": recorded["cases"][:2]})).is_recorded(6)

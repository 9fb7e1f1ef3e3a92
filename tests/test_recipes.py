"""Recipes: what they run can be run, data are split once, records compared, and scores see errors."""

import json
import math
from functools import partial

import pytest
import torch
import tyro
from tyro.conf import FlagCreatePairsOff

from alphabar.cli import main
from alphabar.cli._main import COMMANDS
from alphabar.training import load_data
from recipes import __main__ as recipes
from recipes.__main__ import FOLDER, Recipe, compared, missed
from recipes.problems import PROBLEMS, sines
from recipes.problems._distances import energy_distance, kolmogorov_smirnov
from recipes.ways import REAL, TRUE, WAYS, _drawn, split

NAMES = sorted(path.parent.name for path in FOLDER.glob("*/recipe.json"))
PROBLEM_NAMES = [name for name in NAMES if Recipe.read(name).score in PROBLEMS]


@pytest.mark.parametrize("name", NAMES)
def test_the_arguments_of_each_recipe_are_those_of_the_commands(name):
    recipe = Recipe.read(name)
    for command, given in (("train", recipe.train), (recipe.way.command, recipe.evaluate)):
        tyro.cli(COMMANDS[command], args=["run", *given], config=(FlagCreatePairsOff,))
    assert recipe.about
    assert len(set(recipe.seeds)) == len(recipe.seeds) > 0


def test_an_unknown_recipe_is_named_beside_the_known():
    with pytest.raises(SystemExit, match=r"no recipe 'mnits': choose among (\w+, )*digits, (\w+, )*mnist"):
        Recipe.read("mnits")


def test_images_are_split_in_the_same_way_each_time_and_none_is_in_both_parts(tmp_path):
    images = load_data("digits").subset(range(60))
    parts = [load_data(str(path)) for path in split(images, 20, tmp_path / "once")]
    again = [load_data(str(path)) for path in split(images, 20, tmp_path / "again")]
    assert [len(part) for part in parts] == [40, 20]
    found = [[image.numpy().tobytes() for image in part[range(len(part))].images] for part in parts]
    assert [[i.numpy().tobytes() for i in part[range(len(part))].images] for part in again] == found
    assert sorted(found[0] + found[1]) == sorted(
        image.numpy().tobytes() for image in images[range(60)].images
    )


@pytest.mark.parametrize(
    ("name", "mean", "says"),
    [
        ("frechet", 4.9, "better"),
        ("frechet", 5.2, "within its spread"),
        ("frechet", 6.2, "worse"),
        ("recall", 6.2, "better"),
        ("recall", 4.9, "worse"),
    ],
)
def test_a_score_is_better_or_worse_only_beyond_the_spread_on_record(name, mean, says):
    before = {"mean": 5.5, "low": 5.0, "high": 6.0}
    assert compared(name, {"mean": mean, "low": 0, "high": 0}, before).endswith(says)


def test_a_recipe_trains_scores_and_is_put_on_record(tmp_path, monkeypatch, capsys):
    recipe = {
        "about": "two updates",
        "data": "digits",
        "held_out": 60,
        "train": ["--steps", "2", "--batch-size", "4", "--channels", "8", "--precision", "float32"],
        "evaluate": ["--num", "20", "--steps", "2"],
        "seeds": [0, 1],
    }
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/recipe.json").write_text(json.dumps(recipe))
    monkeypatch.setattr(recipes, "FOLDER", tmp_path)
    monkeypatch.setattr(recipes, "timed", lambda arguments: float(main(list(arguments))))
    monkeypatch.setattr("sys.argv", ["recipes", "tiny", "--out", str(tmp_path / "out"), "--record"])
    recipes.main()
    record = json.loads((tmp_path / "tiny/record.json").read_text())
    values = [run["scores"]["frechet"]["value"] for run in record["runs"]]
    assert [run["seed"] for run in record["runs"]] == [0, 1]
    real = record["runs"][0]["scores"]["frechet"]["real"]
    assert record["scores"]["frechet"] == pytest.approx(
        {"mean": sum(values) / 2, "low": min(values), "high": max(values), "real": real}
    )
    assert (tmp_path / "tiny/curve.png").read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["recipes", "tiny", "--out", str(tmp_path / "out"), "--seeds", "0"])
    recipes.main()
    assert "on record" in capsys.readouterr().out


def scores(problem, rows, true):
    return {name: {"value": value} for name, value in problem.score(rows, true).items()}


@pytest.mark.parametrize("name", PROBLEM_NAMES)
def test_real_rows_are_within_the_limits_of_a_problem_and_noise_is_beyond_each(name):
    recipe = Recipe.read(name)
    problem = PROBLEMS[recipe.score]
    true, real = (problem.draw(recipe.held_out, seed) for seed in (TRUE, REAL[0]))
    x = real["x"]
    noise = x.mean(0) + x.std(0) * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert not missed(recipe.limits, scores(problem, real, true))
    assert missed(recipe.limits, scores(problem, {**real, "x": noise}, true)) == list(recipe.limits)


@pytest.mark.parametrize("name", PROBLEM_NAMES)
def test_each_seed_on_record_is_within_the_limits(name):
    recipe, record = Recipe.read(name), json.loads((FOLDER / name / "record.json").read_text())
    assert [run["seed"] for run in record["runs"]] == list(recipe.seeds)
    assert not [
        missed(recipe.limits, run["scores"]) for run in record["runs"] if missed(recipe.limits, run["scores"])
    ]
    assert (record["train"], record["evaluate"]) == (list(recipe.train), list(recipe.evaluate))


@pytest.mark.long
@pytest.mark.parametrize("name", PROBLEM_NAMES)
def test_a_training_comes_within_the_limits(name, tmp_path):
    recipe = Recipe.read(name)
    found = recipes.run(recipe, 0, *recipe.way.prepare(recipe.data, recipe.held_out, tmp_path), tmp_path)
    assert not missed(recipe.limits, found["scores"])


def test_the_limit_of_the_mixture_is_half_as_much_again_as_two_sets_of_real_points_differ():
    recipe = Recipe.read("mixture")
    x = PROBLEMS["mixture"].draw(4000, 0)["x"].double()
    of_real = 2 / (recipe.held_out / 10) * float(torch.pdist(x).mean())
    assert recipe.limits["energy"] == pytest.approx(1.5 * of_real, rel=0.02)


def test_the_energy_distance_is_that_of_two_points_and_of_two_sets():
    x, y = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert energy_distance(x, x) == 0
    assert energy_distance(x, y) == pytest.approx(2 * 2.5 - 0 - 2.5)


def test_the_kolmogorov_smirnov_distance_is_that_of_one_number_and_of_numbers_outside():
    assert kolmogorov_smirnov(torch.tensor([2.5]), 2.0, 4.0) == pytest.approx(0.75)
    assert kolmogorov_smirnov(torch.tensor([5.0, 9.0]), 2.0, 4.0) == 1


def test_a_curve_is_fitted_by_its_own_amplitude_frequency_and_phase():
    place = torch.arange(64) / 64
    curve = 0.8 * torch.sin(2 * math.pi * 2.34 * place + 1.5)
    residual, *parameters = sines.fit(curve[None, None])
    assert residual < 1e-6
    assert torch.cat(parameters).tolist() == pytest.approx([0.8, 2.34, 1.5], abs=1e-3)


def test_a_problem_is_drawn_trained_sampled_and_judged(tmp_path, monkeypatch, capsys):
    recipe = json.loads((FOLDER / "mixture/recipe.json").read_text()) | {
        "held_out": 20,
        "train": ["--steps", "2", "--batch-size", "4", "--width", "8"],
        "evaluate": ["--steps", "2", "--batch-size", "20"],
        "seeds": [0],
    }
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/recipe.json").write_text(json.dumps(recipe))
    few = WAYS["mixture"]._replace(prepare=partial(_drawn, PROBLEMS["mixture"]._replace(rows=40)))
    monkeypatch.setattr(recipes, "FOLDER", tmp_path)
    monkeypatch.setitem(WAYS, "mixture", few)
    monkeypatch.setattr(recipes, "timed", lambda arguments: float(main(list(arguments))))
    monkeypatch.setattr("sys.argv", ["recipes", "tiny", "--out", str(tmp_path / "out"), "--record"])
    recipes.main()
    record = json.loads((tmp_path / "tiny/record.json").read_text())
    assert record["scores"]["astray"]["real"] < 0.1 < record["scores"]["astray"]["mean"]
    assert "seed 0: astray is beyond its limit, 0.05" in capsys.readouterr().out

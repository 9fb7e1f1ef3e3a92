"""Recipes: what they run can be run, the images are split once, and records are compared by their spread."""

import json

import pytest
import tyro
from tyro.conf import FlagCreatePairsOff

from alphabar.cli import main
from alphabar.cli._main import COMMANDS
from alphabar.training import load_data
from recipes import __main__ as recipes
from recipes.__main__ import FOLDER, Recipe, compared, split

NAMES = sorted(path.parent.name for path in FOLDER.glob("*/recipe.json"))


@pytest.mark.parametrize("name", NAMES)
def test_the_arguments_of_each_recipe_are_those_of_the_commands(name):
    recipe = Recipe.read(name)
    for command, given in (("train", recipe.train), ("evaluate", recipe.evaluate)):
        tyro.cli(COMMANDS[command], args=list(given), config=(FlagCreatePairsOff,))
    assert recipe.about
    assert len(set(recipe.seeds)) == len(recipe.seeds) > 0


def test_an_unknown_recipe_is_named_beside_the_known():
    with pytest.raises(
        SystemExit, match=r"no recipe 'mnits': choose among cifar10, cifar10_gpu, digits, mnist"
    ):
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
    assert record["scores"]["frechet"] == pytest.approx(
        {"mean": sum(values) / 2, "low": min(values), "high": max(values)}
    )
    assert (tmp_path / "tiny/curve.png").read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["recipes", "tiny", "--out", str(tmp_path / "out"), "--seeds", "0"])
    recipes.main()
    assert "on record" in capsys.readouterr().out

"""``alphabar sweep``, samples in memory, and scores during a training."""

import json
from dataclasses import replace

import pytest
import torch
from cases import check_error

from alphabar.cli import main
from alphabar.cli.scoring import Scores
from alphabar.cli.sweeping import Found, cheapest
from alphabar.errors import ConfigError
from alphabar.evaluation import Interval, draw
from alphabar.samplers import DDIM, sample
from alphabar.training import ImageData, load, load_data, read_log, to_uint8

TRAIN = ["--channels", "8", "8", "--batch-size", "16", "--warmup", "1", "--log-every", "2"]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """120 digits as a folder."""
    from PIL import Image

    place = tmp_path_factory.mktemp("data") / "few"
    place.mkdir()
    for i, image in enumerate(load_data("digits").images[:120]):
        Image.fromarray(image[0].numpy()).save(place / f"{i:03}.png")
    return str(place)


@pytest.fixture(scope="module")
def runs(few, tmp_path_factory):
    """The same training without scores, and with them after updates 2 and 4."""
    root = tmp_path_factory.mktemp("runs")
    train = ["train", few, *TRAIN, "--steps", "4"]
    assert main([*train, "--out", str(root / "plain")]) == 0
    assert main([*train, "--out", str(root / "scored"), "--evaluate-every", "2"]) == 0
    return root


def test_scores_in_the_log_leave_the_training_as_it_is(runs):
    plain, scored = (read_log(runs / name) for name in ("plain", "scored"))
    assert [entry["loss"] for entry in plain] == [entry["loss"] for entry in scored]
    assert load(runs / "plain").digest() == load(runs / "scored").digest()
    assert [entry["step"] for entry in scored if "scores" in entry] == [2, 4]
    for name, score in scored[-1]["scores"].items():
        assert score["low"] <= score["value"] <= score["high"], name
    assert scored[-1]["scores"]["frechet"]["value"] > 2 * scored[-1]["scores"]["frechet"]["real"]


def test_the_report_draws_the_scores(runs):
    assert main(["report", str(runs / "scored")]) == 0
    assert "Fréchet distance" in (runs / "scored" / "report.html").read_text()


def test_scores_need_enough_images_and_a_number_of_updates():
    data = ImageData(torch.zeros(30, 1, 8, 8, dtype=torch.uint8))
    check_error(lambda: Scores(data, 5), ConfigError, "30 images")
    check_error(lambda: Scores(data, 0), ConfigError, "evaluate_every")
    Scores(data, None)


def test_samples_in_memory_are_those_of_sample_by_number(runs):
    trained = load(runs / "plain")
    drawn = draw(trained, DDIM(steps=2), 70, seed=3)
    denoiser = trained.guided(None, 1.0)
    expected = sample(denoiser, (6, 1, 8, 8), DDIM(steps=2), seed=3, first=64, progress=False)
    assert torch.equal(drawn.images[64:], to_uint8(expected))
    assert len(drawn) == 70
    check_error(lambda: draw(trained, DDIM(steps=2), 0), ConfigError, "num")


def test_a_sweep_goes_on_where_it_stopped_and_names_a_setting(runs, few, capsys, monkeypatch):
    sweep = ["sweep", str(runs / "plain"), "--data", few, "--num", "40", "--samplers", "ddim", "dpm"]
    assert main([*sweep, "--evals", "2"]) == 0
    drawn = []
    monkeypatch.setattr("alphabar.cli.sweeping.draw", lambda *a, **k: drawn.append(a) or draw(*a, **k))
    capsys.readouterr()
    assert main([*sweep, "--evals", "2,3"]) == 0
    assert len(drawn) == 2  # only what was not known
    record = json.loads((runs / "plain" / "sweep.json").read_text())
    assert {(each["sampler"], each["evaluations"]) for each in record["settings"]} == {
        (name, n) for name in ("ddim", "dpm") for n in (2, 3)
    }
    assert all(each["low"] <= each["value"] <= each["high"] for each in record["settings"])
    assert "cheapest: " in capsys.readouterr().out
    assert (runs / "plain" / "sweep.png").is_file()
    assert main([*sweep, "--evals", "2", "--seed", "1"]) == 0  # another protocol: nothing of it is known
    assert len(drawn) == 4


def test_the_cheapest_setting_is_one_that_is_as_good_within_the_noise():
    near = Interval(1.0, 0.1, 9.0)
    found = {
        ("a", 50): Found(0.5, near),
        ("b", 20): Found(0.3, replace(near, value=1.2)),
        ("c", 10): Found(0.1, replace(near, value=2.0)),
    }
    assert cheapest(found) == (("a", 50), ("b", 20))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--samplers", "fitted", "--evals", "3"], "none of these samplers"),
        (["--samplers", "nothing"], "unknown sampler"),
        (["--evals", "a,b"], "whole numbers"),
        (["--num", "7"], "20 … 60"),
    ],
)
def test_wrong_arguments_are_one_line(runs, few, capsys, arguments, says):
    assert main(["sweep", str(runs / "plain"), "--data", few, *arguments]) == 2
    assert says in capsys.readouterr().err

"""``alphabar evaluate``: a run and folders, what its JSON says, comparisons, wrong arguments."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import check_error
from PIL import Image

from alphabar.cli import main
from alphabar.errors import DataError, ShapeError
from alphabar.evaluation import evaluate, features_by_name, find_copies, nearest_images, split
from alphabar.training import ImageData, load_data

SCORES = ("frechet", "kernel", "precision", "recall", "density", "coverage", "copies")
TRAIN = ["--class-conditional", "--channels", "8", "8", "--steps", "2", "--batch-size", "16", "--warmup", "1"]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Digits, other digits and noise, 60 pictures each, and 400 digits as data."""
    root, digits = tmp_path_factory.mktemp("folders"), load_data("digits")
    noise = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8)
    kinds = {
        "good": digits.images[:60],
        "other": digits.images[60:120],
        "noise": noise,
        "data": digits.images[200:600],
    }
    for name, images in kinds.items():
        (root / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image[0].numpy()).save(root / name / f"{i:05}.png")
    return root


@pytest.fixture(scope="module")
def scores(folders):
    """The scores of each folder, as JSON holds them."""
    return {name: scored(folders, name) for name in ("good", "other", "noise")}


def scored(folders, name):
    assert main(["evaluate", str(folders / name), "--data", str(folders / "data")]) == 0
    return json.loads(Path(f"{folders / name}.evaluation.json").read_text())


def test_each_score_stands_in_its_interval_beside_that_of_real_images(scores):
    for record in scores.values():
        for name in SCORES:
            score = record[name]
            assert score["low"] <= score["value"] <= score["high"]
            assert score["real"] == scores["good"][name]["real"]
    assert scores["noise"]["frechet"]["low"] > scores["good"]["frechet"]["high"]
    assert scores["noise"]["precision"]["value"] < 0.2 < scores["good"]["precision"]["value"]


def test_the_record_says_all_that_the_scores_depend_on(scores, folders):
    record = scores["good"]
    assert record["samples"]["num"] == record["data"]["real"] == 60
    assert record["data"]["reference"] == 340
    assert record["samples"]["from"] == str(folders / "good")
    assert record["features"]["name"] == "train (turns)"
    for digest in (
        record["features"]["sha256"],
        record["data"]["reference_digest"],
        *record["samples"]["digests"],
    ):
        assert len(digest) == 64
    assert record["machine"]["torch"] == torch.__version__
    assert (folders / "good.evaluation.png").is_file()


def test_scores_side_by_side_name_what_exceeds_the_noise(scores, folders, capsys):
    paths = [f"{folders / name}.evaluation.json" for name in ("good", "other", "noise")]
    assert main(["evaluate", "--compare", *paths]) == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("frechet"))
    _, _, other, noise, _ = row.split()
    assert noise.endswith("*")
    assert not other.endswith("*")


def test_scores_of_different_protocols_are_not_compared(scores, folders, capsys, tmp_path):
    few = tmp_path / "few.json"
    settings = ["--data", str(folders / "data"), "--num", "30", "--json", str(few)]
    assert main(["evaluate", str(folders / "good"), *settings]) == 0
    assert main(["evaluate", "--compare", f"{folders / 'good'}.evaluation.json", str(few)]) == 2
    assert "samples.num is 60 and 30" in capsys.readouterr().err


def test_a_run_is_sampled_from_several_seeds_and_scored(folders, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "digits", *TRAIN, "--out", str(run)]) == 0
    given = [
        "evaluate",
        str(run),
        "--data",
        str(folders / "data"),
        "--num",
        "40",
        "--steps",
        "2",
        "--seeds",
        "2",
    ]
    assert main(given) == 0
    (place,) = (run / "evaluation").iterdir()
    assert sorted(path.name for path in place.iterdir() if path.is_dir()) == ["seed-0", "seed-1"]
    record = json.loads((place / "evaluation.json").read_text())
    first, second = record["samples"]["settings"]
    assert (first["sampler"], first["steps"], first["num"]) == ("ddim", 2, 40)
    assert (first["seed"], second["seed"]) == (0, 1)
    assert record["samples"]["digests"][0] != record["samples"]["digests"][1]
    capsys.readouterr()
    assert main(given) == 0  # nothing is drawn again
    assert "holds all 40 images already" in capsys.readouterr().out
    assert json.loads((place / "evaluation.json").read_text()) == record
    card = (run / "README.md").read_text()
    assert card.count("## How good its samples are") == 1
    assert f"| frechet | {record['frechet']['value']:.4g} |" in card
    assert card.startswith("---\nlibrary_name: alphabar")


@pytest.mark.long
def test_two_processes_score_as_one(folders, tmp_path):
    run = tmp_path / "run"
    assert main(["train", str(folders / "good"), *TRAIN[1:], "--out", str(run)]) == 0
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    evaluate = ["evaluate", str(run), "--data", str(folders / "data"), "--num", "150", "--steps", "2"]
    found = []
    for name, launcher, separator in (("one", [], []), ("two", launch, ["--"])):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / name)}
        command = [sys.executable, *launcher, "-m", *separator, "alphabar", *evaluate]
        subprocess.run(command, env=environment, capture_output=True, check=True, cwd=tmp_path)
        (place,) = (run / "evaluation").iterdir()
        found.append(json.loads((place / "evaluation.json").read_text()))
        shutil.rmtree(place)
    one, two = found
    assert (one.pop("machine")["processes"], two.pop("machine")["processes"]) == ("1", "2")
    assert one == two


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--data"),
        (["{good}"], "--data"),
        (["{good}", "--data", "{data}", "--num", "5"], "20 … 200"),
        (["{good}", "--data", "{data}", "--num", "100"], "60"),
        (["{good}", "--data", "{data}", "--features", "inceptoin"], "unknown features"),
        (["{missing}", "--data", "{data}"], "missing"),
        (["{good}", "--data", "{missing}"], "missing"),
        (["--compare", "{missing}"], "no scores"),
        (["{good}", "--data", "{data}", "--json", "scores.txt"], "ends in .json"),
        (["{good}", "--data", "{data}", "--json", "{mine}.json"], "is there already"),
        (["{good}", "--data", "{data}", "--seeds", "0"], "seeds"),
    ],
)
def test_wrong_arguments_are_one_line(folders, capsys, arguments, says):
    named = {name: str(folders / name) for name in ("good", "data", "missing", "mine")}
    (folders / "mine.png").write_bytes(b"precious")
    assert main(["evaluate", *(each.format(**named) for each in arguments)]) == 2
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1
    assert (folders / "mine.png").read_bytes() == b"precious"


def test_copies_of_training_images_are_found():
    digits = load_data("digits")
    real, training = split(digits, 300)
    copied = training.images[:30].clone()
    samples = ImageData(torch.cat([copied, real.images[:270]]))
    copies = find_copies(samples, real, training)
    assert copies.value >= 0.1
    assert copies.low > copies.real
    assert all(distance == 0 and i == j for i, j, distance in copies.nearest)
    honest = find_copies(ImageData(real.images), real, training)
    assert honest.low <= honest.real <= honest.high


def test_samples_are_as_near_to_training_images_as_computed_by_hand():
    levels = torch.tensor([0, 10, 40, 255], dtype=torch.uint8)
    training = ImageData(levels.view(4, 1, 1, 1).expand(4, 1, 8, 8).contiguous())
    samples = ImageData(torch.tensor([12, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 8, 8))
    found = nearest_images(samples, training)
    assert found.numbers.tolist() == [1, 3]
    unit = 1 / 127.5
    assert found.samples.tolist() == pytest.approx([2 * unit, 0], abs=1e-6)
    assert found.real.tolist() == pytest.approx([10 * unit, 10 * unit, 30 * unit, 215 * unit], rel=1e-5)
    assert found.copies == 2
    other = ImageData(torch.zeros(3, 1, 9, 9, dtype=torch.uint8))
    check_error(lambda: nearest_images(other, training), ShapeError, "(1, 9, 9)")
    check_error(lambda: nearest_images(samples, training.subset([0])), DataError, "2 samples beside 1 images")


def test_real_images_that_were_held_out_are_as_near_as_each_is_to_the_nearest_other():
    held_out, training = split(load_data("digits"), 600)
    found = nearest_images(held_out, training)
    # Two samples of one distribution: Kolmogorov and Smirnov at 1 %.
    both = torch.cat([found.samples, found.real]).sort().values
    of_held_out, of_others = (
        torch.searchsorted(each.sort().values, both, right=True) / len(each)
        for each in (found.samples, found.real)
    )
    assert (of_held_out - of_others).abs().max() < 1.63 * (1 / 600 + 1 / 1197) ** 0.5
    assert found.copies < 0.03 * 600


def test_real_images_score_as_real_images():
    real, reference = split(load_data("digits").subset(range(400)), 100)
    features = features_by_name("train", reference)
    found = evaluate([ImageData(real.images)], real, reference, features)
    for score in found.scores.values():
        assert score.samples == score.real


def test_real_and_reference_images_share_none_and_are_all():
    digits = load_data("digits")
    real, reference = split(digits, 500)
    rows = [tuple(image.flatten().tolist()) for image in (*real.images, *reference.images)]
    assert sorted(rows) == sorted(tuple(image.flatten().tolist()) for image in digits.images)
    assert len(real) == 500

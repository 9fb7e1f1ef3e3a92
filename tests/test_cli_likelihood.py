"""``alphabar likelihood`` prints what the library finds, and writes all of it."""

import json

import pytest
import torch
from PIL import Image

from alphabar import DDPM, Clipped
from alphabar.cli import main
from alphabar.evaluation import bits_per_dimension, flow_bits_per_dimension
from alphabar.training import load, load_data, to_unit
from alphabar.training.permutation import permuted

TRAIN = ["--steps", "2", "--batch-size", "4", "--channels", "8", "--precision", "float32"]
SHORT = ["--num", "5", "--steps", "6", "--flow-steps", "4", "--seed", "3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network of ten classes of digits, hardly trained."""
    out = tmp_path_factory.mktemp("run") / "run"
    assert main(["train", "--class-conditional", *TRAIN, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def record(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "found.json"
    assert main(["likelihood", str(run), "--data", "digits", *SHORT, "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_it_finds_what_the_library_finds_of_images_drawn_by_the_seed_with_their_labels(run, record):
    loaded, data = load(run), load_data("digits")
    images, labels, _ = data[permuted(torch.arange(5), len(data), seed=3)]
    x_0, denoiser = to_unit(images), loaded.denoiser(labels)
    bound = bits_per_dimension(Clipped(denoiser), x_0, DDPM(6), seed=3)
    flow = flow_bits_per_dimension(denoiser, x_0, 4, seed=3)
    assert record["bound"]["each"] == pytest.approx(bound.each.tolist(), rel=1e-6)
    assert record["bound"]["terms"] == pytest.approx(bound.terms.tolist(), rel=1e-6)
    assert record["flow"]["each"] == pytest.approx(flow.each.tolist(), rel=1e-6)
    for name, found in (("bound", bound), ("flow", flow)):
        assert record[name]["bits"] == pytest.approx(found.total, rel=1e-6)
        assert record[name]["interval"] == pytest.approx(found.interval, rel=1e-5)
    assert record["digest"] == loaded.digest()
    assert (record["T"], record["num"], record["steps"], record["seed"]) == (1000, 5, 6, 3)
    assert record["bound"]["t"] == [166, 332, 499, 666, 832, 999]


def test_the_batch_does_not_matter_and_one_method_is_asked_alone(run, record, tmp_path, capsys):
    path = tmp_path / "found.json"
    arguments = ["likelihood", str(run), "--data", "digits", *SHORT, "--batch-size", "2", "--json", str(path)]
    for method, other in (("bound", "flow"), ("flow", "bound")):
        assert main([*arguments, "--method", method]) == 0  # the second is written over the first
        found = json.loads(path.read_text())
        assert found[method]["each"] == pytest.approx(record[method]["each"], rel=1e-5)
        assert other not in found
        assert f"{method}: {found[method]['bits']:.4f} ± " in capsys.readouterr().out


def test_the_printed_terms_add_up_to_the_bound(run, capsys):
    arguments = ["--num", "2", "--method", "bound", "--evaluations", "40"]
    assert main(["likelihood", str(run), "--data", "digits", *arguments]) == 0
    first, *lines, last = capsys.readouterr().out.splitlines()
    total = float(first.split()[1])
    assert sum(float(line.split()[0]) for line in lines) == pytest.approx(
        total, abs=0.5e-4 * (len(lines) + 1)
    )
    assert "of the prior" in lines[-1]
    assert "of the 1000 terms" in last


def test_of_one_image_there_is_no_interval(run, tmp_path):
    path = tmp_path / "one.json"
    arguments = [*SHORT, "--num", "1", "--json", str(path)]
    assert main(["likelihood", str(run), "--data", "digits", *arguments]) == 0
    found = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["bound"]["interval"] == [None, None]


@pytest.fixture
def picture(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("L", (8, 8), 100).save(tmp_path / "photos" / "0.png")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "photos"], "given labels"),
        (["--data", "nowhere"], "nowhere"),
        (["--method", "guess"], "'both', 'bound', 'flow'"),
        (["--variance", "learned_range"], "variance"),
        (["--steps", "2000"], "at most one step"),
        (["--evaluations", "2"], "at least 3"),
        (["--flow-steps", "3"], "even"),
        (["--num", "0"], "num"),
        (["--seed", "-1"], "seed"),
        (["--json", "photos"], ".json"),
        (["--json", "other.json"], "not written here"),
    ],
)
def test_what_does_not_fit_is_one_line(run, picture, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(picture.parent)
    (picture.parent / "other.json").write_text("{}")
    data = [] if "--data" in arguments else ["--data", "digits"]
    assert main(["likelihood", str(run), *data, *SHORT, *arguments]) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert printed.count("\n") == 1

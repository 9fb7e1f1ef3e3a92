"""``alphabar average`` writes a run's network with the average that was asked for."""

import json

import pytest
import torch
from cases import normals

from alphabar.cli import main
from alphabar.training import Averages, load, parse_profile, write_snapshot
from alphabar.training.posthoc import SNAPSHOTS

TRAIN = [
    "--steps",
    "2",
    "--batch-size",
    "4",
    "--channels",
    "8",
    "--precision",
    "float32",
    "--class-conditional",
]
STORED = ("power(0.05)", "power(0.1)")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose parameters went on to move at random for 40 updates; the averages of all of them."""
    place = tmp_path_factory.mktemp("averaging") / "run"
    assert main(["train", *TRAIN, "--out", str(place)]) == 0
    network = load(place).network
    averages = Averages(network, [parse_profile(name) for name in (*STORED, "power(0.2)")])
    for n in range(1, 41):
        for number, parameter in enumerate(network.parameters()):
            parameter.data += 0.1 * normals(*parameter.shape, seed=1000 * n + number)
        averages.update()
        if n % 4 == 0:
            state = averages.state()
            write_snapshot(place / SNAPSHOTS, {name: state[name] for name in STORED}, n)
    return place, averages.state()


def test_a_stored_average_becomes_the_network_of_a_pipeline(run, tmp_path, capsys):
    place, state = run
    out = tmp_path / "out"
    assert main(["average", str(place), "--profile", "power(0.10)", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "power(0.1) of 40 updates, its weights within 0.00% of the profile's",
        f"wrote {out}",
    ]
    found = load(out)
    for key, parameter in found.network.named_parameters():
        assert torch.equal(parameter, state["power(0.1)"][key])
    assert found.classes == load(place).classes
    described = json.loads((out / "alphabar.json").read_text())["training"]
    assert (described["average"], described["updates"], described["steps"]) == ("power(0.1)", 40, 2)


def test_an_average_that_was_not_stored_is_near_the_tracked_one(run, tmp_path):
    place, state = run
    assert main(["average", str(place), "--profile", "power(0.2)", "--out", str(tmp_path / "out")]) == 0
    before = dict(load(place).network.named_parameters())
    for key, parameter in load(tmp_path / "out").network.named_parameters():
        tracked = state["power(0.2)"][key]
        assert (parameter - tracked).norm() < 0.05 * (before[key] - tracked).norm()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("RUN --profile power(2) --out OUT", "sigma_rel is 2.0"),
        ("RUN --profile powre(0.1) --out OUT", "'powre(0.1)' is no profile"),
        ("RUN --profile power(0.1) --step 5 --out OUT", "update 5: choose the nearest, 4"),
        ("RUN --profile power(0.1) --step 0 --out OUT", "updates is 0"),
        ("RUN --profile power(0.1) --out RUN", "is read: choose another folder"),
        ("RUN/unet --profile power(0.1) --out OUT", "no model_index.json"),
        ("RUN --profile power(0.1)", "--out"),
        ("RUN --out OUT", "--profile"),
    ],
)
def test_what_cannot_be_averaged_is_one_line_and_changes_nothing(run, tmp_path, capsys, arguments, says):
    place, _ = run
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    words = arguments.replace("RUN", str(place)).replace("OUT", str(tmp_path / "out")).split()
    try:
        assert main(["average", *words]) == 2
    except SystemExit as stop:
        assert stop.code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert before == {path: path.stat().st_mtime_ns for path in place.rglob("*")}


def test_a_run_without_snapshots_and_snapshots_of_another_network_are_refused(run, tmp_path, capsys):
    assert main(["train", *TRAIN, "--out", str(tmp_path / "run")]) == 0
    arguments = ["average", str(tmp_path / "run"), "--profile", "power(0.1)", "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "holds no snapshots" in capsys.readouterr().err
    write_snapshot(tmp_path / "run" / SNAPSHOTS, {"power(0.1)": {"a": torch.ones(2)}}, 3)
    assert main(arguments) == 2
    assert "unknown ['a']" in capsys.readouterr().err

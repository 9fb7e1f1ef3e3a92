"""Each example runs from top to bottom, with small settings, and says what its docstring promises."""

import json
import re
import runpy
from pathlib import Path

import matplotlib as mpl
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "ddpm_from_scratch.ipynb"
SMALL = {
    "training_loop": {"steps": 2, "batch": 4, "count": 2},
    "own_network": {"steps": 2, "count": 2},
    "own_schedule": {"evaluations": 5},
    "own_sampler": {"most": 20},
    "image_to_image": {"steps": 1, "side": 24},
    "in_a_pipeline": {"steps": 1, "inference_steps": 20},
    "one_dimensional": {"steps": 2, "count": 2},
    "flow_matching": {"steps": 2, "count": 10},
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that runs a script's main, in a folder of its own, and returns what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)  # as when a script is run by its path

    def run(name, **settings):
        runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](**settings)
        return capsys.readouterr().out

    return run


def cells(kind):
    book = json.loads(NOTEBOOK.read_text("utf-8"))
    return [cell for cell in book["cells"] if cell["cell_type"] == kind]


def test_the_notebook_runs_and_its_asserts_hold(monkeypatch, capsys):
    mpl.use("Agg")
    monkeypatch.setenv("UPDATES", "2")
    monkeypatch.setenv("DIGITS", "2")
    names = {}
    for number, cell in enumerate(cells("code")):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "largest difference after 1000 steps" in printed
    assert names["digits"].shape == (2, 1, 8, 8)


def test_the_notebook_is_stored_without_outputs_and_each_code_cell_is_short():
    for cell in cells("code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert len(cell["source"]) < 45


def test_the_tables_of_both_languages_list_every_example():
    there = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert there == {f"{name}.py" for name in SMALL} | {NOTEBOOK.name}
    for name in ("README.md", "README.zh-CN.md"):
        listed = re.findall(r"^\| \[(.+?)\]\(\1\)", (EXAMPLES / name).read_text("utf-8"), re.MULTILINE)
        assert sorted(listed) == sorted(there)


@pytest.mark.parametrize("name", SMALL)
def test_a_script_is_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text("utf-8").splitlines()) < 60


@pytest.mark.parametrize("name", ["training_loop", "own_network", "one_dimensional", "flow_matching"])
def test_a_script_that_trains_runs(name, run):
    assert re.search(r"[#:*]|\d", run(name, **SMALL[name]))


def test_the_schedules_of_ones_own_end_in_noise(run):
    rows = run("own_schedule", **SMALL["own_schedule"]).splitlines()[1:]
    assert len(rows) == 4
    assert all(float(row.split()[-2]) < 0.02 for row in rows)


def test_the_sampler_of_ones_own_converges_with_its_second_order(run):
    rows = [line.split() for line in run("own_sampler", most=160).splitlines()[1:]]
    ddim, own = ([float(row[k]) for row in rows] for k in (1, 2))
    assert ddim[-2] / ddim[-1] == pytest.approx(2, rel=0.05)
    assert own[-2] / own[-1] > 3


def test_a_photograph_of_ones_own_is_repainted(run, tmp_path):
    Image.new("RGB", (40, 30), (200, 30, 60)).save(tmp_path / "mine.png")
    run("image_to_image", photo="mine.png", **SMALL["image_to_image"])
    with Image.open("repainted.png") as strip:
        assert strip.size == (4 * 24, 24)
        assert strip.getpixel((0, 0)) == (200, 30, 60)


def test_in_a_pipeline_both_schedulers_make_the_same_digits(run):
    (difference,) = re.findall(r"pixel: (\S+)", run("in_a_pipeline", **SMALL["in_a_pipeline"]))
    assert float(difference) < 1e-4  # float32, after twenty evaluations

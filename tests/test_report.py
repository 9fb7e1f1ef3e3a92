"""The page on a training: it needs nothing else, says what the log says, and takes what it reads as text."""

import re
import shutil
from dataclasses import asdict

import pytest
import torch

from alphabar.cli import plots
from alphabar.cli._forms import picture_name
from alphabar.cli._main import run
from alphabar.cli.report import page
from alphabar.cli.watching import Grids
from alphabar.training import TrainConfig, load_data, logged, to_unit, train
from alphabar.training.doctor import Finding

CONFIG = TrainConfig(channels=(8,), steps=6, batch_size=40, warmup=1, precision="float32")
LINE = {"step": 1, "loss": 0.5, "images": 40, "rate": 1e-3, "norm": 2.0, "seconds": 90.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("trained") / "digits"
    for _ in logged(train(CONFIG), place, every=2, also=Grids(place, 2)):
        pass
    return place


def test_the_page_of_a_run_holds_everything_and_needs_nothing_else(trained, capsys):
    assert run(["report", str(trained)]) == 0
    text = (trained / "report.html").read_text("utf-8")
    assert not re.search(r"https?://|<script|<link|@import|url\(", text)
    assert re.findall(r'src="(.{14})', text) == ["data:image/png"] * 3
    assert [int(step) for step in re.findall(r"<figcaption>step (\d+)", text)] == [2, 4, 6]
    assert re.findall(r'class="title"[^>]*>([^<]+)', text) == [
        *("Loss", "Norm of the gradient", "Learning rate"),
        *("Loss", "Share of the images"),
    ]
    assert f"<th>batch_size</th><td>{CONFIG.batch_size}</td>" in text
    assert f"<th>torch</th><td>{torch.__version__}</td>" in text
    assert "Nothing was found" in text
    assert "nan" not in re.sub(r"base64,[^\"]+", "", text).lower()
    assert run(["report", str(trained)]) == 0  # again, over its own


def test_the_page_says_how_near_samples_are_to_the_training_images(trained, tmp_path, capsys):
    assert run(["report", str(trained), "--out", str(tmp_path / "none.html")]) == 0
    assert "draw some by" in (tmp_path / "none.html").read_text("utf-8")
    place = tmp_path / "run"
    shutil.copytree(trained, place)
    digits = load_data("digits")
    for number in range(20):  # ten images of the training, and ten of noise
        copy = to_unit(digits.images[number])
        noise = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(number)) * 2 - 1
        plots.image(copy if number < 10 else noise, place / "samples" / picture_name(number))
    assert run(["report", str(place)]) == 0
    text = (place / "report.html").read_text("utf-8")
    assert "Of 1,797 training images the nearest is" in text
    assert "of the samples 10, 50.0%" in text
    assert text.count("data:image/png") == 4
    assert run(["report", str(place), "--data", str(tmp_path / "gone")]) == 0
    text = (place / "report.html").read_text("utf-8")
    assert "They cannot be compared" in text
    assert "gone" in text


def test_the_loss_by_level_is_told_early_and_at_the_end():
    def line(step, loss, share):
        return {**LINE, "step": step, "levels": {"loss": [loss, None], "share": [share, 1 - share]}}

    text = page("run", [line(step, 1 / step, 0.25) for step in range(1, 41)])
    late = sum(1 / step for step in range(31, 41)) / 10
    assert f"at the end {late:.3g}, none" in text
    assert "Share of the images by noise level: 25.0%, 75.0%" in text


def test_what_the_log_says_is_text_and_what_it_lacks_is_left_out():
    bad = "<script>alert(1)</script>"
    entries = [{"step": 1}, {**LINE, "norm": None, "notes": [asdict(Finding(bad, "3 > 1", "less"))]}]
    entries[0]["run"] = {"settings": {"data": bad, "size": None}, "machine": {}}
    text = page(bad, entries)
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)") == 4  # title, heading, note, setting
    assert "3 &gt; 1" in text
    assert "<th>size</th>" not in text
    assert "Norm of the gradient" not in text
    assert "None were drawn" in text


def test_of_many_grids_some_are_shown_the_first_and_the_last_among_them(tmp_path):
    paths = [tmp_path / f"step-{step:08}.png" for step in range(100, 4000, 100)]
    for path in paths:
        path.write_bytes(b"a picture")
    steps = re.findall(r"<figcaption>step ([\d,]+)", page("run", [LINE], paths))
    numbers = [int(step.replace(",", "")) for step in steps]
    assert (len(numbers), numbers[0], numbers[-1]) == (12, 100, 3900)
    assert numbers == sorted(set(numbers))


def test_what_is_no_run_and_what_is_no_report_are_refused(trained, tmp_path, capsys):
    other = tmp_path / "other.html"
    other.write_text("<p>somebody's page")
    picture = tmp_path / "x.png"
    plots.grid(torch.zeros(1, 1, 8, 8), picture)
    for words, says in (
        ([str(tmp_path)], "has no log.jsonl"),
        ([str(trained), "--out", str(other)], "is no report"),
        ([str(trained), "--out", str(picture)], "ends in .html"),
        ([str(trained), "--out", "/proc/x.html"], "cannot be written"),
    ):
        assert run(["report", *words]) == 2
        assert says in capsys.readouterr().err
    assert other.read_text() == "<p>somebody's page"

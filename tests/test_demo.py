"""The demo tells its whole story, in pictures that are there and numbers that are its own."""

import json
import re

from PIL import Image

from alphabar.cli import demo
from alphabar.cli.showing import DEMO, Demo


def test_the_page_shows_pictures_that_exist_and_the_numbers_of_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "SAMPLES", 100)
    monkeypatch.setattr(demo, "SAMPLER", demo.DPMSolver(steps=8, spacing="trailing"))
    animation = demo.plots.animation  # of which each picture is costly, and which test_cli.py counts
    monkeypatch.setattr(demo.plots, "animation", lambda frames, path: animation(frames[::20], path))
    kept = []
    run = demo.run
    monkeypatch.setattr(demo, "run", lambda *arguments, **more: kept.append(run(*arguments, **more)))
    (tmp_path / "mine.png").write_bytes(b"precious")
    Demo(out=tmp_path, seconds=1)()
    (score,) = kept
    assert (tmp_path / "mine.png").read_bytes() == b"precious"
    written = json.loads((tmp_path / DEMO).read_text())["files"]
    assert {name for name in written if not name.startswith("run/")} | {
        "run/model_index.json",
        "run/alphabar.json",
    } == set(demo.WRITTEN)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "$" not in page
    shown = re.findall(r'src="([^"]+)"', page)
    assert len(shown) == len(set(shown)) >= 8
    for name in shown:
        with Image.open(tmp_path / name) as picture:
            picture.load()
    numbers = json.loads((tmp_path / "score.json").read_text())
    assert numbers["pixels"] == score.pixels
    assert f"{score.pixels:.3f}" in page
    assert f"{score.read_right:.1%}" in page
    assert numbers["training"] == 899
    assert 0 < score.pixels_real < 2  # a hundred real digits against 898 others
    assert f"{score.pixels:.3f}" in capsys.readouterr().out

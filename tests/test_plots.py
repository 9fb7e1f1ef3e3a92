"""What the pictures show is what was given, pixel by pixel."""

import pytest
import torch
from cases import check_error
from PIL import Image

from alphabar import NoiseSchedule
from alphabar.cli import plots
from alphabar.errors import ShapeError
from alphabar.training.data import to_unit


def test_an_image_comes_back_from_its_file_unchanged(tmp_path):
    pixels = torch.arange(192, dtype=torch.uint8).reshape(3, 8, 8)
    plots.image(to_unit(pixels), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert torch.equal(
            torch.tensor(list(picture.tobytes()), dtype=torch.uint8).view(8, 8, 3).permute(2, 0, 1), pixels
        )


def test_a_grid_enlarges_each_image_by_a_whole_factor_row_by_row(tmp_path):
    levels = torch.tensor([-1.0, 0.0, 1.0])
    plots.grid(levels.view(3, 1, 1, 1).expand(3, 1, 8, 8), tmp_path / "grid.png", columns=2)
    with Image.open(tmp_path / "grid.png") as sheet:
        gap, size = 4, 64  # 8 pixels enlarged eightfold, a sixteenth of it between them
        assert sheet.size == (2 * size + 3 * gap, 2 * size + 3 * gap)
        corners = [(gap, gap), (gap + size + gap, gap), (gap, gap + size + gap)]
        assert [sheet.getpixel(corner)[0] for corner in corners] == [0, 128, 255]
        assert sheet.getpixel((gap + size + gap, gap + size + gap)) == (255, 255, 255)


def test_an_animation_has_every_frame_and_lingers_on_the_last(tmp_path):
    plots.animation(
        [torch.full((1, 8, 8), level) for level in (-1.0, 0.0, 1.0)], tmp_path / "x.gif", milliseconds=50
    )
    with Image.open(tmp_path / "x.gif") as movie:
        durations = []
        for frame in range(movie.n_frames):
            movie.seek(frame)
            durations.append(movie.info["duration"])
    assert durations == [50, 50, 1000]


def test_curves_and_strips_are_pictures_of_their_size(tmp_path):
    plots.schedule_curves(
        {"linear": NoiseSchedule.linear(), "one": NoiseSchedule.from_beta([0.5])}, tmp_path / "a.png"
    )
    plots.loss_curve({1: 1.0, 50: 0.5, 100: 0.25}, tmp_path / "b.png")
    plots.strip(torch.zeros(4, 3, 8, 8), ["a", "b", "c", "d\ne"], tmp_path / "c.png", title="chain")
    for name in ("a", "b", "c"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            picture.load()
            assert len(picture.convert("L").getcolors(256)) > 2  # something is drawn


@pytest.mark.parametrize("shape", [(2, 8, 8), (8, 8), (1, 1, 8, 8)])
def test_what_is_no_image_is_refused(shape, tmp_path):
    check_error(
        lambda: plots.image(torch.zeros(shape), tmp_path / "x.png"), ShapeError, str(shape), "(C, H, W)"
    )

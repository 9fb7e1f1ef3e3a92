"""Images as tensors and back: every mode, depth, orientation and size."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, picture_of, plain
from PIL import Image

from alphabar.errors import DataError, DtypeError
from alphabar.training.data import load_data, read_image, sample_photograph, to_uint8, to_unit
from alphabar.training.images import CropWarning

pytestmark = pytest.mark.filterwarnings("ignore::alphabar.training.images.CropWarning")

# [−1, 1] and back


def test_all_256_values_survive_the_round_trip():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_unit(every)), every)


def test_to_unit_is_the_stated_line():
    every = torch.arange(256, dtype=torch.uint8)
    exact = every.double() / 127.5 - 1
    assert to_unit(every).dtype == torch.float32
    torch.testing.assert_close(to_unit(every).double(), exact, rtol=0, atol=1.2e-7)
    assert to_unit(every)[[0, 255]].tolist() == [-1.0, 1.0]


@given(st.floats(-1.5, 1.5, width=32), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_to_uint8_takes_the_nearest_value_in_range(x, dtype):
    x = torch.tensor(x, dtype=dtype)
    exact = min(max((x.double().item() + 1) * 127.5, 0), 255)
    assert abs(to_uint8(x).item() - exact) <= 0.5 + 1e-4


def test_to_unit_leaves_its_argument_alone():
    images, samples = torch.zeros(3, dtype=torch.uint8), torch.full((3,), 0.25)
    to_unit(images), to_uint8(samples)
    assert images.tolist() == [0, 0, 0]
    assert samples.tolist() == [0.25, 0.25, 0.25]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_to_unit_wants_uint8(dtype):
    with pytest.raises(DtypeError, match=rf"{dtype}.*expected torch.uint8"):
        to_unit(torch.zeros(2, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.complex64])
def test_to_uint8_wants_floating_point(dtype):
    with pytest.raises(DtypeError, match=rf"x has dtype {dtype}"):
        to_uint8(torch.zeros(2, dtype=dtype))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_to_uint8_wants_finite_values(wrong):
    with pytest.raises(DataError, match="1 of 3 values are NaN or infinite"):
        to_uint8(torch.tensor([0.0, wrong, 1.0]))


# One image of each kind


def palette(**colours):
    picture = Image.new("P", (2, 2), 1)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    return picture


MODES = {
    "black and white": (Image.new("1", (2, 2), 1), "PNG", {}, [255]),
    "grey": (Image.new("L", (2, 2), 77), "PNG", {}, [77]),
    "grey with one value transparent": (Image.new("L", (2, 2), 77), "PNG", {"transparency": 77}, [255]),
    "half-transparent black": (Image.new("LA", (2, 2), (0, 128)), "PNG", {}, [127]),
    "colour": (Image.new("RGB", (2, 2), (1, 2, 3)), "PNG", {}, [1, 2, 3]),
    "half-transparent red": (Image.new("RGBA", (2, 2), (255, 0, 0, 128)), "PNG", {}, [255, 127, 127]),
    "nothing at all": (Image.new("RGBA", (2, 2), (9, 9, 9, 0)), "PNG", {}, [255, 255, 255]),
    "palette": (palette(), "PNG", {}, [200, 100, 50]),
    "palette, transparent": (palette(), "PNG", {"transparency": 1}, [255, 255, 255]),
    "palette, another colour transparent": (palette(), "PNG", {"transparency": 0}, [200, 100, 50]),
    "gif": (palette(), "GIF", {}, [200, 100, 50]),
    "cyan ink": (Image.new("CMYK", (2, 2), (255, 0, 0, 0)), "TIFF", {}, [0, 255, 255]),
    "black ink": (Image.new("CMYK", (2, 2), (0, 0, 0, 255)), "TIFF", {}, [0, 0, 0]),
    "32-bit integers": (Image.new("I", (2, 2), 32896), "TIFF", {}, [128]),
}


@pytest.mark.parametrize(("picture", "suffix", "options", "pixel"), MODES.values(), ids=MODES)
def test_every_mode_gives_the_colour_one_sees(tmp_path, picture, suffix, options, pixel):
    path = tmp_path / f"picture.{suffix.lower()}"
    path.write_bytes(encoded(picture, suffix, **options))
    image = read_image(path)
    assert image.dtype == torch.uint8
    assert image.shape == (len(pixel), 2, 2)
    assert (image == torch.tensor(pixel).view(-1, 1, 1)).all()


def test_channels_can_be_chosen(tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(encoded(plain(255, 0, 0)))
    assert read_image(path, channels=1).unique().tolist() == [76]  # 0.299 · 255, the luma of ITU-R 601
    path.write_bytes(encoded(plain(50)))
    assert torch.equal(read_image(path, channels=3), read_image(path).expand(3, 4, 4))


@pytest.mark.parametrize("suffix", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_clipped(tmp_path, suffix):
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = tmp_path / "deep"
    path.write_bytes(encoded(Image.fromarray(every), suffix))
    assert np.array_equal(read_image(path)[0].numpy(), np.round(every / 257).astype(np.uint8))


TURNED = {  # how a camera that writes this orientation has turned the scene, as arrays
    1: lambda scene: scene,
    2: lambda scene: scene[:, ::-1],
    3: lambda scene: scene[::-1, ::-1],
    4: lambda scene: scene[::-1],
    5: lambda scene: scene.swapaxes(0, 1),
    6: np.rot90,
    7: lambda scene: scene[::-1, ::-1].swapaxes(0, 1),
    8: lambda scene: np.rot90(scene, -1),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_is_respected(tmp_path, orientation):
    scene = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(picture_of(np.ascontiguousarray(TURNED[orientation](scene))), exif=exif))
    assert read_image(path).tolist() == [scene.tolist()]
    assert read_image(path, size=2).tolist() == [scene[:, :2].tolist()]


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12))
@pytest.mark.filterwarnings("ignore::alphabar.training.images.CropWarning")
def test_the_crop_is_the_middle(tmp_path_factory, height, width):
    array = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("crop") / "a.png"
    path.write_bytes(encoded(picture_of(array)))
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = array[top : top + side, left : left + side]
    assert np.array_equal(read_image(path, size=side).permute(1, 2, 0).numpy(), middle)
    assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), array)


@pytest.mark.parametrize("form", [(2, 4), (4, 2), (1, 7)])
def test_the_crop_has_the_form_asked_for_and_says_so(tmp_path, form):
    array = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture_of(array)))
    with pytest.warns(CropWarning, match=rf"a\.png has 8×8 pixels: .* {form[0]}×{form[1]}"):
        assert read_image(path, size=form).shape == (1, *form)
    wide = np.repeat(np.repeat(np.arange(8, dtype=np.uint8).reshape(2, 4), 2, 0), 2, 1)
    path.write_bytes(encoded(picture_of(wide)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path, size=(4, 8)).tolist() == [wide.tolist()]


def test_data_that_are_cropped_are_counted(tmp_path):
    for k, size in enumerate([(4, 4), (4, 6), (9, 4)]):
        plain(k, size=size).save(tmp_path / f"{k}.png")
    with pytest.warns(CropWarning, match="2 of 3 images are not square"):
        load_data(str(tmp_path))


def test_resizing_does_not_alias(tmp_path):
    board = np.indices((96, 96)).sum(0) % 2 * 255
    path = tmp_path / "board.png"
    path.write_bytes(encoded(picture_of(board)))
    small = read_image(path, size=6).int()
    assert (small - 127).abs().max() <= 1


def test_transparent_pixels_leave_no_fringe(tmp_path):
    array = np.zeros((32, 32, 4), dtype=np.uint8)
    array[:, :15] = 255  # opaque white beside transparent black
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture_of(array)))
    assert read_image(path, size=8).unique().tolist() == [255]


def test_floating_point_pixels_are_refused(tmp_path):
    path = tmp_path / "a.tiff"
    path.write_bytes(encoded(Image.new("F", (2, 2), 0.5), "TIFF"))
    with pytest.raises(DataError, match=r"a\.tiff cannot be read: its pixels are floating-point"):
        read_image(path)


def test_read_image_names_what_it_cannot_read(tmp_path):
    with pytest.raises(DataError, match=r"none\.png cannot be read: .*No such file"):
        read_image(tmp_path / "none.png")


def test_the_photograph_is_scikit_learns():
    image = sample_photograph()
    assert image.dtype == torch.uint8
    assert image.shape == (3, 427, 640)
    assert image[:, 0, 0].tolist() == [174, 201, 231]

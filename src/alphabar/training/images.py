"""Images as uint8 tensors and back: x = u / 127.5 − 1, u = round((x + 1) · 127.5).

All images take the same steps: turned upright, scaled to 8 bits, laid over white, cut to the middle, resized.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alphabar.checks import check_float
from alphabar.errors import AlphabarError, DataError, DtypeError, MissingExtraError
from alphabar.kernels import all_finite

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = [
    "MOST_PIXELS",
    "CropWarning",
    "PixelsError",
    "check_form",
    "open_picture",
    "pixels",
    "read_image",
    "sample_photograph",
    "to_uint8",
    "to_unit",
    "to_x_0",
    "translated",
    "upright",
]

GREY = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"})
MODES = {1: "L", 3: "RGB"}
ORIENTATION = 0x0112  # of Exif; above 4, a picture is stored on its side
LARGEST = 2**14  # pixels of a side: one such picture in colour is 3 GiB of float32
MOST_PIXELS = 2**26  # of a picture that is read, 8192 × 8192: decoded, it takes up to half a GiB
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is tried, whatever a file's name: formats that are data, not programs as EPS is."""


class PixelsError(ValueError):
    """A picture of more pixels than are read."""


class CropWarning(UserWarning):
    """Images of another form than asked for, of which the middle is taken."""


def to_unit(images: Tensor) -> Tensor:
    """Return uint8 images of any shape as float32 in [−1, 1], as networks see them: u / 127.5 − 1.

    >>> to_unit(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])

    Raises:
        DtypeError: if ``images`` are not uint8.
    """
    if images.dtype != torch.uint8:
        raise DtypeError(f"images are {images.dtype}: expected torch.uint8, 0 … 255")
    return images.to(torch.float32).div_(127.5).sub_(1)


def to_x_0(images: Tensor) -> Tensor:
    """Return a batch as networks see it, in float32: images in [−1, 1], latents as they are."""
    return to_unit(images) if images.dtype == torch.uint8 else images.float()


def to_uint8(x: Tensor) -> Tensor:
    """Return floating-point samples of any shape, clamped to [−1, 1], as the nearest uint8 images.

    >>> to_uint8(torch.tensor([-1.0, 0.5, 7.0]))
    tensor([  0, 191, 255], dtype=torch.uint8)

    Raises:
        DtypeError: if ``x`` is not floating point.
        DataError: if ``x`` holds a NaN or an infinity.
    """
    check_float(x=x)
    if not all_finite(x):
        raise DataError(
            f"{int((~x.isfinite()).sum())} of {x.numel()} values are NaN or infinite: expected −1 … 1"
        )
    return x.to(torch.float32).add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


@contextmanager
def translated(trouble: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into an error of this library."""
    try:
        yield
    except AlphabarError:
        raise
    except ImportError as missing:
        raise MissingExtraError("reading images", "train") from missing
    except Exception as cause:  # a decoder that is fed with arbitrary bytes raises whatever it likes
        raise DataError(f"{trouble}: {cause}") from cause


def read_image(
    path: str | Path, *, size: int | tuple[int, int] | None = None, channels: int | None = None
) -> Tensor:
    """Read one image as uint8 (C, H, W), by the steps of :func:`load_data`.

    Args:
        path: a file in any common format.
        size: side of the square, or (H, W); None for all of it.
        channels: 1 for grey, 3 for RGB; None as it comes.

    Raises:
        DataError: if ``path`` is no image that can be read, or ``size`` or ``channels`` is out of range.

    Warns:
        CropWarning: the image has another form than ``size``: its middle is taken.
    """
    check_form(size, channels)
    with translated(f"{path} cannot be read"), open_picture(path) as picture:
        image = pixels(picture, size, channels).contiguous()
        height, width = upright(picture)
    _, rows, columns = image.shape
    if size is not None and height * columns != width * rows:
        what = f"its middle is taken, in the form {rows}×{columns}"
        warnings.warn(f"{path} has {height}×{width} pixels: {what}", CropWarning, stacklevel=2)
    return image


def sample_photograph() -> Tensor:
    """Return a photograph that comes with scikit-learn, a Chinese temple: uint8 (3, 427, 640)."""
    with translated("scikit-learn's sample photograph cannot be read"):
        from sklearn.datasets import load_sample_image

        return torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1).contiguous()


def check_form(size: int | tuple[int, int] | None, channels: int | None) -> None:
    """Require sides of 1 … 16384 pixels, and 1 or 3 channels; None is always allowed.

    Raises:
        DataError: another number.
    """
    for side in () if size is None else size if isinstance(size, tuple) else (size,):
        if not 1 <= side <= LARGEST:
            raise DataError(f"size is {side}: expected at least 1 pixel, at most {LARGEST}")
    if channels is not None and channels not in MODES:
        raise DataError(f"channels is {channels}: expected 1 (grey) or 3 (RGB)")


def open_picture(stored: str | Path | bytes) -> Picture:
    """Open an image from its path or its bytes, undecoded.

    Raises:
        ValueError: no file, or no image of a format that is read.
        PixelsError: more than 2²⁶ pixels.
    """
    from PIL import Image, UnidentifiedImageError

    if not isinstance(stored, bytes) and Path(stored).exists() and not Path(stored).is_file():
        raise ValueError("it is a folder" if Path(stored).is_dir() else "it is no regular file")
    try:
        with warnings.catch_warnings():  # of Pillow's, at a third more pixels
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(BytesIO(stored) if isinstance(stored, bytes) else stored, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"it is empty, or in no image format that is read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError as wrong:  # of Pillow's own limit, which is wider
        raise PixelsError(str(wrong)) from None
    if picture.width * picture.height > MOST_PIXELS:
        picture.close()
        raise PixelsError(f"it has {picture.width}×{picture.height} pixels: at most {MOST_PIXELS:,} are read")
    return picture


def pixels(
    picture: Picture, size: int | tuple[int, int] | None = None, channels: int | None = None
) -> Tensor:
    """Return uint8 (C, H, W): the middle in the form of ``size``, box-reduced then Lanczos; or all of it."""
    from PIL import Image, ImageOps

    channels = channels or (1 if picture.mode in GREY else 3)
    picture = _opaque(ImageOps.exif_transpose(picture)).convert(MODES[channels])
    if size:
        rows, columns = size if isinstance(size, tuple) else (size, size)
        width = min(picture.width, max(1, picture.height * columns // rows))
        height = min(picture.height, max(1, picture.width * rows // columns))
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        middle = picture.crop((left, top, left + width, top + height))
        picture = middle.resize((columns, rows), Image.Resampling.LANCZOS, reducing_gap=3.0)
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.view(picture.height, picture.width, channels).permute(2, 0, 1)


def upright(picture: Picture) -> tuple[int, int]:
    """Return height and width of a picture, turned as its Exif entry says."""
    is_on_its_side = picture.getexif().get(ORIENTATION, 1) > 4
    width, height = picture.size[::-1] if is_on_its_side else picture.size
    return height, width


def _opaque(picture: Picture) -> Picture:
    """Return the picture in 8 bits a channel, laid over white where it is transparent."""
    from PIL import Image

    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers, and no file states their range")
    if picture.mode.startswith("I"):  # 16 bits, which Pillow's own conversion would clip
        return picture.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if picture.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    return picture

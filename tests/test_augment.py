"""Images are changed as the formulas say, each by numbers of its own address."""

from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch
from cases import check_error, seeds
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alphabar import NoiseSchedule
from alphabar.errors import ConfigError
from alphabar.process import addressed
from alphabar.training import ImageData, TrainConfig, array_data, kept, train
from alphabar.training.augment import AUGMENTATIONS, augmented, check_augmentations, crop, flip, jitter
from alphabar.training.data import Batch
from alphabar.training.draw import Draw
from alphabar.training.streams import CROP_LEFT, CROP_SIDE, CROP_TOP

CONFIG = TrainConfig(batch_size=12, crop=0.4, flip=True, jitter=0.3, warmup=1, precision="float32")
EPS = torch.finfo(torch.float32).eps
shares = st.floats(0, 1)


def images(count=12, channels=3, side=8):
    draw = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, channels, side, side), generator=draw, dtype=torch.uint8)


def unit(**form):
    return images(**form) / 127.5 - 1


def tensors(*values):
    return [torch.tensor([value]) for value in values]


def test_amounts_of_nothing_return_the_images_and_draw_nothing():
    x = unit()
    assert augmented(x, TrainConfig(), None) is x


@given(shares, shares)
def test_a_window_of_the_whole_image_and_factors_of_one_change_nothing(top, left):
    x = unit(count=1)
    assert (crop(x, 0.3, *tensors(1.0, top, left)) - x).abs().max() < 16 * EPS  # rounded places
    assert (jitter(x, 0.7, *tensors(0.5, 0.5, 0.5)) - x).abs().max() < 4 * EPS


@given(st.floats(0.1, 1), shares, shares, shares)
def test_a_window_of_a_linear_image_is_linear_with_the_slope_of_its_side(least, side, top, left):
    height, width = 6, 9
    rows, columns = torch.arange(height).double()[:, None], torch.arange(width).double()
    x = ((3 * rows - 2 * columns) / 40).float()[None, None]
    found = crop(x, least, *tensors(side, top, left))[0, 0]
    s = least + (1 - least) * side

    def places(count, at):  # the middles of pixels; beyond the outermost ones the image ends as they do
        middles = (1 - s) * at + s * (torch.arange(count).double() + 0.5) / count
        return (middles * count - 0.5).clamp(0, count - 1)

    expected = (3 * places(height, top)[:, None] - 2 * places(width, left)) / 40
    assert (found.double() - expected).abs().max() < 64 * EPS  # of places up to 9, times 3/40


def test_exact_factors_on_one_colour_and_on_two_pixels():
    colour = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)
    light = 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6

    def changed(u, *numbers):
        return (jitter(2 * u - 1, 0.5, *tensors(*numbers)) + 1) / 2

    flat = colour.expand(1, 3, 4, 4)
    assert torch.allclose(changed(flat, 1.0, 0.5, 0.5), 1.5 * flat)
    for numbers in ((0.5, 0.0, 0.5), (0.5, 0.5, 0.0)):  # of one colour, contrast and saturation are the same
        assert torch.allclose(changed(flat, *numbers), 0.5 * (flat - light) + light)
    grey = torch.tensor([0.3, 0.5]).view(1, 1, 1, 2)
    assert torch.allclose(changed(grey, 0.5, 1.0, 0.5), torch.tensor([0.25, 0.55]))
    assert torch.allclose(changed(grey, 0.5, 0.5, 1.0), grey)
    assert torch.allclose(changed(grey, 1.0, 0.5, 0.0), 1.5 * grey)
    assert changed(torch.ones(1, 1, 2, 2), 1.0, 1.0, 1.0).max() == 1  # clipped


@given(seeds, st.sampled_from([1, 3]), st.floats(0, 1), st.floats(0.1, 1))
def test_images_stay_in_their_range_and_do_not_see_each_other(seed, channels, most, least):
    x, amounts = unit(count=5, channels=channels), replace(CONFIG, jitter=most, crop=least)

    def of(first, stop):
        count = stop - first
        numbers = partial(addressed.uniform, count, seed=seed, first=first)
        return augmented(x[first:stop], amounts, lambda stream: numbers(stream=stream))

    whole = of(0, 5)
    assert whole.abs().max() <= 1
    assert torch.equal(torch.cat([of(0, 2), of(2, 3), of(3, 5)]), whole)


def test_sides_are_uniform_windows_lie_anywhere_and_about_half_are_mirrored():
    count, least = 4000, 0.4
    columns = (torch.arange(32.0) / 31 * 2 - 1).expand(count, 1, 32, 32)

    def numbers(stream):
        return addressed.uniform(count, seed=0, stream=stream)

    found = crop(columns, least, *map(numbers, (CROP_SIDE, CROP_TOP, CROP_LEFT)))[:, 0, 0]
    inner = found[:, 8:24]  # which no window brings beyond the outermost middles
    slope = columns[0, 0, 0, 1] - columns[0, 0, 0, 0]
    side = (inner[:, -1] - inner[:, 0]) / (15 * slope)
    middle = (inner[:, 0] + inner[:, -1]) / 2 * 31 / 32  # in −1 … 1
    for values in ((side - least) / (1 - least), (middle / (1 - side) + 1) / 2):
        ordered = values.double().sort().values
        expected = (torch.arange(count).double() + 0.5) / count
        assert (ordered - expected).abs().max() < 1.63 / count**0.5  # Kolmogorov and Smirnov, 1 %
    mirrored = flip(columns, numbers(0))[:, 0, 0, 0] > 0
    assert abs(mirrored.double().mean() - 0.5) < 4 * 0.5 / count**0.5


def test_fields_are_mirrored_and_cropped_as_images_are_and_keep_their_scale():
    x = torch.randn(40, 2, 4, 6, generator=torch.Generator().manual_seed(0)) * 5
    config = TrainConfig(flip=True, batch_size=40)
    draw = Draw(config, 0, NoiseSchedule.cosine().log_snr)
    found = draw(Batch(x, None), 0, torch.empty(x.shape)).x_0
    is_mirrored = (found == x.flip(-1)).flatten(1).all(1)
    assert ((found == x).flatten(1).all(1) ^ is_mirrored).all()
    assert 0 < is_mirrored.sum() < 40
    data = array_data(x)
    step = next(train(replace(config, crop=0.5, batch_size=4, precision="float32", width=8), data=data))
    assert step.loss > 0


def test_a_batch_is_the_same_in_one_process_and_in_three():
    log_snr = NoiseSchedule.cosine().log_snr
    draw, data = Draw(CONFIG, 0, log_snr), images()

    def of(first, stop):
        part = data[first:stop]
        return draw(Batch(part, None), 24 + first, torch.empty(part.shape)).x_0

    assert torch.equal(torch.cat([of(0, 4), of(4, 8), of(8, 12)]), of(0, 12))


class Scale(nn.Module):
    """The smallest network that has moments to resume."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t):
        return self.factor * x


def test_a_resumed_run_sees_the_same_images(tmp_path):
    data = ImageData(images(40))

    config = replace(CONFIG, steps=6)

    def steps(**more):
        return train(config, data=data, network=Scale(), **more)

    whole = [step.loss for step in steps()]
    for _ in kept(islice(steps(), 3), tmp_path):
        pass
    assert [step.loss for step in steps(resume=tmp_path)] == whole[3:]
    assert next(train(replace(config, crop=1.0), data=data, network=Scale())).loss != whole[0]


@pytest.mark.parametrize(
    ("amounts", "shape", "says"),
    [
        ({"jitter": 0.1}, (4, 8, 8), "jitter is for images (1 or 3, H, W), and the data are (4, 8, 8)"),
        ({"crop": 0.5}, (7,), "crop is for images and fields (C, H, W), and the data are (7,)"),
        ({"flip": True}, (2, 9), "flip is for images and fields"),
    ],
)
def test_what_means_nothing_for_the_data_is_refused(amounts, shape, says):
    config = replace(TrainConfig(), **amounts)
    check_error(lambda: check_augmentations(config, shape), ConfigError, says)
    check_augmentations(config, (3, 8, 8))
    check_augmentations(TrainConfig(), shape)


def test_a_training_refuses_it_before_its_first_step():
    data = ImageData(images(channels=4))
    check_error(
        lambda: next(train(replace(CONFIG, crop=1.0), data=data, network=Scale())), ConfigError, "jitter"
    )


def test_every_augmentation_is_a_setting_that_is_off_by_default():
    assert all(getattr(TrainConfig(), name) == each.nothing for name, each in AUGMENTATIONS.items())

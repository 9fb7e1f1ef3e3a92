"""The U-Net fits the image it is sized from, or says what would."""

import pytest
import torch
from cases import check_error

from alphabar.errors import ConfigError
from alphabar.training.network import unet


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (1, 28, 28), (3, 8, 16)])
def test_the_answer_has_the_shape_of_the_image(shape):
    x = torch.zeros(2, *shape)
    network = unet(shape, channels=(8, 16))
    assert network(x, torch.tensor([0, 999])).sample.shape == x.shape


def test_every_default_size_is_halved_evenly():
    for size in (8, 16, 28, 32, 64, 128, 256):
        levels = len(unet((1, size, size)).config.block_out_channels)
        assert size % 2 ** (levels - 1) == 0


def test_labels_change_the_answer_and_there_is_one_for_no_label():
    network = unet((1, 8, 8), channels=(8,), classes=3)
    x, t = torch.zeros(4, 1, 8, 8), torch.full((4,), 10)
    answers = network(x, t, class_labels=torch.arange(4)).sample.flatten(1)
    assert torch.cdist(answers, answers).fill_diagonal_(1).min() > 0


@pytest.mark.parametrize(
    ("shape", "channels", "says"),
    [
        ((1, 9, 9), (8, 16), "multiple of 2"),
        ((1, 8, 8), (12,), "multiple of 8"),
        ((1, 8, 8), (0,), "multiple of 8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(shape, channels, says):
    check_error(lambda: unet(shape, channels=channels), ConfigError, str(channels), says)

"""The average is the weighted sum that its recursion says, and lending it out leaves nothing changed."""

import pytest
import torch
from cases import check_error, normals
from torch import nn

from alphabar.errors import ConfigError
from alphabar.training.ema import EMA


def test_the_average_is_its_weighted_sum():
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    ema = EMA([parameter], decay=0.6)
    expected = torch.zeros(3, dtype=torch.float64)
    for n in range(1, 20):
        value = normals(3, seed=n)
        parameter.data.copy_(value)
        ema.update()
        decay = min(0.6, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    with ema.averaged():
        assert torch.allclose(parameter, expected, rtol=1e-14, atol=0)


def test_lending_out_the_average_restores_the_parameters_even_after_an_error():
    parameter = nn.Parameter(torch.ones(2))
    ema = EMA([parameter], decay=0.9)
    parameter.data.fill_(5)
    with pytest.raises(KeyError), ema.averaged():
        assert parameter.tolist() == [1, 1]
        raise KeyError
    assert parameter.tolist() == [5, 5]


@pytest.mark.parametrize("decay", [-0.1, 1, float("nan")])
def test_a_decay_outside_0_to_1_is_refused(decay):
    check_error(lambda: EMA([], decay), ConfigError, repr(decay), "[0, 1)")

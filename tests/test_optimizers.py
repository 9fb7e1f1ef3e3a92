"""Muon: what an update is, which parameters it corrects, that it goes on as it was, what is refused."""

import pytest
import torch
from cases import check_error
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alphabar.errors import ConfigError, UnknownNameError
from alphabar.training import TrainConfig, kept, train
from alphabar.training.optimizers import OPTIMIZERS, begin, chosen, matrices, orthogonal
from alphabar.training.state import newest


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_an_orthogonal_update_keeps_the_singular_vectors_and_makes_the_values_one(rows, columns, seed):
    update = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u, values, vh = torch.linalg.svd(update, full_matrices=False)
    inside = u.mT @ orthogonal(update) @ vh.mT
    assert (inside - inside.diag().diag()).abs().max() < 1e-9
    large = values / values.norm() > 0.01
    assert ((inside.diag()[large] > 0.65) & (inside.diag()[large] < 1.25)).all()


@given(st.floats(1e-3, 1e3))
def test_an_orthogonal_update_does_not_depend_on_the_size_of_the_gradient(scale):
    update = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(orthogonal(scale * update), orthogonal(update), rtol=1e-4, atol=1e-4)


def test_one_update_of_a_matrix_is_that_of_torch():
    torch.manual_seed(0)
    ours, torchs = (nn.Linear(24, 32, bias=False) for _ in range(2))
    torchs.load_state_dict(ours.state_dict())
    one = OPTIMIZERS["muon"](ours, 1e-2)
    other = torch.optim.Muon(
        torchs.parameters(), lr=1e-2, weight_decay=0, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(4):
        gradient = torch.randn(32, 24, generator=torch.Generator().manual_seed(step))
        ours.weight.grad, torchs.weight.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
    change = (torchs.weight - ours.weight).norm() / (4 * 1e-2 * 0.2 * 32**0.5)
    assert change < 0.02 * 24**0.5  # bfloat16 rounds to 2⁻⁹, fifteen products one after the other


def test_other_parameters_take_exactly_the_steps_of_adamw():
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 32, 3), nn.GroupNorm(4, 32), nn.Conv2d(32, 3, 1))

    both = network(), network()
    optimizers = [make(each, 1e-2) for make, each in zip(OPTIMIZERS.values(), both, strict=True)]
    assert list(map(id, matrices(both[0]))) == [id(both[0][0].weight)]
    for step in range(3):
        for each, optimizer in zip(both, optimizers, strict=True):
            for number, parameter in enumerate(each.parameters()):
                seeded = torch.Generator().manual_seed(10 * step + number)
                parameter.grad = torch.randn(parameter.shape, generator=seeded)
            optimizer.step()
    for name, parameter in both[0].named_parameters():
        assert torch.equal(parameter, both[1].get_parameter(name)) == (name != "0.weight"), name


def test_a_shared_weight_is_corrected_once_and_all_moments_can_be_made_beforehand():
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    second.weight = first.weight
    network = nn.Sequential(first, second, nn.Embedding(32, 16))
    assert len(matrices(network)) == 1
    optimizer = OPTIMIZERS["muon"](network, 1e-3)
    begin(optimizer)
    assert all(optimizer.state[parameter] for parameter in network.parameters())


@pytest.mark.parametrize("name", ["auto", "adamw"])
def test_a_run_goes_on_with_the_moments_it_had(tmp_path, name):
    config = TrainConfig(optimizer=name, steps=4, batch_size=8, channels=(16, 16))
    *_, straight = train(config)
    list(kept(train(config), tmp_path, stop=iter((False, True)).__next__))
    found = newest(tmp_path)
    assert found is not None and found[1].config.optimizer == {"auto": "muon"}.get(name, name)
    *_, resumed = train(config, resume=tmp_path)
    mine, other = straight.state().tensors, resumed.state().tensors
    assert mine.keys() == other.keys()
    assert any(key.endswith("/momentum") for key in mine) == (name == "auto")
    assert all(torch.equal(tensor, other[key]) for key, tensor in mine.items())


def test_what_is_refused():
    assert chosen("auto", is_sharded=False) == "muon"
    assert chosen("auto", is_sharded=True) == "adamw"
    assert chosen("auto", is_sharded=False, are_vectors=True) == "adamw"
    check_error(lambda: chosen("muon", is_sharded=True), ConfigError, "take adamw")
    check_error(lambda: TrainConfig(optimizer="sgd"), UnknownNameError, "'muon'")

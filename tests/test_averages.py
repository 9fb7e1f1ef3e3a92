"""Averages are the weighted sums that their recursion says, sharded or not; lending one changes nothing."""

import os
import subprocess
import sys

import pytest
import torch
from cases import check_error, normals
from torch import nn

from alphabar.errors import CheckpointError, ConfigError, UnknownNameError
from alphabar.training import Averages, exponential, parse_profile, power

PROFILES = (exponential(0.6), power(0.05), power(0.2))


def tracked(count, profiles=PROFILES, dtype=torch.float64):
    """A network of three numbers after updates with values drawn from seeds 1 … count, and its averages."""
    network = nn.ParameterList([torch.zeros(3, dtype=dtype)])
    averages = Averages(network, profiles)
    for n in range(1, count + 1):
        network[0].data.copy_(normals(3, seed=n))
        averages.update()
    return network, averages


def test_each_average_is_the_weighted_sum_of_its_recursion():
    _, averages = tracked(20)
    expected = torch.zeros(3, dtype=torch.float64)
    for n in range(1, 21):
        decay = min(0.6, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * normals(3, seed=n)
    assert torch.allclose(averages.state()["0.6"]["0"], expected, rtol=1e-13, atol=0)
    assert averages.updates == 20


@pytest.mark.parametrize("sigma_rel", [0.05, 0.2])
def test_a_power_average_weighs_by_the_differences_of_a_power(sigma_rel):
    # γ from the defining equation by bisection: it falls from 1/√12 at γ = 0 to 0.
    low, high = 0.0, 1e3
    for _ in range(200):
        gamma = (low + high) / 2
        too_wide = ((gamma + 1) / (gamma + 3)) ** 0.5 / (gamma + 2) > sigma_rel
        low, high = (gamma, high) if too_wide else (low, gamma)
    k = torch.arange(51, dtype=torch.float64) / 50
    weights = (k ** (gamma + 1)).diff()
    values = torch.stack([normals(3, seed=n) for n in range(1, 51)])
    _, averages = tracked(50)
    found = averages.state()[f"power({sigma_rel})"]["0"]
    assert torch.allclose(found, weights @ values, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sigma_rel", [1e-300, 1e-6, 0.01, 0.05, 0.1, 0.25, 0.2886751])
def test_sigma_rel_is_the_standard_deviation_of_the_weights_over_the_length_of_the_training(sigma_rel):
    rate = power(sigma_rel).rate(torch.tensor([1.0, 2.0, 1e9], dtype=torch.float64))
    assert rate[0] == 1  # the start is forgotten at once
    assert ((rate > 0) & (rate <= 1)).all()
    # r_n → (γ+1)/n, unless γ exceeds n: then the newest parameters are all that counts.
    gamma = float(rate[2]) * 1e9 - 1
    if gamma < 1e3:
        assert ((gamma + 1) / (gamma + 3)) ** 0.5 / (gamma + 2) == pytest.approx(sigma_rel, rel=1e-5)


def test_the_newest_parameters_alone_are_an_average_too():
    network, averages = tracked(7, [exponential(0)])
    assert torch.equal(averages.state()["0.0"]["0"], network[0])


def test_low_precision_is_averaged_in_float32():
    _, averages = tracked(200, [exponential(0.99)], dtype=torch.bfloat16)
    _, exact = tracked(200, [exponential(0.99)])
    found, expected = averages.state()["0.99"]["0"], exact.state()["0.99"]["0"]
    assert found.dtype == torch.float32
    # Rounding the values to 8 bits is random; in bfloat16 the average would stand still at steps of 1 %.
    assert (found - expected).abs().max() < 2**-9


def test_lending_out_an_average_restores_the_parameters_even_after_an_error():
    network, averages = tracked(5)
    last = network[0].clone()
    with averages.averaged():
        assert torch.equal(network[0], averages.state()["0.6"]["0"])
    with pytest.raises(KeyError), averages.averaged("power(0.2)"):
        assert torch.equal(network[0], averages.state()["power(0.2)"]["0"])
        raise KeyError
    assert torch.equal(network[0], last)


def test_loaded_averages_go_on_as_if_they_had_not_stopped():
    network, averages = tracked(9)
    state = {name: {key: x.clone() for key, x in mean.items()} for name, mean in averages.state().items()}
    other = Averages(network, PROFILES[::-1])
    other.load(state, averages.updates)
    network[0].data.copy_(normals(3, seed=10))
    averages.update()
    other.update()
    for name, mean in averages.state().items():
        assert torch.equal(other.state()[name]["0"], mean["0"])


def test_averages_of_another_network_are_refused():
    _, averages = tracked(2)
    state = averages.state()
    del state["0.6"]
    check_error(lambda: averages.load(state, 2), CheckpointError, "averages", "missing ['0.6']", "unknown []")
    state = averages.state()
    state["0.6"]["weight"] = state["0.6"].pop("0")
    check_error(lambda: averages.load(state, 2), CheckpointError, "missing ['0']", "unknown ['weight']")
    state = averages.state() | {"0.6": {"0": torch.zeros(4)}}
    check_error(lambda: averages.load(state, 2), CheckpointError, "shape (4,)", "(3,)", "0.6")


@pytest.mark.parametrize("decay", [-0.1, 1, float("nan")])
def test_a_decay_outside_0_to_1_is_refused(decay):
    check_error(lambda: exponential(decay), ConfigError, repr(decay), "[0, 1)")


@pytest.mark.parametrize("sigma_rel", [0, -0.1, 12**-0.5, float("nan")])
def test_a_width_outside_0_to_that_of_the_plain_mean_is_refused(sigma_rel):
    check_error(lambda: power(sigma_rel), ConfigError, repr(sigma_rel), "0.2887")


def test_a_profile_is_parsed_from_its_name():
    for profile in PROFILES:
        assert parse_profile(profile.name) == profile
    assert parse_profile("power(5e-2)") == power(0.05) != power(0.06)


@pytest.mark.parametrize("text", ["", "power", "power()", "power(0.05", "ema(0.9)", "0.9)", None, 0.9j])
def test_a_text_that_is_no_profile_is_answered_with_an_example(text):
    check_error(lambda: parse_profile(text), ConfigError, repr(text), "0.995", "power(0.05)")


def test_at_least_one_profile_is_given_and_each_once():
    check_error(lambda: Averages(nn.Linear(1, 1), []), ConfigError, "at least one")
    check_error(
        lambda: Averages(nn.Linear(1, 1), [power(0.1), power(0.10)]), ConfigError, "power(0.1)", "once"
    )
    _, averages = tracked(1)
    with pytest.raises(UnknownNameError, match=r"'power\(0.05\)'"), averages.averaged("power(0.06)"):
        pass


SHARDED = """
import sys
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from alphabar.training import Averages, exponential, list_snapshots, power, reconstruct, write_snapshot

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 3)).double()  # 5 and 3 do not divide by 2

def run(model):
    averages = Averages(model, [exponential(0.9), power(0.1)])
    optimizer, x = torch.optim.SGD(model.parameters(), lr=0.1), torch.ones(2, 3, dtype=torch.float64)
    outputs = []
    for _ in range(4):
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        averages.update()
        with torch.no_grad():
            outputs.append(model(x))
            with averages.averaged("power(0.1)"):
                outputs.append(model(x))
            outputs.append(model(x))
    return averages, torch.stack(outputs)

distributed.init_process_group("gloo")
model = network()
fully_shard(model[0])
fully_shard(model)
averages, outputs = run(model)
alone, expected = run(network())
torch.testing.assert_close(outputs, expected, rtol=1e-13, atol=0)
assert not torch.equal(outputs[-1], outputs[-2])
for name, mean in averages.state().items():
    for key, value in mean.items():
        assert isinstance(value, DTensor)
        assert value.to_local().numel() < value.numel()
        torch.testing.assert_close(value.full_tensor(), alone.state()[name][key], rtol=1e-13, atol=1e-16)
other = Averages(model, averages.profiles)
other.load(averages.state(), 4)
assert torch.equal(other.state()["0.9"]["0.bias"].to_local(), averages.state()["0.9"]["0.bias"].to_local())
write_snapshot(sys.argv[1], averages.state(), 4)
distributed.barrier()
found, _ = reconstruct(list_snapshots(sys.argv[1]), power(0.1))
for key, value in averages.state()["power(0.1)"].items():
    assert torch.equal(found[key], value.full_tensor())
print("SAME")
"""


@pytest.mark.long
def test_sharded_over_two_processes_the_averages_are_those_of_one(tmp_path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command = [sys.executable, *launch, sys.executable, "-c", SHARDED, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.count("SAME") == 2, done.stderr

"""What was not averaged during the training is found again afterwards, as nearly as its error says."""

import subprocess
import sys

import pytest
import torch
from cases import check_error, normals
from safetensors.torch import save_file
from torch import nn

from alphabar.errors import CheckpointError, ConfigError
from alphabar.training import Averages, exponential, power
from alphabar.training.posthoc import list_snapshots, post_hoc_weights, reconstruct, write_snapshot

STORED = (power(0.05), power(0.1))
OTHERS = (power(0.02), power(0.15), power(0.25), exponential(0.9))


def trained(folder, values, every, profiles=(*STORED, *OTHERS), dtype=torch.float64):
    """The averages of parameters that take the values (updates + 1, …) in turn, and snapshots of STORED."""
    network = nn.ParameterList([values[0].to(dtype)])
    averages = Averages(network, profiles)
    for n in range(1, len(values)):
        network[0].data.copy_(values[n])
        averages.update()
        if n % every == 0:
            state = averages.state()
            write_snapshot(folder, {profile.name: state[profile.name] for profile in STORED}, n)
    return {name: mean["0"] for name, mean in averages.state().items()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of 96 updates: as the parameters are the unit vectors in turn, an average is the row of its weights."""
    folder = tmp_path_factory.mktemp("averages")
    return trained(folder, torch.eye(97, dtype=torch.float64), every=12), list_snapshots(folder)


@pytest.mark.parametrize("wanted", OTHERS, ids=lambda profile: profile.name)
def test_the_weights_are_the_nearest_there_are_and_as_near_as_the_error_says(weights, wanted):
    tracked, snapshots = weights
    found, error = reconstruct(snapshots, wanted)
    target = tracked[wanted.name]
    assert float((found["0"] - target).norm() / target.norm()) == pytest.approx(error, rel=1e-9)
    assert found["0"].sum() == pytest.approx(1, abs=1e-13)
    # Least squares on all 97 weights, with the last coefficient as 1 less the others.
    rows = torch.stack([reconstruct(snapshots, s.profile, s.updates)[0]["0"] for s in snapshots])
    distances, rest = rows[:-1] - rows[-1], target - rows[-1]
    best = torch.linalg.lstsq(distances.T, rest[:, None]).solution[:, 0]
    assert torch.allclose(found["0"], rows[-1] + best @ distances, rtol=0, atol=1e-12)


def test_an_average_that_was_stored_is_found_again_bit_for_bit(weights):
    tracked, snapshots = weights
    for profile in STORED:
        found, error = reconstruct(snapshots, profile)
        assert error == 0
        assert torch.equal(found["0"], tracked[profile.name])
        x, error = post_hoc_weights([(s.profile, s.updates) for s in snapshots], profile, 48)
        assert error == 0
        chosen = [(s.profile, s.updates) == (profile, 48) for s in snapshots]
        assert x.tolist() == [float(one) for one in chosen]


def test_later_snapshots_are_left_out(weights):
    _, snapshots = weights
    found, _ = reconstruct(snapshots, power(0.15), 48)
    assert not found["0"][49:].any()
    alone, _ = reconstruct([s for s in snapshots if s.updates <= 48], power(0.15))
    assert torch.allclose(found["0"], alone["0"], rtol=0, atol=1e-14)


def test_the_error_falls_with_the_square_of_the_distance_between_snapshots():
    errors = []
    for count in (16, 32, 64):
        stored = [(profile, 4096 * i // count) for i in range(1, count + 1) for profile in STORED]
        errors.append(post_hoc_weights(stored, power(0.15), 4096)[1])
    assert 3.5 < errors[0] / errors[1] < 4.5
    assert 3.5 < errors[1] / errors[2] < 4.5
    assert errors[2] < 1e-3


def test_with_a_snapshot_after_each_update_nothing_is_lost_though_the_equations_are_singular():
    stored = [(profile, n) for n in range(1, 65) for profile in STORED]
    for wanted in (power(0.02), power(0.25)):
        x, error = post_hoc_weights(stored, wanted, 64)
        assert error < 1e-13
        assert x.abs().sum() < 10


def test_many_updates_agree_with_the_continuous_profiles_of_the_paper():
    # Karras et al. 2023, appendix C: ∫ of the product of two power functions that end at a and b.
    def product(gamma_a, a, gamma_b, b):
        ratio = (a / b) ** (gamma_b if a < b else -gamma_a)
        return (gamma_a + 1) * (gamma_b + 1) * ratio / ((gamma_a + gamma_b + 1) * max(a, b))

    def gamma(profile, n=1e9):
        return n * float(profile.rate(torch.tensor(n, dtype=torch.float64))) - 1

    updates, wanted = 20_000, power(0.15)
    stored = [(profile, updates * i // 8) for i in range(1, 9) for profile in STORED]
    terms = [(gamma(profile), step) for profile, step in stored]
    gram = torch.tensor([[product(*a, *b) for b in terms] for a in terms], dtype=torch.float64)
    right = torch.tensor([product(*a, gamma(wanted), updates) for a in terms], dtype=torch.float64)
    ones = torch.ones_like(right)
    free, shift = torch.linalg.solve(gram, right), torch.linalg.solve(gram, ones)
    expected = free + shift * (1 - free.sum()) / shift.sum()  # the nearest whose sum is 1
    x, error = post_hoc_weights(stored, wanted, updates)
    # A discrete profile is a continuous one that is constant within an update: 1/updates of its length.
    assert torch.allclose(x, expected, rtol=0, atol=1e-3)
    square = product(gamma(wanted), updates, gamma(wanted), updates)
    expected_error = (1 - (2 * right @ expected - expected @ gram @ expected) / square) ** 0.5
    assert error == pytest.approx(float(expected_error), rel=1e-3)


def test_float32_weights_of_a_noisy_training_are_found_again(tmp_path):
    # Gradient descent on (θ − 1)²/2 with noise, from far away.
    noise, values = normals(400, 50, seed=3), [torch.full((50,), 5.0, dtype=torch.float64)]
    for n in range(400):
        values.append(values[-1] - 0.05 * (values[-1] - 1 + noise[n]))
    path = torch.stack(values)
    tracked = trained(tmp_path, path, every=20, dtype=torch.float32)
    for wanted in (power(0.15), power(0.25)):
        found, error = reconstruct(list_snapshots(tmp_path), wanted)
        assert found["0"].dtype == torch.float32
        off = (found["0"] - tracked[wanted.name]).abs()
        # ‖w‖² ≤ max w = r_400; the weights of both add up to 1, so that only distances from a point count.
        norm = float(wanted.rate(torch.tensor(400.0, dtype=torch.float64))) ** 0.5
        rounding = 400 * 2**-24 * path.abs().amax(dim=0)  # of each update
        assert (off <= error * norm * (path - path[-1]).norm(dim=0) + rounding).all()


# --- files ---


def test_snapshots_are_listed_in_the_order_of_their_updates(weights):
    _, snapshots = weights
    assert [(s.updates, s.profile) for s in snapshots] == [
        (12 * i, profile) for i in range(1, 9) for profile in sorted(STORED, key=lambda p: p.name)
    ]
    assert snapshots[0].path.relative_to(snapshots[0].path.parents[1]).as_posix() == (
        "step-00000012/power(0.05).safetensors"
    )


def write(folder, updates, profile="power(0.1)", **tensors):
    write_snapshot(folder, {profile: tensors}, updates)
    return folder / f"step-{updates:08}" / f"{profile}.safetensors"


def test_a_snapshot_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = write(tmp_path, 3, a=torch.ones(2))
    before = path.read_bytes()
    program = (
        "import sys, resource, torch\n"
        "from alphabar.training.posthoc import write_snapshot\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "write_snapshot(sys.argv[1], {'power(0.1)': {'a': torch.zeros(100_000)}}, 3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "CheckpointError" in done.stderr
    assert "cannot be written" in done.stderr
    assert [*tmp_path.rglob("*")] == [path.parent, path]
    assert path.read_bytes() == before


def test_a_file_that_is_no_snapshot_is_named(tmp_path):
    check_error(lambda: list_snapshots(tmp_path / "none"), CheckpointError, "none holds no snapshots")
    path = write(tmp_path, 3, a=torch.ones(2))
    path.write_bytes(path.read_bytes()[:-1])
    check_error(lambda: list_snapshots(tmp_path), CheckpointError, str(path), "cannot be read")
    for header, says in [(None, "profile"), ({"profile": "power(2)", "updates": "3"}, "2.0")]:
        save_file({"a": torch.ones(2)}, path, header)
        check_error(lambda: list_snapshots(tmp_path), CheckpointError, str(path), says)


def test_snapshots_that_make_no_average_are_refused(tmp_path):
    write(tmp_path, 3, a=torch.ones(2))
    write(tmp_path, 6, a=torch.ones(2))
    snapshots = list_snapshots(tmp_path)
    check_error(lambda: reconstruct(snapshots, power(0.15), 4), ConfigError, "update 4", "the nearest, 3")
    check_error(lambda: reconstruct([], power(0.15)), ConfigError, "the nearest, none")
    check_error(lambda: reconstruct(snapshots, power(0.15), 0), ConfigError, "updates is 0")
    check_error(lambda: post_hoc_weights([(power(0.1), 0)], power(0.15), 3), ConfigError, "updates is 0")
    write(tmp_path, 6, a=torch.full((2,), torch.nan))
    check_error(lambda: reconstruct(snapshots, power(0.15)), CheckpointError, "a is NaN")
    for tensors in ({"a": torch.ones(3)}, {"b": torch.ones(2)}):
        write(tmp_path, 6, **tensors)
        check_error(lambda: reconstruct(snapshots, power(0.15)), CheckpointError, "different networks")


def test_one_snapshot_alone_is_what_there_is(tmp_path):
    write(tmp_path, 3, a=torch.ones(2))
    found, error = reconstruct(list_snapshots(tmp_path), power(0.15))
    assert torch.equal(found["a"], torch.ones(2))
    assert error > 0

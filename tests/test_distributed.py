"""One process or several, sharded or not: the same images, noise and timesteps, and the same run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alphabar.training import load
from alphabar.training.state import newest

pytestmark = pytest.mark.long

SCRIPT = Path(__file__).with_name("distributed.py")
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}


TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


def launch(run, steps, *options, processes=1, succeeds=True, restarts="0", **environment):
    """Run ``distributed.py`` in processes that find each other as torchrun arranges it."""
    counts = ("--nproc-per-node", str(processes), "--max-restarts", restarts)
    many = [*TORCHRUN, "--standalone", *counts]
    done = subprocess.run(
        [*(many if processes > 1 else [sys.executable]), str(SCRIPT), str(run), str(steps), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "Error" in line or "exitcode" in line]
    assert (done.returncode == 0) == succeeds, said


def seen(run):
    """Return the losses by step, and the digests of what was drawn by the number of the image."""
    losses, images = {}, {}
    for path in sorted(run.glob("seen-*.json")):
        found = json.loads(path.read_text())
        losses |= {int(step): loss for step, loss in found["losses"].items()}
        images |= {int(number): digest for number, digest in found["images"].items()}
    return losses, images


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    run = tmp_path_factory.mktemp("alone")
    launch(run, 50)
    return run


def check_like(run, alone, until=50):
    (losses, images), (expected, expected_images) = seen(run), seen(alone)
    expected = {step: loss for step, loss in expected.items() if step <= until}
    expected_images = {k: digest for k, digest in expected_images.items() if k < until * 16}
    assert images == expected_images  # labels, mirrored images, noise and t, bit for bit
    assert losses == pytest.approx(expected, rel=1e-5)  # float32 sums in another order


def test_a_run_on_two_processes_then_one_then_two_is_that_of_one(alone, tmp_path):
    launch(tmp_path, 50, "--until", "20", processes=2)
    launch(tmp_path, 50, "--until", "30")
    launch(tmp_path, 50, processes=2)
    check_like(tmp_path, alone)


def test_after_a_killed_worker_the_run_ends_as_if_undisturbed_by_torchrun_or_the_next_launch(tmp_path):
    launch(tmp_path / "undisturbed", 8, "--every", "2", processes=2)
    every = ("--every", "2", "--die-once")
    launch(tmp_path / "restarted", 8, *every, str(tmp_path / "died"), processes=2, restarts="2")
    launch(tmp_path / "again", 8, *every, str(tmp_path / "died too"), processes=2, succeeds=False)
    launch(tmp_path / "again", 8, *every, str(tmp_path / "died too"), processes=2)
    assert (tmp_path / "died").exists()
    whole = load_file(newest(tmp_path / "undisturbed")[0] / "state.safetensors")
    for run in ("restarted", "again"):
        found = load_file(newest(tmp_path / run)[0] / "state.safetensors")
        assert whole.keys() == found.keys()
        assert all(torch.equal(whole[name], found[name]) for name in whole)


def test_a_sharded_run_trains_saves_resumes_and_goes_on_in_one_process(alone, tmp_path):
    options = ("--every", "2", "--until")
    launch(tmp_path, 50, *options, "4", processes=2, **FSDP)
    place, state = newest(tmp_path)
    assert state.step == 4
    assert len(list(place.glob("*.safetensors"))) == 2  # each process its shards
    assert load(tmp_path).shape == (1, 8, 8)  # and beside them the averages, whole
    launch(tmp_path, 50, *options, "8", processes=2, **FSDP)
    launch(tmp_path, 50, *options, "12")
    check_like(tmp_path, alone, until=12)

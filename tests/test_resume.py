"""A run that is resumed is the run that was never stopped, bit for bit; what is damaged is passed over."""

import itertools
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import warnings
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import safetensors.torch
import torch
from cases import check_error
from safetensors.torch import load_file, save_file
from torch import nn

from alphabar.denoise.files import digest
from alphabar.denoise.folders import locked
from alphabar.errors import CheckpointError, ConfigError
from alphabar.training import (
    TrainConfig,
    kept,
    list_snapshots,
    load,
    logged,
    parse_profile,
    read_log,
    reconstruct,
    train,
)
from alphabar.training.data import ImageData
from alphabar.training.state import CheckpointWarning, complete, newest

CONFIG = TrainConfig(
    channels=(8, 16),
    steps=8,
    batch_size=12,
    warmup=1,
    precision="float32",
    class_conditional=True,
    flip=True,
    averages=("power(0.1)",),
)


def tensors(step):
    return {name: tensor.clone() for name, tensor in step.state().tensors.items()}


def run(folder, config=CONFIG, *, until=None, resume=False, every=2, **kwargs):
    """Train in a folder, with a checkpoint every few steps; return the losses, and the tensors at the end."""
    steps = kept(train(config, resume=folder if resume else None, **kwargs), folder, every=every)
    losses = []
    for last in islice(steps, until):
        losses.append(last.loss)
    return losses, tensors(last)


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)


@pytest.fixture(scope="module")
def undisturbed():
    steps = list(train(CONFIG))
    return [step.loss for step in steps], tensors(steps[-1])


class Dropping(nn.Module):
    """A network that draws by itself, and has a buffer."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.full((8, 8), 0.5))
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x, t, class_labels=None):
        return self.norm(nn.functional.dropout(self.factor * x, 0.3, self.training))


@pytest.mark.parametrize("stop", [2, 5, 7])
def test_a_resumed_run_is_the_one_that_was_never_stopped(stop, undisturbed, tmp_path):
    losses, expected = undisturbed
    first, _ = run(tmp_path, until=stop)
    second, found = run(tmp_path, resume=True)
    begin = stop // 2 * 2
    assert first == losses[:stop]
    assert second == losses[begin:]
    assert same(found, expected)


def test_what_a_network_draws_by_itself_and_its_buffers_are_resumed_too(tmp_path):
    torch.manual_seed(1)
    network = Dropping()
    fresh = [nn.Module.load_state_dict(made := Dropping(), network.state_dict()) and made for _ in range(2)]
    losses, expected = run(tmp_path / "a", network=network)
    torch.randn(3)
    run(tmp_path / "b", until=4, network=fresh[0])
    second, found = run(tmp_path / "b", resume=True, network=fresh[1])
    assert second == losses[4:]
    assert same(found, expected)


def test_the_folder_is_the_averaged_network_at_all_times(tmp_path):
    seen = []
    for step in kept(train(CONFIG), tmp_path, every=3):
        if complete(tmp_path) and step.step % 3 == 2:  # written, by then, after the second step of three
            seen.append(load(tmp_path))
    assert len(seen) >= 1
    last = step.snapshot().network.state_dict()
    assert same(load(tmp_path).network.state_dict(), last)
    assert same(load_file(tmp_path / "unet/diffusion_pytorch_model.safetensors"), last)


def test_parts_of_a_batch_one_after_the_other_train_as_the_whole_does():
    whole = [step.loss for step in train(CONFIG)]
    parts = [step.loss for step in train(replace(CONFIG, accumulate=3))]
    assert parts == pytest.approx(whole, rel=1e-5)  # only the order of float32 sums differs
    check_error(lambda: next(train(replace(CONFIG, accumulate=5))), ConfigError, "batch_size 12", "5 parts")


def test_a_setting_that_may_not_change_is_refused_and_one_that_may_is_taken(tmp_path):
    run(tmp_path, until=4)
    for change in ({"seed": 1}, {"batch_size": 6}, {"schedule": "linear"}, {"channels": (8,)}):
        (name,) = change
        check_error(
            lambda c=change: run(tmp_path, replace(CONFIG, **c), resume=True), ConfigError, name, "begun with"
        )
    other = ImageData(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64), ("a",))
    check_error(lambda: run(tmp_path, resume=True, data=other), ConfigError, "the data have images 5", "1797")
    longer = replace(CONFIG, steps=10, learning_rate=1e-3, precision="auto")
    losses, _ = run(tmp_path, longer, resume=True)
    assert len(losses) == 6
    assert newest(tmp_path)[1].config == replace(longer, network="unet", optimizer="muon")


def test_only_as_many_checkpoints_stay_as_are_asked_for(tmp_path):
    for _ in kept(train(CONFIG), tmp_path, every=1, keep=3):
        pass
    assert [place.name for place in complete(tmp_path)] == [f"step-{k:08}" for k in (6, 7, 8)]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir())[0] == ".lock"
    assert not list((tmp_path / "checkpoints").glob(".step*"))


def test_a_run_can_be_asked_to_stop_and_writes_before_it_does(tmp_path, undisturbed):
    losses, expected = undisturbed
    asked = iter([False, False, True])
    first = [step.loss for step in kept(train(CONFIG), tmp_path, stop=lambda: next(asked))]
    assert first == losses[:3]
    assert newest(tmp_path)[1].step == 3
    second, found = run(tmp_path, resume=True)
    assert second == losses[3:]
    assert same(found, expected)


def test_two_that_write_one_run_are_refused(tmp_path):
    pid = os.fork()
    if not pid:  # the other process: it holds the run until it is killed
        with locked(tmp_path / "checkpoints/.lock"):
            (tmp_path / "held").touch()
            os.read(os.pipe()[0], 1)
        os._exit(0)
    try:
        while not (tmp_path / "held").exists():
            pass
        check_error(lambda: run(tmp_path), CheckpointError, "in use by another process")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    run(tmp_path, until=1)


def test_snapshots_of_the_averages_make_others_later(tmp_path):
    *_, last = kept(train(CONFIG), tmp_path, snapshots=2)
    snapshots = list_snapshots(tmp_path / "averages")
    assert [each.updates for each in snapshots] == [2, 2, 4, 4, 6, 6, 8, 8]  # of two averages
    stored = last.state().averages["power(0.1)"]
    found, error = reconstruct(snapshots, parse_profile("power(0.1)"), 8)
    assert error == 0
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name].to(tensor.dtype), tensor) for name, tensor in stored.items())


# --- faults ---


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    run(folder, replace(CONFIG, steps=4))
    return folder


@pytest.fixture
def damaged(two_checkpoints, tmp_path):
    shutil.copytree(two_checkpoints, tmp_path / "run")
    return tmp_path / "run"


def taken(folder):
    """Return the step that a run is resumed from, and what was said of the others."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", CheckpointWarning)
        found = newest(folder)
    return (found and found[1].step), [str(each.message) for each in said]


def flip_a_bit(path, draw):
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_in_any_file_is_found_and_the_checkpoint_before_is_taken(seed, damaged):
    draw = random.Random(seed)
    for path in sorted((damaged / "checkpoints/step-00000004").iterdir()):
        before = path.read_bytes()
        flip_a_bit(path, draw)
        step, said = taken(damaged)
        manifest_means_the_same = path.suffix == ".json" and step == 4 and not said
        assert step == 2 or manifest_means_the_same, path  # a bit of a number that nothing depends on
        assert step == 4 or ("step-00000004" in said[0] and "before is taken" in said[0])
        path.write_bytes(before)
    assert taken(damaged) == (4, [])


def test_half_a_checkpoint_is_passed_over(damaged):
    place = damaged / "checkpoints/step-00000004"
    whole = (place / "state.safetensors").read_bytes()
    (place / "state.safetensors").write_bytes(whole[: len(whole) // 2])
    assert taken(damaged)[0] == 2
    (place / "state.safetensors").unlink()
    assert taken(damaged)[0] == 2
    (place / "checkpoint.json").unlink()
    assert taken(damaged)[0] == 2
    (damaged / "checkpoints/.step-00000006-new").mkdir()
    shutil.rmtree(damaged / "checkpoints/step-00000002")
    assert taken(damaged)[0] is None
    check_error(lambda: run(damaged, resume=True), CheckpointError, "no checkpoint to go on from")


def rewrite(place, content):
    """Replace the tensors of a checkpoint, and have its manifest list what is there now."""
    path = place / "state.safetensors"
    path.write_bytes(content)
    about = json.loads((place / "checkpoint.json").read_text())
    about["files"]["state.safetensors"] = {"size": len(content), "sha256": digest(path)}
    (place / "checkpoint.json").write_text(json.dumps(about))


class Bomb:
    def __reduce__(self):
        return os.system, ("touch executed",)


def hostile_contents(tmp_path):
    import pickle

    header = json.dumps({"network/x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}})
    other = tmp_path / "other.safetensors"
    save_file({"network/x": torch.zeros(3)}, other)
    torch.save({"network/x": Bomb()}, tmp_path / "torch")
    return {
        "a pickle": pickle.dumps(Bomb()),
        "a file of torch.save": (tmp_path / "torch").read_bytes(),
        "a tensor of 10^12 numbers": struct.pack("<Q", len(header)) + header.encode(),
        "a header without end": struct.pack("<Q", 2**62) + b"{",
        "another network": other.read_bytes(),
        "nothing": b"",
    }


def test_hostile_tensors_end_in_a_named_error_and_nothing_is_executed(damaged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for what, content in hostile_contents(tmp_path).items():
        rewrite(damaged / "checkpoints/step-00000004", content)
        check_error(lambda: run(damaged, resume=True), CheckpointError, "step-00000004")
        assert not (tmp_path / "executed").exists(), what


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../outside": {"size": 1, "sha256": ""}}},
        {"files": {"/etc/passwd": {"size": 1, "sha256": ""}}},
        {"files": {}},
        {"files": [1]},
        {"step": "many"},
        {"config": {"seed": "x"}},
        {"config": {"no_such": 1}},
        {"config": 7},
        {"data": None},
    ],
)
def test_a_manifest_of_another_form_is_passed_over(change, damaged):
    path = damaged / "checkpoints/step-00000004/checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    step, said = taken(damaged)
    assert step == 2
    assert "step-00000004" in said[0]


def test_a_full_disk_is_a_warning_and_training_goes_on(tmp_path, monkeypatch, undisturbed):
    """The disk is full at the second checkpoint of four."""
    writes, save = [], safetensors.torch.save_file

    def full_once(contents, path, **rest):
        if "state" in str(path) and writes.append(path) is None and len(writes) == 2:
            raise OSError(28, "No space left on device")
        return save(contents, path, **rest)

    monkeypatch.setattr(safetensors.torch, "save_file", full_once)
    with pytest.warns(CheckpointWarning, match=r"step-00000004 could not be written: No space.*goes on"):
        losses, found = run(tmp_path)
    assert losses == undisturbed[0]
    assert same(found, undisturbed[1])
    assert [place.name for place in complete(tmp_path)] == ["step-00000006", "step-00000008"]
    assert not list((tmp_path / "checkpoints").glob(".step*"))


def test_a_full_disk_at_the_end_is_an_error_and_the_last_good_checkpoint_stays(tmp_path, monkeypatch):
    save = safetensors.torch.save_file

    def full(contents, path, **rest):
        if "step-00000008" in str(path):
            raise OSError(28, "No space left on device")
        return save(contents, path, **rest)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    check_error(lambda: run(tmp_path), CheckpointError, "step-00000008 could not be written", "No space left")
    assert taken(tmp_path) == (6, [])


def test_a_disk_that_is_really_full_leaves_the_run_as_it_was(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1400k", "tmpfs", place], capture_output=True, check=False
    ).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        steps = kept(train(CONFIG), place / "run", every=1, keep=20)  # more than there is room for
        with pytest.warns(CheckpointWarning, match="No space left on device"):
            check_error(lambda: list(steps), CheckpointError, "No space left on device")
        step, said = taken(place / "run")
        assert step >= 1
        assert not said
        assert load(place / "run").shape == (1, 8, 8)
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_place_that_cannot_be_written_is_said_at_once(tmp_path):
    (tmp_path / "file").touch()
    check_error(lambda: run(tmp_path / "file/run"), CheckpointError, "cannot be written", "Not a directory")


# --- killed ---


def train_until_killed(folder, moment):
    """Go on with a run in a process of its own that kills itself at an event; return whether it finished."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] == 0
    events = itertools.count(1)

    def event(real):
        def counted(*arguments, **options):
            if next(events) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return counted

    try:
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
        for owner, name in KILLED_BEFORE:
            setattr(owner, name, event(getattr(owner, name)))
        step_done = event(lambda step: step)
        begun = folder if newest(folder) else None
        for step in kept(train(KILLED, resume=begun), folder, every=1):
            step_done(step)
        os._exit(0)
    finally:
        os._exit(1)


KILLED = replace(CONFIG, channels=(8,), steps=6, averages=())
KILLED_BEFORE = (
    *((os, name) for name in ("fsync", "open")),
    *((Path, name) for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "write_text")),
    *((shutil, "rmtree"), (safetensors.torch, "save_file")),
)


@pytest.mark.parametrize("moments", [8, pytest.param(25, marks=pytest.mark.long)])
def test_killed_at_many_moments_also_within_writing_a_run_ends_as_if_undisturbed(tmp_path, moments):
    draw, kills, threads = random.Random(moments), 0, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        *_, last = train(KILLED)
        expected, average = tensors(last), last.snapshot().network.state_dict()
        for attempt in itertools.count():
            folder = tmp_path / str(attempt)
            while not train_until_killed(folder, draw.randint(1, 150)):
                kills += 1
                assert not (folder / "model_index.json").exists() or load(folder).shape == (1, 8, 8)
            assert same(load_file(folder / "checkpoints/step-00000006/state.safetensors"), expected)
            assert same(load(folder).network.state_dict(), average)
            assert not list(folder.rglob(".step*")) + list(folder.rglob(".alphabar*"))
            if kills >= moments:
                return
    finally:
        torch.set_num_threads(threads)


# --- the log ---


def test_the_log_has_each_part_of_a_run_once(tmp_path):
    for part in ({}, {"resume": tmp_path}):
        steps = logged(kept(train(CONFIG, **part), tmp_path, every=2), tmp_path, every=1)
        for step in islice(steps, None if part else 5):
            last = step
    found = read_log(tmp_path)
    assert [entry["step"] for entry in found] == list(range(1, 9))
    assert found[-1]["loss"] == last.loss
    assert [entry["images"] for entry in found] == [12 * k for k in range(1, 9)]
    seconds = [entry["seconds"] for entry in found]
    assert seconds == sorted(seconds)
    (tmp_path / "log.jsonl").write_text((tmp_path / "log.jsonl").read_text() + '{"step": 9, "lo')
    assert read_log(tmp_path) == found

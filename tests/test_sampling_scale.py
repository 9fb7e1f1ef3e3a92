"""Samples are those of an undisturbed run bit for bit, whoever drew them and however often it was killed.

What other settings or other people put into the folder is never mixed with them.
"""

import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from alphabar import NoiseSchedule
from alphabar.cli import main, plots
from alphabar.cli._forms import FORMS
from alphabar.denoise.files import held
from alphabar.training import checkpoint
from alphabar.training.checkpoint import Checkpoint

NUM = 20
PICTURED = [form for form in FORMS if form != "npy"]  # which is of arrays
SETTINGS = ["--num", str(NUM), "--batch-size", "3", "--steps", "2", "--seed", "5"]
TRAIN = ["--steps", "2", "--batch-size", "4", "--channels", "8", "--precision", "float32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network of ten classes of 8×8 digits, hardly trained."""
    out = tmp_path_factory.mktemp("run") / "run"
    assert main(["train", "--class-conditional", *TRAIN, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    """The files of each form, with their contents, as one process writes them that nothing stops."""
    root = tmp_path_factory.mktemp("undisturbed")
    for form in PICTURED:
        assert main(["sample", str(run), *SETTINGS, "--form", form, "--out", str(root / form)]) == 0
    return {form: contents(root / form) for form in PICTURED}


def contents(place):
    return {path.name: path.read_bytes() for path in place.iterdir()}


def written_by(monkeypatch, write):
    """Have the file of a sample written by ``write(x, path)``."""
    for name in PICTURED:
        monkeypatch.setitem(FORMS, name, replace(FORMS[name], write=write))


def pictures(place):
    return sorted(path.name for path in place.glob("*.png"))


def arrays(place):
    return [np.asarray(Image.open(place / name)) for name in pictures(place)]


def killed_at(change, place, arguments):
    """Sample in a process that is killed at the n-th change of a file in ``place``; return whether it was."""
    child = os.fork()
    if not child:
        left = change

        def count(event, arguments):
            nonlocal left
            changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") or (
                event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            )
            if changes and str(arguments[0]).startswith(str(place)):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        os._exit(main(["sample", *arguments, "--out", str(place)]))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.parametrize("form", PICTURED)
def test_killed_at_any_moment_it_goes_on_and_the_images_are_those_of_an_undisturbed_run(
    form, run, undisturbed, tmp_path, monkeypatch
):
    place, kills, moments = tmp_path / "samples", 0, random.Random(form)
    while killed_at(moments.randint(1, 40), place, [str(run), *SETTINGS, "--form", form]):
        kills += 1
        for name in pictures(place):
            assert undisturbed["png"][name] == (place / name).read_bytes()  # whole, though there may be few
    assert kills >= 4
    assert contents(place) == undisturbed[form]  # and nothing else is left
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples", "samples.png"]


@pytest.mark.long
def test_processes_share_the_work_and_the_images_are_those_of_one(run, undisturbed, tmp_path):
    place = tmp_path / "samples"
    assert killed_at(30, place, [str(run), *SETTINGS])  # one process begins it, two end it
    before = pictures(place)
    assert 0 < len(before) < NUM
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = ["-m", "--", "alphabar", "sample", str(run), *SETTINGS, "--out", str(place)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *launch, *program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("wrote") == 2  # the grid and the folder, once each
    assert contents(place) == undisturbed["png"]


class Share:
    """Stands for what a process knows of the others, where they run one after another."""

    def __init__(self, process_index, num_processes, is_main_process):
        self.process_index, self.num_processes = process_index, num_processes
        self.is_main_process = is_main_process

    def wait_for_everyone(self):
        pass


def test_each_process_draws_other_blocks_and_together_they_draw_all(run, tmp_path, monkeypatch):
    drawn = []
    written_by(monkeypatch, lambda x, path: drawn[-1].append(int(path.stem)))
    place = tmp_path / "samples"
    for index in (2, 1, 0):
        drawn.append([])
        place.mkdir(exist_ok=True)
        monkeypatch.setattr(
            "alphabar.cli._samples.processes", lambda index=index: Share(index, 3, index == 0)
        )
        assert main(["sample", str(run), *SETTINGS, "--out", str(place)]) == 0
    assert sorted(i for share in drawn for i in share) == list(range(NUM))
    assert [len(share) for share in drawn] == [6, 6, 8]  # seven blocks of three, the last of two


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_batch_and_the_same_command_goes_on(
    signal_number, run, undisturbed, tmp_path, monkeypatch, capsys
):
    def interrupted(x, path):
        image(x, path)
        if path.name == "00003.png":
            signal.raise_signal(signal_number)

    image, handlers = plots.image, [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    written_by(monkeypatch, interrupted)
    place = tmp_path / "samples"
    arguments = ["sample", str(run), *SETTINGS, "--form", "npz", "--out", str(place)]
    assert main(arguments) == 0
    assert capsys.readouterr().out == (f"stopped: 6 of 20 images are in {place}; the same command goes on\n")
    assert pictures(place) == [f"{i:05}.png" for i in range(6)]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"wrote {place}.png\nwrote {place} (20 images, npz)\n"
    assert contents(place) == undisturbed["npz"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{place} holds all 20 images already\n"


def test_a_second_signal_ends_it_at_once(run, tmp_path, monkeypatch, capsys):
    def interrupted(x, path):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    written_by(monkeypatch, interrupted)
    assert main(["sample", str(run), *SETTINGS, "--out", str(tmp_path / "samples")]) == 2
    assert "interrupted" in capsys.readouterr().err
    assert pictures(tmp_path / "samples") == []


# --- the forms ---


def test_every_form_holds_the_same_images_in_order_with_their_classes(undisturbed):
    png, npz, tar = (undisturbed[form] for form in ("png", "npz", "tar"))
    images = [png[f"{i:05}.png"] for i in range(NUM)]
    classes = [i % 10 for i in range(NUM)]
    assert sorted(npz) == ["samples.json", "samples.npz"]
    with np.load(io.BytesIO(npz["samples.npz"])) as found:
        assert found["arr_0"].dtype == np.uint8
        assert found["arr_0"].shape == (NUM, 8, 8, 1)
        for image, x in zip(images, found["arr_0"], strict=True):
            assert (np.asarray(Image.open(io.BytesIO(image))) == x[..., 0]).all()
        assert found["arr_1"].tolist() == classes
    assert sorted(tar) == ["000000.tar", "samples.json"]
    with tarfile.open(fileobj=io.BytesIO(tar["000000.tar"])) as shard:
        entries = {entry.name: shard.extractfile(entry).read() for entry in shard}
    # WebDataset takes neighbours of one name before the first point for one example.
    assert list(entries) == [f"{i:09}.{kind}" for i in range(NUM) for kind in ("png", "cls")]
    assert [entries[f"{i:09}.png"] for i in range(NUM)] == images
    assert [int(entries[f"{i:09}.cls"]) for i in range(NUM)] == classes


def test_shards_hold_a_thousand_each_and_go_on_where_packing_stopped(tmp_path):
    for i in range(2003):
        Image.new("RGB", (2, 1), (i % 256, i // 256, 7)).save(tmp_path / f"{i:05}.png")
    form, seen = FORMS["tar"], []

    def labels(numbers):
        seen.append(numbers)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        form.finish(tmp_path, 2003, labels)
    assert len(pictures(tmp_path)) == 1003
    form.finish(tmp_path, 2003, labels)
    assert seen == [range(1000), range(1000, 2000), range(1000, 2000), range(2000, 2003)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{k:06}.tar" for k in range(3)]
    for k, count in enumerate((1000, 1000, 3)):
        with tarfile.open(tmp_path / f"{k:06}.tar") as shard:
            assert shard.getnames() == [f"{i:09}.png" for i in range(1000 * k, 1000 * k + count)]
    with tarfile.open(tmp_path / "000001.tar") as shard:
        picture = np.asarray(Image.open(io.BytesIO(shard.extractfile("000001234.png").read())))
    assert (picture == [1234 % 256, 1234 // 256, 7]).all()


def test_colours_come_last_and_without_classes_there_is_one_array(tmp_path):
    for i in range(3):
        Image.new("RGB", (5, 4), (i, 100, 200)).save(tmp_path / f"{i:05}.png")
    FORMS["npz"].finish(tmp_path, 3, lambda numbers: None)
    with np.load(tmp_path / "samples.npz") as found:
        assert found.files == ["arr_0"]
        assert found["arr_0"].shape == (3, 4, 5, 3)
        assert (found["arr_0"] == np.array([[i, 100, 200] for i in range(3)])[:, None, None]).all()


# --- the batch ---


class Shrink(nn.Module):
    """A network whose arithmetic is that of each number alone, so that the batch cannot count."""

    def forward(self, x, t, class_labels):
        return x * 0.5 + 0.01 * class_labels[:, None, None, None]


def test_noise_and_classes_of_an_image_follow_from_its_number_whatever_the_batch(tmp_path, monkeypatch):
    made = Checkpoint(Shrink(), NoiseSchedule.cosine(), "sample", (3, 4, 4), ("a", "b", "c"))
    monkeypatch.setattr(checkpoint, "load", lambda run, network=None: made)
    for batch in ("7", "64"):
        arguments = ["--num", "70", "--batch-size", batch, "--steps", "3", "--sampler", "ddpm"]
        assert main(["sample", "any/run", *arguments, "--out", str(tmp_path / batch)]) == 0
    small, large = (contents(tmp_path / batch) for batch in ("7", "64"))
    small.pop("samples.json"), large.pop("samples.json")
    assert small == large
    assert len(small) == len(set(small.values())) == 70


def test_another_batch_changes_no_pixel_by_more_than_the_rounding_of_a_convolution(run, tmp_path, capsys):
    arguments = ["sample", str(run), "--num", "70", "--steps", "2", "--batch-size"]
    for batch in ("7", "64"):
        assert main([*arguments, batch, "--out", str(tmp_path / batch)]) == 0
    small, large = (np.stack(arrays(tmp_path / batch)).astype(int) for batch in ("7", "64"))
    # An error of 1e-5 in [−1, 1] moves a level only where a value is within 6e-4 of the border of two.
    assert abs(small - large).max() <= 1
    assert (small != large).mean() < 2e-3
    assert main([*arguments, "64", "--out", str(tmp_path / "7")]) == 2
    assert "(batch_size was 7, is 64)" in capsys.readouterr().err


# --- what is there already ---


def test_other_settings_are_refused_by_name_and_removed_when_asked(run, undisturbed, tmp_path, capsys):
    place = tmp_path / "samples"
    arguments = ["sample", str(run), *SETTINGS, "--out", str(place)]
    assert main(arguments) == 0
    (place / "mine.png").write_bytes(b"precious")
    before = contents(place)
    other = {
        ("--seed", "6"): "seed was 5, is 6",
        ("--num", "6"): "num was 20, is 6",
        ("--steps", "3"): "steps was 2, is 3",
        ("--form", "npz"): "form was png, is npz",
        ("--label", "3"): "classes was",
        ("--guidance", "2"): "guidance was 1.0, is 2.0",
        ("--sampler", "ddpm"): "sampler was ddim, is ddpm",
    }
    for change, says in other.items():
        assert main([*arguments, *change]) == 2
        printed = capsys.readouterr().err
        assert says in printed
        assert "--replace" in printed
        assert printed.count("\n") == 1
        assert contents(place) == before
    assert main([*arguments, "--num", "4", "--form", "npz", "--replace"]) == 0
    assert sorted(contents(place)) == ["mine.png", "samples.json", "samples.npz"]
    assert main([*arguments, "--replace"]) == 0
    assert contents(place) == {**undisturbed["png"], "mine.png": b"precious"}


def test_samples_of_another_network_are_refused(run, tmp_path, capsys):
    trained = checkpoint.load(run)
    digest = trained.digest()
    assert digest == checkpoint.load(run).digest()
    with torch.no_grad():
        next(trained.network.parameters()).view(-1)[0] += 1e-6
    assert trained.digest() != digest
    arguments = ["--num", "2", "--steps", "2", "--out", str(tmp_path / "samples")]
    assert main(["sample", str(run), *arguments]) == 0
    other = checkpoint.save(tmp_path / "other", trained)
    assert main(["sample", str(other), *arguments]) == 2
    assert "(run was " in capsys.readouterr().err


@pytest.mark.parametrize("record", [None, {}, {"files": {}}, {"num": "20", "form": "png"}])
def test_pictures_of_others_are_refused_whatever_stands_beside_them(record, run, tmp_path, capsys):
    place = tmp_path / "samples"
    place.mkdir()
    (place / "00007.png").write_bytes(b"precious")
    if record is not None:
        (place / "samples.json").write_text(json.dumps(record))
    before = contents(place)
    for more in ([], ["--replace"]):
        assert main(["sample", str(run), *SETTINGS, "--out", str(place), *more]) == 2
        assert "00007.png was not written here before" in capsys.readouterr().err
        assert contents(place) == before


def test_a_folder_that_another_process_writes_to_is_refused(run, tmp_path, capsys):
    with held(tmp_path):
        assert main(["sample", str(run), *SETTINGS, "--out", str(tmp_path)]) == 2
    assert "is being written by another process" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_chain_that_fails_leaves_no_picture_and_the_place_free_for_other_settings(
    run, tmp_path, monkeypatch, capsys
):
    class Broken(Shrink):
        def forward(self, x, t, class_labels):
            return x * float("nan")

    made = Checkpoint(Broken(), NoiseSchedule.cosine(), "sample", (1, 8, 8), ("a",))
    place = tmp_path / "samples"
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "load", lambda run, network=None: made)
        assert main(["sample", "any/run", *SETTINGS, "--out", str(place)]) == 2
    assert "NaN or infinity at step 0" in capsys.readouterr().err
    assert pictures(place) == []
    assert main(["sample", str(run), *SETTINGS, "--out", str(place)]) == 0

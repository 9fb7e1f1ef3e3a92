"""A run that is watched: its log, the notes on what goes wrong, grids of samples, trackers, the report."""

import math
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from accelerate import tracking
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType
from cases import check_error
from torch import nn

from alphabar.cli import plots
from alphabar.cli._main import run as run_command
from alphabar.cli.watching import TRACKERS, Grids, check_tracker, remove_grids, tracked
from alphabar.errors import ConfigError, UnknownNameError
from alphabar.training import TrainConfig, check_place, kept, logged, read_log, train
from alphabar.training.augment import check_augmentations
from alphabar.training.data import ImageData
from alphabar.training.doctor import TrainingWarning, examine, examine_count, examine_images

CONFIG = TrainConfig(channels=(8, 16), steps=6, batch_size=40, warmup=1, precision="float32")


def run(folder, config=CONFIG, *, every=3, **kwargs):
    *_, last = logged(train(config, **kwargs), folder, every=every)
    return last


# --- the log ---


def test_the_loss_by_level_is_that_of_each_image_put_in_its_part_of_t(tmp_path):
    config = replace(CONFIG, timesteps="logit_normal", diffusion_steps=30)
    losses, t = [], []
    for step in logged(train(config), tmp_path, every=3):
        losses += step.losses.tolist()
        t += step.t.tolist()
    entry = read_log(tmp_path)[1]  # of updates 2 and 3
    losses, t = losses[40:120], t[40:120]
    for part in range(10):
        here = [loss for loss, at in zip(losses, t, strict=True) if 3 * part <= at < 3 * part + 3]
        assert entry["levels"]["share"][part] == pytest.approx(len(here) / 80)
        if here:
            assert entry["levels"]["loss"][part] == pytest.approx(sum(here) / len(here), rel=1e-6)
        else:
            assert entry["levels"]["loss"][part] is None
    assert entry["loss"] == pytest.approx(sum(losses) / 80, rel=1e-5)


def test_the_first_line_of_each_part_says_settings_data_and_machine(tmp_path):
    run(tmp_path)
    for _ in kept(train(CONFIG), tmp_path, every=6):
        pass
    *_, _ = logged(train(replace(CONFIG, steps=12), resume=tmp_path), tmp_path, every=3)
    entries = read_log(tmp_path)
    assert [entry["step"] for entry in entries if "run" in entry] == [1, 9]
    about = entries[0]["run"]
    assert about["settings"]["batch_size"] == 40
    assert about["data"]["images"] == 1797
    assert about["machine"]["torch"] == torch.__version__
    assert all(entry["pixels"]["mean"] == pytest.approx(-0.39, abs=0.1) for entry in entries)
    assert all(entry["moved"]["network"] > 0 and entry["moved"]["averages"] > 0 for entry in entries[1:])


@pytest.mark.long
def test_two_processes_log_what_one_does(tmp_path):
    program = (
        "import sys\n"
        "from alphabar.training import TrainConfig, logged, train\n"
        "c = TrainConfig(channels=(8,), steps=3, batch_size=20, precision='float32')\n"
        "for _ in logged(train(c), sys.argv[1], every=3): pass"
    )
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    found = []
    for name, launcher in (("one", []), ("two", [sys.executable, *launch])):
        command = [*launcher, sys.executable, "-c", program, str(tmp_path / name)]
        subprocess.run(command, env=environment, capture_output=True, check=True)
        found.append(read_log(tmp_path / name))
    one, two = found
    assert [entry["step"] for entry in two] == [1, 3]
    for a, b in zip(one, two, strict=True):
        assert b["levels"]["share"] == a["levels"]["share"]
        assert b["levels"]["loss"] == pytest.approx(a["levels"]["loss"], rel=1e-5)
    assert two[0]["run"]["machine"]["processes"] == "2"


# --- notes ---


def line(**changes):
    return {"step": 1, "loss": 0.1, "norm": 1.0, **changes}


def names(entries):
    return [finding.name for finding in examine(entries)]


def test_a_loss_far_above_its_best_for_long_is_named():
    falling = [line(loss=1 / k) for k in range(1, 41)]
    assert names(falling) == []
    assert names([*falling, line(loss=0.3)]) == []  # one line
    assert names([*falling, *[line(loss=0.2)] * 10]) == ["the loss rose"]
    assert names([*falling, *[line(loss=0.05)] * 10]) == []
    assert "--learning-rate" in examine([*falling, *[line(loss=0.2)] * 10])[0].remedy


def test_norms_that_explode_or_vanish_are_named():
    usual = [line(norm=0.5 + k % 3) for k in range(15)]
    assert names([*usual, line(norm=9.0)]) == []
    assert names([*usual, line(norm=90.0)]) == ["the gradient exploded"]
    assert names([line(norm=None)]) == ["the gradient exploded"]
    assert names([line(norm=0.0)]) == ["the network does not learn"]


def test_averages_that_stand_still_are_named_only_where_the_weights_move():
    assert names([line(moved={"network": 0.01, "averages": 0.0})]) == ["the averages stand still"]
    assert names([line(moved={"network": 0.01, "averages": 1e-9})]) == []
    assert names([line(moved={"network": 1e-6, "averages": 0.0})]) == []


def test_samples_whose_mean_leaves_that_of_the_data_are_named():
    def grids(*means, spread=0.1):
        pixels = {"mean": -0.4, "spread": spread}
        return [line(samples={"mean": mean, "count": 16}, pixels=pixels) for mean in means]

    assert names(grids(-0.3, -0.2, 0.1)) == ["the samples drift"]
    assert names(grids(0.1, -0.2, -0.3)) == []  # towards the data
    assert names(grids(-0.35, -0.34, -0.33)) == []  # near
    assert names(grids(-0.3, -0.2, 0.1, spread=0.6)) == []  # data as diverse as this
    assert names([*grids(-0.3, -0.2, 0.1), line(pixels={"mean": -0.4, "spread": 0.1})]) == []  # no new grid


def test_batches_that_cannot_be_meant_are_named():
    def of(images):
        return [finding.name for finding in examine_images(images)]

    draw = torch.Generator().manual_seed(0)
    bytes_ = torch.randint(256, (4, 1, 8, 8), generator=draw, dtype=torch.uint8)
    unit = torch.rand(4, 1, 8, 8, generator=draw) * 2 - 1
    assert of(bytes_) == of(unit) == of(bytes_[:1]) == []
    assert of(unit * 2) == ["images outside [−1, 1]"]
    assert of(unit.masked_fill(unit > 0.9, math.nan)) == ["images outside [−1, 1]"]
    assert of(bytes_[:1].expand(4, -1, -1, -1)) == ["all images are equal"]
    assert of(bytes_ // 128) == ["the images are black"]


class Still(nn.Module):
    """A network whose answer depends on no parameter that matters."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.zeros(3))

    def forward(self, x, t):
        return x + 0 * self.factor.sum()


def test_a_note_is_told_once_and_stands_in_the_log(tmp_path):
    one = ImageData(torch.full((50, 1, 8, 8), 7, dtype=torch.uint8))
    with pytest.warns(TrainingWarning) as said:
        run(tmp_path, data=one, network=Still(), every=1)
    assert len(said) == 3
    assert "step 1: the network does not learn: the norm of its gradient is 0; let" in str(said[0].message)
    notes = [note["name"] for entry in read_log(tmp_path) for note in entry.get("notes", ())]
    assert notes == ["the network does not learn", "all images are equal", "few images"]


def test_few_images_are_named_with_their_number():
    assert examine_count(1000) == examine_count(1797) == []
    (found,) = examine_count(999)
    assert "999" in found.seen
    assert all(remedy in found.remedy for remedy in ("--flip", "--crop", "--jitter", "--steps", "report"))


@pytest.mark.parametrize(
    ("shape", "kind", "helps"),
    [
        ((2, 6, 8), "are_arrays", ["--crop", "--flip"]),
        ((3, 8), "are_arrays", []),
        ((2,), "are_arrays", []),
        ((1, 4, 4, 4), "are_arrays", []),
        ((4, 8, 8), "are_latents", []),
    ],
)
def test_what_helps_where_data_are_few_is_what_training_takes(shape, kind, helps):
    (found,) = examine_count(5, shape, **{kind: True})
    assert found.name == "few rows"
    assert "more data" in found.remedy
    flags = {"--flip": {"flip": True}, "--crop": {"crop": 0.8}, "--jitter": {"jitter": 0.1}}
    assert [flag for flag in sorted(flags) if flag in found.remedy] == helps
    for flag, setting in flags.items():
        config = TrainConfig(**setting)
        if flag in helps:
            check_augmentations(config, shape, **{kind: True})
        else:
            with pytest.raises(ConfigError, match="leave it out"):
                check_augmentations(config, shape, **{kind: True})


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction": "v_prediction", "timesteps": "logit_normal", "ema_decay": 0.99},  # the demo's
        {"prediction": "epsilon", "schedule": "linear", "timesteps": "uniform", "loss": "min_snr"},
        {"prediction": "flow", "schedule": "rectified_flow", "class_conditional": True},
        {"prediction": "sample", "learning_rate": 1e-4, "ema_decay": 0.9999, "batch_size": 8},
    ],
)
def test_ordinary_trainings_raise_no_alarm(changes, tmp_path):
    config = replace(CONFIG, **{"steps": 60, **changes})
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        run(tmp_path, config, every=2)
    assert len(read_log(tmp_path)) == 31


# --- grids of samples ---


def test_grids_come_from_the_same_noise_and_leave_the_training_as_it_is(tmp_path):
    def states(also):
        return [
            {name: tensor.clone() for name, tensor in step.state().tensors.items()}
            for step in logged(train(CONFIG), tmp_path, every=3, also=also)
        ]

    grids = Grids(tmp_path, 2)
    for alone, watched in zip(states(lambda step: {}), states(grids), strict=True):
        assert all(torch.equal(alone[name], watched[name]) for name in alone)
    paths = sorted((tmp_path / "samples").iterdir())
    assert [path.name for path in paths] == [f"step-{step:08}.png" for step in (2, 4, 6)]
    assert [entry["step"] for entry in read_log(tmp_path) if "samples" in entry] == [3, 6]
    before = [path.read_bytes() for path in paths]
    states(grids)
    assert [path.read_bytes() for path in paths] == before
    assert before[0] != before[1]


def test_a_run_that_goes_on_removes_the_grids_after_its_checkpoint_and_nothing_else(tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    (folder / "step-00000009.png").write_bytes(b"of somebody else")
    for step in (3, 6):
        plots.grid(torch.zeros(1, 1, 8, 8), folder / f"step-{step:08}.png")
    remove_grids(tmp_path, 3)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000003.png", "step-00000009.png"]


def test_a_grid_that_cannot_be_written_is_a_note_and_training_goes_on(tmp_path):
    (tmp_path / "samples").write_text("in the way")
    with pytest.warns(TrainingWarning, match="no samples at step 6"):
        *_, last = logged(train(CONFIG), tmp_path, also=Grids(tmp_path, 6))
    assert last.step == 6
    check_error(lambda: Grids(tmp_path, 0), ConfigError, "samples_every is 0")


def test_a_run_with_all_that_is_watched_can_be_trained_into_again(tmp_path, capsys):
    options = ["--steps", "2", "--batch-size", "8", "--channels", "8", "--samples-every", "1", "--out"]
    for more in ([], ["--overwrite"]):
        assert run_command(["train", "digits", *options, str(tmp_path / "run"), *more]) == 0
    for name in ("samples", "log.jsonl", "report.html", "tensorboard"):
        (tmp_path / "new" / name).mkdir(parents=True)
    check_place(tmp_path / "new")


# --- trackers ---


class Fake(GeneralTracker):
    name, requires_logging_directory, tracker = "trackio", False, None
    lines: ClassVar[list] = []

    def __init__(self, project, **options):
        super().__init__(_blank=True)

    def start(self):
        pass

    def store_init_configuration(self, values):
        self.lines.append(values)

    def log(self, values, step=None):
        self.lines.append((step, values))

    def finish(self):
        self.lines.append("finished")


def test_a_tracker_is_handed_the_settings_and_the_numbers_of_each_line(tmp_path, monkeypatch):
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "trackio", Fake)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TRACKIO])
    monkeypatch.setattr(Fake, "lines", [])
    with tracked("trackio", tmp_path, {"seed": 3, "channels": (8,)}) as tell:
        for _ in logged(train(CONFIG), tmp_path, every=3, tell=tell):
            pass
    settings, *lines, end = Fake.lines
    assert settings == {"seed": 3, "channels": "(8,)"}
    for (step, values), entry in zip(lines, read_log(tmp_path), strict=True):
        assert step == entry["step"]
        assert values["loss"] == entry["loss"]
        assert values["loss by level/9"] == entry["levels"]["loss"][9]
    assert end == "finished"


def test_a_tracker_that_is_not_there_is_refused_with_what_to_install(monkeypatch):
    for name in ("tensorboard", "wandb", "trackio"):
        monkeypatch.setitem(TRACKERS, name, lambda: False)
        check_error(lambda n=name: check_tracker(n), ConfigError, "not installed", f"pip install {name}")
    check_error(lambda: check_tracker("excel"), UnknownNameError, "'tensorboard'", "'wandb'")
    assert check_tracker(None) == check_tracker("none") == "none"
    monkeypatch.setitem(TRACKERS, "tensorboard", lambda: True)
    assert check_tracker(None) == "tensorboard"

"""A run is a function of its settings: not of the number of processes, nor of what ran before."""

import json
import os
import subprocess
import sys
from collections import deque
from dataclasses import fields, replace
from itertools import islice

import pytest
import torch
from cases import Known, check_error
from torch import nn

from alphabar import DDPM, Clipped, NoiseSchedule, inpaint, sample
from alphabar.denoise.precision import PRECISIONS
from alphabar.errors import ConfigError, DataError, NoAnswerError, UnknownNameError
from alphabar.kernels import Address
from alphabar.process import PARAMETERISATIONS, addressed, coefficients_table
from alphabar.samplers.editing import KNOWN
from alphabar.schedule import FAMILIES
from alphabar.training import kept, load, save, streams
from alphabar.training import loop as training
from alphabar.training.config import GIVEN, TrainConfig
from alphabar.training.data import ImageData, load_data
from alphabar.training.loop import train
from alphabar.training.loss import LOSSES
from alphabar.training.network import sized
from alphabar.training.objective import VARIANCES
from alphabar.training.optimizers import OPTIMIZERS
from alphabar.training.order import Order, cores
from alphabar.training.statistics import SCALINGS
from alphabar.training.timesteps import TIMESTEPS

TINY = TrainConfig(
    channels=(8, 16), steps=4, batch_size=16, warmup=1, precision="float32", class_conditional=False
)


class Scale(nn.Module):
    """The smallest network: one number."""

    def __init__(self, start: float = 0.5) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(start))

    def forward(self, x, t):
        return self.factor * x


class Labelled(Scale):
    """The same, for labelled images."""

    def forward(self, x, t, class_labels):
        return super().forward(x, t)


def losses(config: TrainConfig, **kwargs) -> list[float]:
    return [step.loss for step in train(config, **kwargs)]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_losses_bit_for_bit(precision):
    config = replace(TINY, precision=precision, class_conditional=True)
    first = losses(config)
    torch.randn(7)  # the global generator has moved on; nothing depends on it
    assert losses(config) == first
    assert losses(replace(config, seed=1)) != first


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_attention_is_written_out_where_the_fused_one_is_slow(precision):
    fused = []

    class Attentive(Scale):
        def forward(self, x, t):
            with torch.profiler.profile() as profile:
                nn.functional.scaled_dot_product_attention(x, x, x)
            fused.append(any("attention" in event.key for event in profile.key_averages()))
            return super().forward(x, t)

    losses(replace(TINY, precision=precision, steps=1), network=Attentive())
    assert fused[1:] == [precision == "float32"]  # the first is asked before the training


def test_training_lowers_the_loss_far_below_that_of_an_untrained_network():
    found = losses(replace(TINY, steps=80, batch_size=64, learning_rate=1e-2))
    # v has variance Var(z)ᾱ + Var(x_0)(1−ᾱ), nearly 1: what a network that says nothing scores.
    assert found[0] > 0.8
    assert sum(found[-10:]) / 10 < 0.5


def test_every_image_comes_once_an_epoch_in_an_order_of_its_own():
    order = Order(10, seed=0, steps=5, batch_size=4, offset=0, share=4)
    numbers = [number for batch in order for number in batch]
    assert sorted(numbers[:10]) == sorted(numbers[10:20]) == list(range(10))
    assert numbers[:10] != numbers[10:20]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such call on this system")
def test_only_the_processors_that_the_process_may_use_are_counted():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert cores() == len(allowed)


def test_processes_share_a_batch_without_gap_or_overlap():
    config = {"images": 10, "seed": 0, "steps": 7, "batch_size": 6}
    whole = list(Order(**config, offset=0, share=6))
    shares = [list(Order(**config, offset=rank * 2, share=2)) for rank in range(3)]
    assert [[*a, *b, *c] for a, b, c in zip(*shares, strict=True)] == whole


def test_labels_are_withheld_at_the_given_rate():
    seen = []

    class Spy(Scale):
        def forward(self, x, t, class_labels):
            seen.append(class_labels)
            return super().forward(x, t)

    config = replace(TINY, class_conditional=True, label_dropout=0.25, batch_size=500, steps=4)
    losses(config, network=Spy())
    share = (torch.cat(seen) == 10).float().mean()
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 2000) ** 0.5  # four standard errors


def test_flipping_mirrors_about_half_of_the_images():
    seen = []

    class Spy(Scale):
        def forward(self, x, t):
            seen.append(x)
            return super().forward(x, t)

    ramp = torch.arange(8, dtype=torch.uint8).mul(30).expand(256, 1, 8, 8).contiguous()
    # One noise level with almost no noise, so that the network sees the image itself.
    config = replace(TINY, flip=True, batch_size=256, steps=1, schedule="linear", diffusion_steps=1)
    with pytest.warns(UserWarning, match="ends at"):
        losses(config, data=ImageData(ramp), network=Spy())
    mirrored = (seen[-1][..., 0] > seen[-1][..., -1]).float().mean()
    assert 0.3 < mirrored < 0.7


def test_the_rate_rises_and_falls_to_nothing():
    rates = [step.rate for step in train(replace(TINY, steps=40, warmup=9), network=Scale())]
    assert rates.index(max(rates)) <= 10
    assert rates[0] == pytest.approx(TINY.learning_rate / 10)
    assert rates[-1] < 0.01 * TINY.learning_rate


def test_a_snapshot_is_the_average_and_stays_what_it_was():
    steps = train(replace(TINY, steps=30, ema_decay=0.9), network=(network := Scale()))
    early = [step.snapshot() for step in islice(steps, 3)][-1]
    kept = early.network.factor.item()
    *_, last = steps
    assert early.network.factor.item() == kept
    assert last.snapshot().network.factor.item() != network.factor.item()
    assert early.training["seed"] == 0


def test_a_run_records_the_data_that_it_was_trained_on():
    def recorded(data):
        step = next(train(replace(TINY, data="digits"), data=data, network=Scale()))
        assert step.state().config.data == step.snapshot().training["data"]
        return step.snapshot().training["data"]

    digits = load_data("digits")
    assert recorded(None) == recorded(digits) == "digits"
    assert recorded(digits.subset(range(900))) == "900 of digits"
    assert recorded(ImageData(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))) == GIVEN
    check_error(lambda: next(train(replace(TINY, data=GIVEN))), DataError, "hand them over again")


def test_the_clock_can_end_a_run(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(training.time, "monotonic", lambda: next(now))
    assert (
        len(losses(replace(TINY, steps=100, seconds=5), network=Scale())) == 2
    )  # it is read before and after each: at seconds 1, 2; 3, 4
    assert len(losses(replace(TINY, steps=100, seconds=0.1), network=Scale())) == 1  # never none


def test_data_that_do_not_fit_in_memory_train_alike(tmp_path):
    from PIL import Image

    for i in range(12):
        Image.new("L", (8, 8), 20 * i).save(tmp_path / f"{i:02}.png")
    config = replace(TINY, batch_size=4)
    held = losses(config, data=load_data(str(tmp_path)))
    assert losses(config, data=load_data(str(tmp_path), memory_limit=0)) == held


@pytest.mark.long
def test_two_processes_train_as_one_does():
    program = (
        "import json\n"
        "from accelerate import PartialState\n"
        "from alphabar.training import TrainConfig, train\n"
        "c = TrainConfig(channels=(8,), steps=3, batch_size=8, precision='float32', class_conditional=True)\n"
        "found = [step.loss for step in train(c)]\n"
        "if PartialState().is_main_process: print('LOSSES', json.dumps(found))"
    )
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--no-python",
    ]
    run = [sys.executable, "-c", program]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    found = []
    for command in (run, launch + run):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        line = next((line for line in done.stdout.splitlines() if "LOSSES" in line), done.stderr)
        found.append(json.loads(line.partition("LOSSES")[2]))
    # Only the order in which float32 gradients and losses are added up differs.
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"steps": 0}, ConfigError, "steps is 0"),
        ({"batch_size": 1.5}, ConfigError, "batch_size is 1.5"),
        ({"schedule": "cosin"}, UnknownNameError, "'cosine'"),
        ({"prediction": "eps"}, UnknownNameError, "'epsilon'"),
        ({"timesteps": "sorted"}, UnknownNameError, "'stratified'"),
        ({"loss": "l1"}, UnknownNameError, "'min_snr'"),
        ({"variance": "learned"}, UnknownNameError, "'learned_range'"),
        ({"precision": "fp8"}, UnknownNameError, "'bfloat16'"),
        ({"learning_rate": 0.0}, ConfigError, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, ConfigError, "learning_rate is nan"),
        ({"seconds": -1.0}, ConfigError, "seconds is -1.0"),
        ({"label_dropout": 1.1}, ConfigError, "[0, 1]"),
        ({"warmup": -1}, ConfigError, "warmup is -1"),
        ({"crop": 0.05}, ConfigError, "crop is 0.05: it must lie in [0.1, 1.0]"),
        ({"crop": 1.5}, ConfigError, "crop is 1.5"),
        ({"jitter": -0.1}, ConfigError, "jitter is -0.1"),
        ({"jitter": float("nan")}, ConfigError, "jitter is nan"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(change, error, says):
    check_error(lambda: replace(TINY, **change), error, says)


def test_every_field_that_takes_a_name_says_which():
    choices = {
        each.name: each.metadata["choices"] for each in fields(TrainConfig) if "choices" in each.metadata
    }
    assert choices == {
        "schedule": FAMILIES,
        "prediction": PARAMETERISATIONS,
        "variance": VARIANCES,
        "loss": LOSSES,
        "timesteps": TIMESTEPS,
        "timesteps_per": {"image": None, "token": None},
        "scaling": SCALINGS,
        "optimizer": {"auto": None, **OPTIMIZERS},
        "precision": PRECISIONS,
    }


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize(
    ("prediction", "schedule"),
    [*((kind, "cosine") for kind in PARAMETERISATIONS), ("flow", "rectified_flow"), ("edm", "edm")],
)
def test_every_kind_of_network_trains_and_is_saved_and_samples(prediction, schedule, variance, tmp_path):
    config = replace(TINY, prediction=prediction, schedule=schedule, variance=variance, steps=2)
    *_, last = train(replace(config, loss="min_snr", timesteps="edm"))
    made = last.snapshot()
    assert made.learns_variance == (variance == "learned_range")
    sampler = DDPM(5, "learned_range" if made.learns_variance else "fixed_small")
    found = [
        sample(Clipped(each.denoiser()), (2, *made.shape), sampler, seed=0, progress=False)
        for each in (made, load(save(tmp_path / "run", made)))
    ]
    assert torch.equal(*found)


def test_labels_are_told_unasked_where_every_class_has_enough_images_and_the_network_is_ours():
    def told(classes, images, network=None, **settings):
        data = ImageData(
            torch.zeros(images, 1, 8, 8, dtype=torch.uint8),
            labels=torch.arange(images) % classes,
            classes=tuple(map(str, range(classes))),
        )
        config = replace(TINY, **({"class_conditional": None, "steps": 1} | settings))
        (step,) = train(config, data=data, network=network)
        made = step.snapshot()
        assert made.training["class_conditional"] == bool(made.classes)
        return len(made.classes)

    assert told(2, 20) == 2
    assert told(2, 19) == 0
    assert told(2, 19, class_conditional=True) == 2
    assert told(1, 20) == 0
    assert told(2, 20, class_conditional=False) == 0
    assert told(2, 20, network=Scale()) == 0


def test_a_run_goes_on_with_or_without_labels_as_it_was_begun(tmp_path):
    config = replace(TINY, data="digits", steps=1)
    for told in (True, False):
        place = tmp_path / str(told)
        deque(kept(train(replace(config, class_conditional=told)), place), maxlen=0)
        (step,) = train(replace(config, class_conditional=None, steps=2), resume=place)
        assert bool(step.snapshot().classes) == told


@pytest.mark.parametrize(("prediction", "dtype"), [("v_prediction", torch.int64), ("flow", torch.float32)])
def test_the_network_takes_the_input_and_the_time_of_its_kind(prediction, dtype):
    seen = []

    class Spy(Scale):
        def forward(self, x, t):
            seen.append((x.clone(), t))
            return super().forward(x, t)

    white = ImageData(torch.full((512, 1, 8, 8), 255, dtype=torch.uint8))
    losses(replace(TINY, prediction=prediction, batch_size=512, steps=1), data=white, network=Spy())
    x, time = seen[-1]
    assert time.dtype == dtype
    kind, cosine = PARAMETERISATIONS[prediction], NoiseSchedule.cosine()
    table = coefficients_table(cosine, kind)
    own = torch.isnan(table.time[0])
    t = time if own else (table.time.float() - time[:, None]).abs().argmin(1)
    assert torch.equal(time, t if own else table.time[t].float())
    of_x_0, of_noise = table.noised[t].unbind(-1)
    # x = noised_0 · 1 + noised_1 · z, and 64 z are within 5/√64 of a mean of 0.
    assert ((x.mean((1, 2, 3)).double() - of_x_0).abs() < 5 * of_noise / 8 + 1e-6).all()
    assert (x.std((1, 2, 3)).double() / of_noise - 1).abs().max() < 0.5


def test_a_kind_without_an_answer_is_refused_before_the_data_are_read():
    config = replace(TINY, schedule="rectified_flow", prediction="epsilon", data="no such folder")
    check_error(lambda: losses(config), NoAnswerError, "'epsilon' at t = 999", "v_prediction")
    assert losses(replace(config, prediction="v_prediction", data="digits"), network=Scale())


def test_training_and_sampling_never_draw_the_same_noise(monkeypatch):
    drawn, address = [], addressed.address

    def spy(shape, *, seed, stream=0, first=0):
        drawn.append(stream)
        return address(shape, seed=seed, stream=stream, first=first)

    def address_of_a_step(seed, step, first):
        drawn.append(step)
        return Address(seed, step, first)

    monkeypatch.setattr(addressed, "address", spy)
    monkeypatch.setattr("alphabar.samplers.loop.Address", address_of_a_step)
    # A seed of its own, since the order of the images is cached.
    config = replace(TINY, flip=True, crop=0.5, jitter=0.1, class_conditional=True, seed=77)
    losses(config, network=Labelled())
    training_streams = set(drawn)
    drawn.clear()
    x = torch.zeros(2, 1, 4, 4)
    inpaint(Known(x), x, torch.ones(4, 4), DDPM(20), seed=0, progress=False)
    training_streams.add(streams.CONDITION)  # which this training has none of
    assert training_streams == {getattr(streams, name) for name in streams.__all__}
    assert {0, 1, 19, KNOWN, KNOWN + 20} <= set(drawn)
    assert not training_streams & set(drawn)
    # The loop counts its steps from 0, and inpainting its own from KNOWN: more than a billion of each.
    assert all(1 << 30 <= stream < KNOWN for stream in training_streams)


def test_classes_without_labels_and_a_diverging_loss_are_named():
    unlabelled = ImageData(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    config = replace(TINY, class_conditional=True)
    check_error(lambda: losses(config, data=unlabelled), ConfigError, "no labels", "folder")
    check_error(lambda: losses(TINY, network=Scale(float("inf"))), NoAnswerError, "step 1", "learning rate")


def test_data_without_an_image_are_refused():
    empty = ImageData(torch.zeros(0, 1, 8, 8, dtype=torch.uint8))
    check_error(lambda: next(train(TrainConfig(channels=(8,)), data=empty)), DataError, "no image")


@pytest.mark.parametrize(
    ("seconds", "device", "size", "network"),
    [
        (None, "cpu", 28, {"network": "unet", "channels": (64, 128, 128)}),
        (300.0, "cpu", 28, {"network": "unet_2d", "width": 64}),
        (1800.0, "cpu", 32, {"network": "unet_2d", "width": 96}),
        (1e6, "cpu", 28, {"network": "unet_2d", "width": 128}),
        (300.0, "cuda", 28, {"network": "unet", "channels": (64, 128, 128)}),
        (80.0, "cpu", 8, {"network": "unet", "channels": (32, 64)}),
        (10.0, "cpu", 8, {"network": "unet", "channels": (16, 16)}),
    ],
)
def test_a_training_on_a_cpu_that_time_ends_takes_another_and_a_smaller_network(
    seconds, device, size, network
):
    config, shape, where = TrainConfig(seconds=seconds), (1, size, size), torch.device(device)
    assert sized(config, shape, where) == replace(config, **network)
    assert sized(sized(config, shape, where), shape, where) == replace(config, **network)
    named = sized(replace(config, network="unet"), (1, 28, 28), where)
    assert named.network == "unet" and named.width is None
    chosen = TrainConfig(seconds=seconds, channels=(24,))
    assert sized(chosen, shape, where) == replace(chosen, network="unet")


def test_a_training_is_ended_by_steps_by_time_or_after_two_thousand_updates():
    assert TrainConfig().last_step == 2000
    assert TrainConfig(seconds=5).last_step == 10**9
    assert TrainConfig(seconds=5, steps=7).last_step == 7

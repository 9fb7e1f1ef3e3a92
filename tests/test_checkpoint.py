"""What is loaded is what was saved, diffusers opens it, and a place that is something else is left alone."""

import json

import diffusers
import pytest
import torch
from cases import check_error

from alphabar import DDIM, NoiseSchedule, sample
from alphabar.checkpoint import Checkpoint, check_place, load, save
from alphabar.errors import CheckpointError, UnknownNameError
from alphabar.network import unet


def checkpoint(classes: tuple[str, ...] = (), schedule: NoiseSchedule | None = None) -> Checkpoint:
    network = unet((1, 8, 8), channels=(8,), classes=len(classes)).eval()
    return Checkpoint(
        network, schedule or NoiseSchedule.cosine(20), "v_prediction", (1, 8, 8), classes, {"seed": 3}
    )


@pytest.mark.parametrize(
    "schedule",
    [NoiseSchedule.cosine(20), NoiseSchedule.laplace(20), NoiseSchedule.cosine(20).zero_terminal_snr()],
)
def test_a_checkpoint_comes_back_whole(schedule, tmp_path):
    saved = checkpoint(("cat", "dog"), schedule)
    loaded = load(save(tmp_path / "run", saved))
    assert loaded.schedule == saved.schedule
    assert (loaded.prediction, loaded.shape, loaded.classes) == ("v_prediction", (1, 8, 8), ("cat", "dog"))
    assert loaded.training == {"seed": 3}
    pictures = [
        sample(run.denoiser(run.labels(4)), (4, 1, 8, 8), DDIM(5), seed=0, progress=False)
        for run in (saved, loaded)
    ]
    assert torch.equal(*pictures)


def test_diffusers_opens_it_and_means_the_same_by_it(tmp_path):
    saved = checkpoint()
    save(tmp_path / "run", saved)
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "run")
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    # Their ᾱ is a product of float32 numbers: 20 roundings of 6e-8.
    assert torch.allclose(
        pipeline.scheduler.alphas_cumprod.double(), saved.schedule.alpha_bar, rtol=2e-6, atol=1e-9
    )
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 17])
    assert torch.equal(pipeline.unet(x, t).sample, saved.network(x, t).sample)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(num_inference_steps=2, output_type="np").images.shape == (1, 8, 8, 1)


def test_a_folder_of_diffusers_alone_is_opened_too(tmp_path):
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=30, beta_schedule="squaredcos_cap_v2")
    diffusers.DDPMPipeline(unet((3, 8, 8), channels=(8,)), scheduler).save_pretrained(tmp_path / "theirs")
    loaded = load(tmp_path / "theirs")
    assert loaded.schedule == NoiseSchedule.cosine(30)
    assert (loaded.prediction, loaded.shape, loaded.classes) == ("epsilon", (3, 8, 8), ())


def test_labels_go_through_the_classes_in_turn():
    run = checkpoint(("a", "b", "c"))
    assert run.labels(5).tolist() == [0, 1, 2, 0, 1]
    assert run.labels(4, ["c", "a"]).tolist() == [2, 0, 2, 0]
    check_error(lambda: run.labels(2, ["d"]), UnknownNameError, "'d'", "'a', 'b', 'c'")
    check_error(lambda: checkpoint().labels(2, ["d"]), CheckpointError, "no classes")
    check_error(run.denoiser, CheckpointError, "a, b, c")
    check_error(lambda: checkpoint().denoiser(torch.zeros(1).long()), CheckpointError, "leave out")


def test_a_place_that_is_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    for place in (tmp_path, tmp_path / "mine.txt"):
        check_error(lambda place=place: save(place, checkpoint()), CheckpointError, "is no checkpoint")
    assert (tmp_path / "mine.txt").read_text() == "precious"
    check_place(tmp_path / "new")


def test_a_broken_folder_is_named(tmp_path):
    check_error(lambda: load(tmp_path / "none"), CheckpointError, "none", "alphabar train")
    save(tmp_path / "run", checkpoint())
    (tmp_path / "run" / "unet" / "config.json").write_text("{")
    check_error(lambda: load(tmp_path / "run"), CheckpointError, "unet")
    (tmp_path / "run" / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"prediction_type": "w"})
    )
    check_error(lambda: load(tmp_path / "run"), UnknownNameError, "'w'", "'epsilon'")
    check_error(
        lambda: save(
            tmp_path / "x", Checkpoint(torch.nn.ReLU(), NoiseSchedule.cosine(5), "epsilon", (1, 8, 8))
        ),
        CheckpointError,
        "ReLU",
        "state_dict",
    )

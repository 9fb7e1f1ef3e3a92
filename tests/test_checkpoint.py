"""What is loaded is what was saved, diffusers opens it, and a place that is something else is left alone."""

import json
from functools import partial

import diffusers
import huggingface_hub
import pytest
import torch
from cases import check_error
from test_files import killed_at

from alphabar import DDIM, Denoiser, NoiseSchedule, sample
from alphabar.denoise import pretrained
from alphabar.errors import CheckpointError, ConfigError, UnknownNameError
from alphabar.training.checkpoint import Checkpoint, check_place, load, save
from alphabar.training.network import unet


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


# --- Denoiser.from_pretrained ---

X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def their_folder(place, *, scheduler=None, **changes):
    """A pipeline that diffusers alone wrote, with a random network."""
    torch.manual_seed(0)
    config = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8,)}
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 4}
    network = diffusers.UNet2DModel(**{**config, **blocks, "attention_head_dim": 4, **changes})
    diffusers.DDPMPipeline(network, scheduler or diffusers.DDPMScheduler()).save_pretrained(place)
    return place


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(
    "kind", ["DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "PNDMScheduler"]
)
def test_a_pipeline_is_opened_as_a_denoiser_by_one_call(kind, prediction, tmp_path):
    config = {"beta_schedule": "scaled_linear", "prediction_type": prediction, "num_train_timesteps": 50}
    scheduler = getattr(diffusers, kind)(beta_start=0.01, beta_end=0.4, **config)
    denoiser = Denoiser.from_pretrained(str(their_folder(tmp_path / "theirs", scheduler=scheduler)))
    assert denoiser.schedule == NoiseSchedule.scaled_linear(50, 0.01, 0.4)
    assert denoiser.prediction == prediction
    network = diffusers.UNet2DModel.from_pretrained(tmp_path / "theirs" / "unet")
    x_0 = Denoiser(network, denoiser.schedule, prediction)(X, 7).x_0
    assert torch.allclose(denoiser(X, 7).x_0, x_0, atol=1e-6)  # weights elsewhere in memory
    again = Denoiser.from_pretrained(denoiser.save_pretrained(tmp_path / "ours"))
    assert torch.allclose(again(X, 7).x_0, x_0, atol=1e-6)
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "ours")
    assert pipeline.scheduler.config.prediction_type == prediction
    described = json.loads((tmp_path / "ours" / "alphabar.json").read_text())
    assert (described["prediction"], described["value_range"]) == (prediction, [-1, 1])


def test_a_learned_variance_is_seen_and_written_where_diffusers_reads_it(tmp_path):
    denoiser = Denoiser.from_pretrained(their_folder(tmp_path / "theirs", out_channels=2))
    estimate = denoiser(X, 7)
    assert estimate.x_0.shape == estimate.variance.shape == X.shape
    denoiser.save_pretrained(tmp_path / "ours")
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "ours")
    assert pipeline.scheduler.config.variance_type == "learned_range"
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(num_inference_steps=2, output_type="np").images.shape == (1, 8, 8, 1)


def test_labels_are_for_networks_with_classes(tmp_path):
    place, labels = their_folder(tmp_path / "theirs", num_class_embeds=3), torch.tensor([2, 0])
    denoiser = Denoiser.from_pretrained(place, labels)
    other = Denoiser.from_pretrained(place, torch.tensor([1, 1]))
    assert not torch.equal(denoiser(X, 7).x_0, other(X, 7).x_0)
    assert load(place).classes == ("0", "1", "2")
    check_error(lambda: Denoiser.from_pretrained(place), CheckpointError, "0, 1, 2")
    plain = their_folder(tmp_path / "plain")
    check_error(lambda: Denoiser.from_pretrained(plain, labels), CheckpointError, "leave out labels")


def test_what_a_folder_says_survives_being_opened_and_written_again(tmp_path):
    save(tmp_path / "run", checkpoint(("cat", "dog")))
    denoiser = Denoiser.from_pretrained(tmp_path / "run", torch.tensor([0]))
    again = load(denoiser.save_pretrained(tmp_path / "again"))
    assert (again.classes, again.training, again.shape) == (("cat", "dog"), {"seed": 3}, (1, 8, 8))


def test_the_oldest_pipelines_have_everything_in_one_folder_and_pickled_weights(tmp_path):
    place = their_folder(tmp_path / "theirs")
    expected = Denoiser.from_pretrained(place)(X, 7).x_0
    network = diffusers.UNet2DModel.from_pretrained(place / "unet")
    for path in (place / "unet" / "config.json", place / "scheduler" / "scheduler_config.json"):
        path.rename(place / path.name)
    torch.save(network.state_dict(), place / "diffusion_pytorch_model.bin")
    (place / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (place / "unet").rmdir()
    (place / "scheduler").rmdir()
    assert torch.allclose(Denoiser.from_pretrained(place)(X, 7).x_0, expected, atol=1e-6)


def test_a_name_is_fetched_from_the_hub_without_the_parts_that_are_not_needed(tmp_path, monkeypatch):
    place, asked = their_folder(tmp_path / "theirs"), []

    def fetch(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(place)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert len(Denoiser.from_pretrained("someone/ddpm").schedule) == 1000
    ((name, patterns),) = asked
    assert name == "someone/ddpm"
    assert "unet/*.safetensors" in patterns
    assert not any(pattern.endswith(".bin") for pattern in patterns)
    weights = place / "unet" / "diffusion_pytorch_model.safetensors"
    network = diffusers.UNet2DModel.from_pretrained(place / "unet")
    torch.save(network.state_dict(), place / "unet" / "diffusion_pytorch_model.bin")
    weights.unlink()
    Denoiser.from_pretrained("someone/ddpm")
    assert "unet/*.bin" in asked[-1][1]


def test_a_name_that_cannot_be_fetched_is_named(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    check_error(
        lambda: Denoiser.from_pretrained("someone/nothing"), CheckpointError, "someone/nothing", "model_index"
    )
    for name in ("nothing", "a/b/c"):
        check_error(lambda name=name: Denoiser.from_pretrained(name), CheckpointError, name, "alphabar train")


def test_pipelines_of_another_kind_are_refused_with_their_name(tmp_path):
    place = their_folder(tmp_path / "theirs")
    config = place / "unet" / "config.json"
    text = config.read_text()
    config.write_text(text.replace("UNet2DModel", "UNet2DConditionModel"))
    check_error(lambda: load(place), CheckpointError, "UNet2DConditionModel", "pipeline", "GuidedUNet")
    config.write_text(text)
    (place / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "ScoreSdeVeScheduler"}')
    check_error(lambda: load(place), CheckpointError, "ScoreSdeVeScheduler", "no β")
    denoiser = Denoiser(lambda x, t: x, NoiseSchedule.linear())
    check_error(lambda: denoiser.save_pretrained(tmp_path / "new"), CheckpointError, "function", "state_dict")
    assert not (tmp_path / "new").exists()


# --- what is written over, and what is not ---


def weights_of(place):
    return {name: weight.clone() for name, weight in load(place).network.state_dict().items()}


def test_writing_again_replaces_the_own_files_and_leaves_all_others(tmp_path):
    run = tmp_path / "run"
    save(run, checkpoint(), also=lambda draft: (draft / "loss.png").write_bytes(b"curve"))
    for name in ("photo.png", "samples/00000.png", "unet/notes.txt"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(b"precious")
    (run / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"of somebody")
    save(run, checkpoint(("cat", "dog")))
    assert load(run).classes == ("cat", "dog")
    for name in ("photo.png", "samples/00000.png", "unet/notes.txt"):
        assert (run / name).read_bytes() == b"precious"
    assert not (run / "loss.png").exists()  # of the run before
    (run / "loss.png").write_bytes(b"mine")
    again = partial(save, run, checkpoint(), also=lambda draft: (draft / "loss.png").write_bytes(b"curve"))
    check_error(again, CheckpointError, "loss.png", "not written here")
    check_error(lambda: check_place(run, also=["loss.png"]), CheckpointError, "loss.png")
    assert load(run).classes == ("cat", "dog")


def test_a_run_of_the_first_version_is_replaced_too(tmp_path):
    save(tmp_path, checkpoint(), also=lambda draft: (draft / "loss.png").write_bytes(b"curve"))
    described = json.loads((tmp_path / "alphabar.json").read_text())
    del described["files"]
    (tmp_path / "alphabar.json").write_text(json.dumps(described))
    save(tmp_path, checkpoint(("cat",)), also=lambda draft: (draft / "loss.png").write_bytes(b"new"))
    assert load(tmp_path).classes == ("cat",)
    assert (tmp_path / "loss.png").read_bytes() == b"new"


def test_a_pipeline_that_diffusers_wrote_is_not_replaced(tmp_path):
    place = their_folder(tmp_path / "theirs")
    denoiser = Denoiser.from_pretrained(place)
    check_error(lambda: denoiser.save_pretrained(place), CheckpointError, "is no checkpoint of alphabar")


@pytest.mark.parametrize("has_old", [False, True])
def test_killed_at_any_change_the_folder_opens_as_the_old_checkpoint_or_the_new(has_old, tmp_path):
    old, new = checkpoint(("old",)), checkpoint(("new", "newer"))
    outcomes, step = [], 0
    while True:
        place = tmp_path / str(step)
        if has_old:
            save(place, old)
        killed = killed_at(step, lambda place=place: save(place, new))
        try:
            found = load(place)
        except CheckpointError:
            assert not has_old
            outcomes.append(None)
        else:
            outcomes.append(found.classes)
            expected = {("old",): old, ("new", "newer"): new}[found.classes]
            for name, weight in expected.network.state_dict().items():
                assert torch.equal(found.network.state_dict()[name], weight)
        if not killed:
            break
        step += 1
    first = ("old",) if has_old else None
    turn = outcomes.index(("new", "newer"))
    assert outcomes == [first] * turn + [("new", "newer")] * (len(outcomes) - turn)
    assert turn > 5
    assert len(outcomes) - turn > 5


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    save(tmp_path, checkpoint(("old",)))
    check, times = pretrained.check_network, iter(range(2))

    def interrupted(config, where):
        if next(times) == 0:
            save(tmp_path, checkpoint(("new", "newer")))
        check(config, where)

    monkeypatch.setattr(pretrained, "check_network", interrupted)
    assert load(tmp_path).classes == ("new", "newer")


class Labelled(torch.nn.Module):
    """Answers its label; label 2 is none."""

    def forward(self, x_t, t, class_labels=None):
        level = 0.0 if class_labels is None else 0.1 * class_labels.double().view(-1, 1, 1, 1)
        return torch.zeros_like(x_t) + level


def labelled(classes=("a", "b"), **training):
    return Checkpoint(Labelled(), NoiseSchedule.linear(), "sample", (1, 2, 2), classes, training)


def test_guidance_leads_away_from_the_answer_without_a_label():
    x_t, labels = torch.zeros(2, 1, 2, 2, dtype=torch.float64), torch.tensor([0, 1])
    for guidance, expected in [(1.0, [0.0, 0.1]), (3.0, [-0.4, -0.1]), (30.0, [-1.0, -1.0])]:
        # x̂_0 = without + guidance · (with − without), clipped; without a label it is .2
        found = labelled().guided(labels, guidance)(x_t, 500.0).x_0[:, 0, 0, 0]
        assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_a_network_that_was_never_without_its_labels_is_not_guided():
    labels, x_t = torch.tensor([0, 1]), torch.zeros(2, 1, 2, 2)
    assert labelled().can_be_guided
    for checkpoint, given, said in [
        (labelled(label_dropout=0), labels, "knows nothing without a label"),
        (labelled(classes=()), None, "has no classes"),
    ]:
        assert not checkpoint.can_be_guided
        assert checkpoint.guided(given)(x_t, 500.0).x_0.shape == x_t.shape
        with pytest.raises(ConfigError, match=said):
            checkpoint.guided(given, 2.0)

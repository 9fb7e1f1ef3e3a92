"""A converted network computes what the original computes; what weights do not say is asked for."""

import json
import subprocess
import sys
from dataclasses import asdict

import diffusers
import pytest
import torch
from cases import check_error
from originals import GuidedOriginal, LucidOriginal, randomised

import alphabar.convert.networks  # noqa: F401  diffusers takes a network from a module that is loaded
from alphabar import DDIM, NoiseSchedule, sample
from alphabar.cli.convert import Convert
from alphabar.convert import ConvertOptions, convert, read
from alphabar.errors import CheckpointError, ConfigError, UnknownNameError
from alphabar.training.checkpoint import load

OPTIONS = ConvertOptions(image_size=16, schedule="linear", diffusion_steps=1000, num_heads=2)
T = torch.tensor([3, 977])
X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def written(content, folder):
    torch.save(content, folder / "model.pt")
    return folder / "model.pt"


def guided(folder, **arguments):
    """A random original and the file of its weights."""
    original = randomised(GuidedOriginal(**arguments))
    return original, written(original.state_dict(), folder)


def check_same(ours, theirs):
    # float32 sums in another order: 2e-6 of the size of the output is a dozen roundings.
    ours = ours.detach()
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) < 3e-6 * float(theirs.abs().max())


# --- guided-diffusion and improved-diffusion ---

VARIANTS = {
    "improved-diffusion": ({}, {}),
    "learned variance": ({"out": 6}, {}),
    "scale and shift": ({"film": True, "attends": (0, 1), "heads": 1}, {"num_heads": 1}),
    "residual resampling": ({"residual": True, "attends": ()}, {}),
    "guided-diffusion": (
        {"film": True, "residual": True, "head_channels": 16, "attends": (0, 1), "out": 6, "layers": 2},
        {"num_heads": None, "num_head_channels": 16},
    ),
    "new order": ({"new_order": True}, {"new_attention_order": True}),
    "grey": ({"image": 1, "out": 1}, {}),
    "three levels": ({"mult": (1, 1, 2), "attends": (2,)}, {}),
    "one level": ({"mult": (1,), "attends": ()}, {}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_unet2dmodel_can_express_becomes_one_and_computes_the_same(name, tmp_path):
    arguments, changes = VARIANTS[name]
    original, source = guided(tmp_path, **arguments)
    convert(source, tmp_path / "out", ConvertOptions(**{**asdict(OPTIONS), **changes}))
    x = X[:, : arguments.get("image", 3)]
    # The folder is diffusers' own: nothing of ours is needed to open it.
    network = diffusers.UNet2DModel.from_pretrained(tmp_path / "out" / "unet")
    assert json.loads((tmp_path / "out" / "unet" / "config.json").read_text())["_class_name"] == "UNet2DModel"
    check_same(network(x, T).sample, original(x, T))
    check_same(load(tmp_path / "out").network(x, T).sample, original(x, T))


def test_labels_are_carried_over(tmp_path):
    original, source = guided(tmp_path, classes=5)
    loaded = read(source, OPTIONS)
    labels = torch.tensor([4, 0])
    check_same(loaded.network(X, T, class_labels=labels).sample, original(X, T, labels))
    assert loaded.classes == ("0", "1", "2", "3", "4")
    assert loaded.denoiser(labels)(X, 5).x_0.shape == X.shape


def test_timesteps_that_were_rescaled_become_a_table(tmp_path):
    original, source = guided(tmp_path, see=1000 / 4000)
    options = ConvertOptions(
        **{**asdict(OPTIONS), "diffusion_steps": 4000, "schedule": "cosine", "rescale_timesteps": True}
    )
    convert(source, tmp_path / "out", options)
    network = diffusers.UNet2DModel.from_pretrained(tmp_path / "out" / "unet")
    t = torch.tensor([1, 3999])
    check_same(network(X, t).sample, original(X, t))
    assert load(tmp_path / "out").schedule == NoiseSchedule.cosine(4000)
    check_error(
        lambda: read(source, ConvertOptions(**{**asdict(options), "rescale_timesteps": None})),
        ConfigError,
        "rescale_timesteps",
        "4000",
    )


OWN = {
    "heads at two widths": {"attends": (0, 1), "heads": 4},
    "improved-diffusion on ImageNet": {
        "attends": (0, 1),
        "heads": 4,
        "film": True,
        "out": 6,
        "see": 1000 / 4000,
    },
    "first level of half width": {"width": 64, "mult": (0.5, 1), "attends": (1,), "heads": 2},
}


@pytest.mark.parametrize("name", OWN)
def test_what_unet2dmodel_cannot_express_becomes_a_network_of_ours(name, tmp_path):
    original, source = guided(tmp_path, **OWN[name])
    changes = {"num_heads": OWN[name]["heads"]}
    if "see" in OWN[name]:
        changes |= {"diffusion_steps": 4000, "rescale_timesteps": True}
    convert(source, tmp_path / "out", ConvertOptions(**{**asdict(OPTIONS), **changes}))
    loaded = load(tmp_path / "out")
    assert type(loaded.network).__name__ == "GuidedUNet"
    check_same(loaded.network(X, T).sample, original(X, T))
    index = tmp_path / "out" / "model_index.json"
    for module in ("alphabar.denoise.networks", "alphabar.convert.networks"):  # the latter in version 0.1
        index.write_text(index.read_text().replace("alphabar.denoise.networks", module))
        pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
        check_same(pipeline.unet(X, T).sample, original(X, T))


def test_all_missing_options_are_named_in_one_error(tmp_path):
    _, source = guided(tmp_path)
    check_error(lambda: read(source), ConfigError, "--image-size", "--schedule", "--diffusion-steps", "noise")
    for changes in ({"num_heads": None}, {"num_head_channels": 32}):
        options = ConvertOptions(**{**asdict(OPTIONS), **changes})
        check_error(
            lambda options=options: read(source, options), ConfigError, "--num-heads", "--num-head-channels"
        )
    wrong = {
        "num_heads": (7, ConfigError, "64"),
        "image_size": (15, ConfigError, "15"),
        "schedule": ("cosin", UnknownNameError, "'cosine', 'linear'"),
        "prediction": ("noise", UnknownNameError, "'epsilon'"),
    }
    for name, (value, error, said) in wrong.items():
        options = ConvertOptions(**{**asdict(OPTIONS), name: value})
        check_error(lambda options=options: read(source, options), error, said)


FLAGS = "--image_size 16 --num_channels 32 --num_res_blocks 1 --learn_sigma True --num_heads 2 --lr 1e-4"


def test_the_flags_of_the_training_are_read_and_compared(tmp_path):
    original, source = guided(tmp_path, out=6, film=True)
    loaded = read(
        source, flags=f"{FLAGS} --use_scale_shift_norm True --attention_resolutions 8 --channel_mult 1,2"
    )
    check_same(loaded.network(X, T).sample, original(X, T))
    assert loaded.schedule == NoiseSchedule.linear(1000)
    assert loaded.prediction == "epsilon"
    assert "--num_channels 32" in loaded.training["flags"]
    disagreeing = {
        "--learn_sigma False": "learn_sigma is False as you say, and True",
        "--class_cond True": "class_cond is True",
        "--num_channels 128": "num_channels is 128 as you say, and 32",
        "--num_res_blocks 3": "num_res_blocks is 3 as you say, and 1",
        "--use_scale_shift_norm False": "use_scale_shift_norm is False",
        "--resblock_updown True": "resblock_updown is True",
        "--attention_resolutions 16,8": "attention_resolutions is (8, 16) as you say, and (8,)",
        "--channel_mult 1,2,2": "channel_mult",
    }
    for flag, said in disagreeing.items():
        check_error(lambda flag=flag: read(source, flags=f"{FLAGS} {flag}"), ConfigError, said)
    check_error(
        lambda: read(source, flags=f"{FLAGS} --num_hedas 2"), UnknownNameError, "num_hedas", "'num_heads'"
    )
    check_error(
        lambda: read(source, flags=f"{FLAGS} --num_heads_upsample 4"), ConfigError, "num_heads_upsample is 4"
    )
    check_error(lambda: read(source, flags="--image_size"), ConfigError, "--name value")
    check_error(lambda: read(source, flags="--image_size many"), ConfigError, "'many'")
    check_error(lambda: read(source, OPTIONS, flags=FLAGS), ConfigError, "not both")


def test_other_networks_are_refused_by_name(tmp_path):
    weights = randomised(GuidedOriginal()).state_dict()
    half = {name: weight for name, weight in weights.items() if not name.startswith("output")}
    cases = {
        "classifier": half,
        "super-resolution": randomised(GuidedOriginal(image=6, out=6)).state_dict(),
        "attends to text": weights | {"input_blocks.1.1.transformer_blocks.0.norm.weight": torch.ones(3)},
        "input_blocks.9.0.strange": weights | {"input_blocks.9.0.strange.weight": torch.ones(3)},
        "do not fit": {name: weight for name, weight in weights.items() if name != "out.0.bias"},
        "neither": {"layer.weight": torch.ones(3)},
        "a list": [1],
    }
    for said, content in cases.items():
        source = written(content, tmp_path)
        check_error(lambda source=source: read(source, OPTIONS), CheckpointError, said)
    check_error(lambda: read(tmp_path / "none.pt", OPTIONS), CheckpointError, "none.pt")


class Evil:
    def __reduce__(self):
        return (print, ("code of the file ran",))


def test_code_in_a_file_is_never_run(tmp_path, capsys):
    source = written({"input_blocks.0.0.weight": Evil()}, tmp_path)
    check_error(lambda: read(source, OPTIONS), CheckpointError, "not run")
    assert "ran" not in capsys.readouterr().out


# --- denoising-diffusion-pytorch ---

VERSIONS = {"1.6": "1.6.4", "1.8": "1.8.15", "1.9": "1.11.1", "2": "2.3.4"}


def loss_weight(objective, snr):
    return {"epsilon": torch.ones_like(snr), "sample": snr, "v_prediction": snr / (1 + snr)}[objective]


def lucid(folder, era="2", schedule=None, objective="v_prediction", average=True, **arguments):
    """A random original and the file that its trainer writes."""
    original = randomised(LucidOriginal(era, **arguments))
    schedule = schedule or NoiseSchedule.cosine(50)
    alpha_bar = schedule.alpha_bar
    buffers = {"betas": schedule.beta.float(), "alphas_cumprod": alpha_bar.float()}
    buffers["loss_weight"] = loss_weight(objective, alpha_bar / (1 - alpha_bar)).float()
    state = buffers | {f"model.{name}": weight for name, weight in original.state_dict().items()}
    other = buffers | {f"model.{name}": weight + 1 for name, weight in original.state_dict().items()}
    ema = {f"ema_model.{name}": weight for name, weight in state.items()}
    ema |= {f"online_model.{name}": weight for name, weight in other.items()}
    content = {
        "step": 700,
        "model": other if average else state,
        "opt": {"state": {}},
        "ema": ema | {"initted": torch.tensor(True)} if average else None,
        "scaler": None,
        "version": VERSIONS[era],
    }
    return original, content, written(content, folder)


@pytest.mark.parametrize("era", VERSIONS)
@pytest.mark.parametrize("mult", [(1, 2), (1, 2, 4, 4)], ids=len)
def test_every_release_computes_the_same(era, mult, tmp_path):
    original, _, source = lucid(tmp_path, era, mult=mult)
    options = ConvertOptions(image_size=16, num_heads=4 if era == "1.8" else None)
    convert(source, tmp_path / "out", options)
    loaded = load(tmp_path / "out")
    check_same(loaded.network(X, T).sample, original(X, T))
    assert loaded.schedule == NoiseSchedule.cosine(50)
    assert loaded.prediction == "v_prediction"
    assert loaded.training == {
        "converted_from": "model.pt",
        "step": 700,
        "version": VERSIONS[era],
        "weights": "average",
    }


def test_the_converted_folder_samples_here_and_in_diffusers(tmp_path):
    _, _, source = lucid(tmp_path, channels=1, out=2)
    convert(source, tmp_path / "out", ConvertOptions(image_size=8))
    loaded = load(tmp_path / "out")
    assert loaded.learns_variance
    picture = sample(loaded.denoiser(), (1, 1, 8, 8), DDIM(3), seed=0, progress=False)
    assert picture.isfinite().all()
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(num_inference_steps=2, output_type="np").images.shape == (1, 8, 8, 1)


@pytest.mark.parametrize("objective", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(
    "schedule", [NoiseSchedule.linear(200, 5e-4, 0.1), NoiseSchedule.from_beta([0.1, 0.5, 0.9])]
)
def test_schedule_and_prediction_are_read_from_the_buffers(objective, schedule, tmp_path):
    _, _, source = lucid(tmp_path, schedule=schedule, objective=objective, average=False)
    loaded = read(source, ConvertOptions(image_size=16))
    assert torch.allclose(loaded.schedule.beta, schedule.beta, rtol=1e-6)
    assert loaded.prediction == objective
    assert loaded.training["weights"] == "last"


def test_options_must_agree_with_the_file(tmp_path):
    _, content, source = lucid(tmp_path)
    for options in (
        {"schedule": "linear"},
        {"diffusion_steps": 100},
        {"prediction": "epsilon"},
        {"num_heads": 8},
    ):
        check_error(
            lambda options=options: read(source, ConvertOptions(image_size=16, **options)),
            ConfigError,
            next(iter(options)),
            "as you say",
        )
    check_error(lambda: read(source), ConfigError, "--image-size")
    check_error(lambda: read(source, flags=FLAGS), ConfigError, "denoising-diffusion-pytorch")
    # Nothing but nearly clean data: all three weights could be anything.
    for snr in (torch.full((50,), 7.0), torch.zeros(50)):
        content["model"]["alphas_cumprod"] = snr / (1 + snr)
        source = written(content, tmp_path)
        check_error(
            lambda source=source: read(source, ConvertOptions(image_size=16)), ConfigError, "--prediction"
        )
    del content["model"]["loss_weight"]
    source = written(content, tmp_path)
    check_error(lambda: read(source, ConvertOptions(image_size=16)), ConfigError, "--prediction")
    assert read(source, ConvertOptions(image_size=16, prediction="sample")).prediction == "sample"


def test_releases_and_networks_that_cannot_be_known_are_refused(tmp_path):
    _, content, _ = lucid(tmp_path, "1.6", average=False)
    model = content["model"]
    cases = {
        "1.7.3": {"version": "1.7.3"},
        "None": {"version": None},
        "self_condition": {"model": model | {"model.init_conv.weight": torch.ones(16, 6, 7, 7)}},
        "frequencies": {"model": model | {"model.time_mlp.0.weights": torch.ones(8)}},
        "two-dimensional": {"model": model | {"model.init_conv.weight": torch.ones(16, 3, 7)}},
        "do not fit": {"model": {name: model[name] for name in model if "final_conv.bias" not in name}},
    }
    for said, change in cases.items():
        source = written(content | change, tmp_path)
        check_error(lambda source=source: read(source, ConvertOptions(image_size=16)), CheckpointError, said)


def test_the_package_does_not_need_the_converters():
    program = "import sys, alphabar.training; print(*{'alphabar.convert', 'diffusers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_command_writes_the_folder_and_says_what_it_saw(tmp_path, capsys):
    _, source = guided(tmp_path, film=True)
    Convert(source=source, out=tmp_path / "out", flags=FLAGS.replace("True", "False"))()
    said = capsys.readouterr().out
    assert "UNet2DModel, NoiseSchedule.linear(steps=1000" in said
    assert "predicts epsilon" in said
    assert load(tmp_path / "out").shape == (3, 16, 16)

"""Latents: encoded and decoded by the VAE's scale and shift, written whole, trained on, and drawn."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from cases import check_error, seeds
from diffusers import AutoencoderKL
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from alphabar.cli._main import run
from alphabar.denoise.files import read_json
from alphabar.errors import CheckpointError, ConfigError, DataError, NoAnswerError, ShapeError
from alphabar.process import addressed
from alphabar.training import TrainConfig, load, load_data, read_image, streams, to_unit, train
from alphabar.training.autoencoder import POSTERIOR, decode, digest, encode, open_vae, scaling
from alphabar.training.latents import read_latents

TRAIN = ["--channels", "8", "16", "--steps", "2", "--batch-size", "16", "--precision", "float32"]
CONFIG = {"in_channels": 3, "latent_channels": 3, "block_out_channels": (1,)}


class Linear(nn.Module):
    """A VAE whose mean is a rotation of the channels, with an exact inverse."""

    def __init__(self, scale=0.5, shift=None, mean=None, std=None, spread=0.0):
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
        self.register_buffer("rotation", rotation)
        self.spread = spread
        settings = {"scaling_factor": scale, "shift_factor": shift, "latents_mean": mean, "latents_std": std}
        self.config = SimpleNamespace(**CONFIG, **settings)

    def encode(self, x):
        mean = torch.einsum("ij,bjhw->bihw", self.rotation, x)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.full_like(mean, self.spread)))

    def decode(self, z):
        return SimpleNamespace(sample=torch.einsum("ji,bjhw->bihw", self.rotation, z))


def pictures(count=5):
    return torch.rand(count, 3, 4, 6, generator=torch.Generator().manual_seed(2)) * 2 - 1


factors, shifts = st.floats(0.05, 20), st.floats(-3, 3)


@given(factors, shifts, st.none() | st.tuples(*[shifts] * 3), st.none() | st.tuples(*[factors] * 3))
def test_decoding_inverts_encoding_whatever_scale_and_shift(scale, shift, mean, std):
    vae, x = Linear(scale, shift, mean, std), pictures()
    z = encode(vae, x)
    m, s = scaling(vae)
    assert torch.allclose(z.double(), s * (vae.encode(x).latent_dist.mean.double() - m), rtol=1e-5, atol=1e-4)
    assert (decode(vae, z) - x).abs().max() < 1e-5  # float32, of numbers up to 5 beside pixels
    assert s.flatten().tolist() == pytest.approx([scale / each for each in std or [1.0] * 3])
    assert m.flatten().tolist() == list(mean or [shift] * 3)


@given(seeds, st.integers(0, 2**40))
def test_samples_of_the_posterior_have_the_address_of_their_image(seed, first):
    vae, x = Linear(spread=0.3), pictures()
    z = encode(vae, x, seed=seed, first=first)
    noise = addressed.normal(z.shape, seed=seed, stream=POSTERIOR, first=first)
    assert torch.allclose(z, encode(vae, x) + 0.5 * 0.3 * noise, atol=1e-6)
    parts = [encode(vae, x[:2], seed=seed, first=first), encode(vae, x[2:], seed=seed, first=first + 2)]
    assert torch.equal(torch.cat(parts), z)


def test_the_stream_of_the_posterior_is_no_other():
    assert POSTERIOR not in {getattr(streams, name) for name in streams.__all__}
    assert 1 << 30 < POSTERIOR < 1 << 31  # between sampling and inpainting


def test_what_no_vae_can_take_or_return_is_named():
    vae, x = Linear(), pictures()
    check_error(lambda: encode(vae, x[:, :1]), ShapeError, "(B, 3, H, W)")
    check_error(lambda: decode(vae, x[:, :2]), ShapeError, "(B, 3, h, w)")
    vae.config.block_out_channels = (1, 1, 1)
    check_error(lambda: encode(vae, x), ShapeError, "multiples of 4")
    vae.config.block_out_channels = (1,)
    vae.rotation.fill_(float("nan"))
    check_error(lambda: encode(vae, x), NoAnswerError, "not finite")
    check_error(lambda: decode(vae, x), NoAnswerError, "not finite")


def make_vae(seed=0, **changes):
    torch.manual_seed(seed)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    widths = {"block_out_channels": (8, 16), "latent_channels": 4, "norm_num_groups": 4}
    return AutoencoderKL(**{**blocks, **widths, "scaling_factor": 0.5, "shift_factor": 0.1, **changes}).eval()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny VAE, pictures of two classes, their latents, and a run on these."""
    root = tmp_path_factory.mktemp("latents")
    make_vae().save_pretrained(root / "vae")
    draw = torch.Generator().manual_seed(0)
    for number in range(20):
        folder = root / "pictures" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (16, 16, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number:02}.png")
    words = ["--vae", str(root / "vae"), "--batch-size", "4"]
    assert run(["encode", str(root / "pictures"), str(root / "out"), *words]) == 0
    assert run(["train", str(root / "out"), "--class-conditional", "--out", str(root / "run"), *TRAIN]) == 0
    return root


def test_a_folder_of_latents_holds_those_of_the_vae_and_what_decodes_them(place):
    vae, images = open_vae(place / "vae"), load_data(str(place / "pictures"))
    data = load_data(str(place / "out"))
    batches = [to_unit(images[range(at, at + 4)].images) for at in range(0, 20, 4)]
    assert torch.equal(data.images, torch.cat([encode(vae, batch) for batch in batches]))
    assert data.shape == (4, 8, 8)
    assert data.classes == ("a", "b")
    assert torch.equal(data.labels, images.labels)
    known = {"vae": str(place / "vae"), "sha256": digest(vae), "shift": [0.1] * 4, "scale": [0.5] * 4}
    assert data.latents == known
    by_need = load_data(str(place / "out"), memory_limit=0)
    assert by_need.tensor is None
    assert torch.equal(by_need[[7, 3, 19, 3]].images, data.images[[7, 3, 19, 3]])


def test_it_goes_on_where_it_was_killed_and_refuses_other_settings(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("alphabar.cli.encoding.PER_FILE", 8)
    out = tmp_path / "out"
    words = [
        "--vae",
        str(place / "vae"),
        "--posterior",
        "sample",
        "--batch-size",
        "8",
        "--precision",
        "bfloat16",
    ]
    command = ["encode", str(place / "pictures"), str(out), *words]
    assert run(command) == 0
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert files == ["000000.safetensors", "000001.safetensors", "000002.safetensors"]
    whole = load_file(out / files[1])
    (out / files[1]).unlink()
    check_error(lambda: load_data(str(out)), DataError, "misses 1 of 3 files", files[1])
    (out / ".alphabar-file-x").mkdir()  # of a killed process
    assert run(command) == 0
    again = load_file(out / files[1])
    assert torch.equal(again["latents"], whole["latents"])
    assert again["latents"].dtype == torch.bfloat16
    assert not list(out.glob(".alphabar*"))
    capsys.readouterr()
    assert run([*command, "--seed", "1"]) == 2
    assert "(seed was 0, is 1)" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("precious")
    assert run([*command[:2], str(tmp_path / "mine"), *words]) == 2
    assert "holds something else, such as a.txt" in capsys.readouterr().err
    (out / files[0]).write_bytes(b"damaged")
    check_error(lambda: load_data(str(out)), DataError, files[0])


def test_a_run_on_latents_samples_pictures_and_latents(place, tmp_path, capsys):
    trained = load(place / "run")
    assert trained.latents == load_data(str(place / "out")).latents
    assert trained.shape == (4, 8, 8)
    options = ["--num", "6", "--steps", "3", "--batch-size", "4", "--precision", "float32"]
    assert run(["sample", str(place / "run"), *options, "--latents"]) == 0
    assert run(["sample", str(place / "run"), *options]) == 0
    data, vae = load_data(str(place / "run" / "latents")), open_vae(place / "vae")
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 1]
    expected = torch.cat([decode(vae, data.images[:4]), decode(vae, data.images[4:])])
    names = [place / "run" / "samples" / f"{number:05}.png" for number in range(6)]
    found = to_unit(torch.stack([read_image(name) for name in names]))
    assert (found - expected).abs().max() <= 0.5 / 127.5 + 1e-5  # half a level of 256
    moved = tmp_path / "moved"
    shutil.copytree(place / "run", moved)
    about = json.loads((moved / "alphabar.json").read_text())
    (moved / "alphabar.json").write_text(
        json.dumps({**about, "latents": {**about["latents"], "vae": "gone"}})
    )
    command = ["sample", str(moved), "--num", "2", "--steps", "2", "--out", str(tmp_path / "drawn")]
    capsys.readouterr()
    assert run(command) == 2
    assert "gone holds no VAE" in capsys.readouterr().err
    make_vae(seed=1).save_pretrained(tmp_path / "other")
    assert run([*command, "--vae", str(tmp_path / "other")]) == 2
    assert "is not the VAE" in capsys.readouterr().err
    assert run([*command, "--vae", str(place / "vae")]) == 0


def test_commands_on_images_refuse_a_run_on_latents(place, capsys):
    for words in (
        ["evaluate", str(place / "run"), "--data", "digits"],
        ["edit", str(place / "run"), "a.png"],
    ):
        assert run(words) == 2
        assert "makes latents, not images" in capsys.readouterr().err
    assert run(["train", "digits", "--out", str(place / "digits"), *TRAIN]) == 0
    for words in (["--latents"], ["--vae", str(place / "vae")]):
        capsys.readouterr()
        assert run(["sample", str(place / "digits"), "--num", "1", "--steps", "1", *words]) == 2
        assert "this run makes images: leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("amount", [{"crop": 0.5}, {"flip": True}, {"jitter": 0.1}])
def test_what_is_for_images_is_refused_for_latents(place, amount):
    config = replace(TrainConfig(data=str(place / "out"), steps=1), **amount)
    check_error(lambda: next(train(config)), ConfigError, "is for images, and the data are latents")


def test_latents_are_not_resized_and_hostile_descriptions_are_named(place, tmp_path):
    check_error(lambda: load_data(str(place / "out"), size=8), DataError, "size is 8")
    good = read_json(place / "out" / "latents.json")
    changes = (
        {"shape": [4, 8]},
        {"shape": 3},
        {"images": -1},
        {"precision": "int4"},
        {"more": 1},
        {"vae": 3},
    )
    for text in ("[", *(json.dumps({**good, **change}) for change in changes)):
        (tmp_path / "latents.json").write_text(text)
        check_error(lambda: read_latents(tmp_path), DataError, "does not describe latents")


def test_a_folder_that_holds_no_vae_is_named(place, tmp_path):
    check_error(lambda: open_vae(tmp_path), CheckpointError, "holds no VAE")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderTiny"}))
    check_error(lambda: open_vae(tmp_path), CheckpointError, "AutoencoderTiny")
    shutil.copytree(place / "vae", tmp_path / "pipeline" / "vae")
    assert digest(open_vae(tmp_path / "pipeline")) == digest(open_vae(place / "vae"))
    (tmp_path / "pipeline/vae/diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    check_error(lambda: open_vae(tmp_path / "pipeline"), CheckpointError, "does not load")
    assert digest(make_vae(shift_factor=0.2)) != digest(make_vae())

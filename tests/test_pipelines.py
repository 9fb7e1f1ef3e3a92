"""Pipelines of diffusers run with our schedulers inside and give the images that they give with their own.

All networks are random and tiny; nothing is fetched.
"""

import json

import diffusers
import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

import alphabar.diffusers  # noqa: E402

SIZE = 16  # pixels; the latents are 8×8
ROUNDING = 1e-4  # of pixels in [0, 1]: five steps through a random network enlarge float32 rounding
WORDS = ("a", "picture", "of", "cat", "dog")


def unet(**changes):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        **changes,
    ).eval()


def vae():
    torch.manual_seed(1)
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIZE,
    ).eval()


def tokenizer(folder):
    """A CLIP tokenizer of single letters."""
    letters = sorted(set("".join(WORDS)))
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 16}))
    return transformers.CLIPTokenizer.from_pretrained(folder)


def text_encoder():
    torch.manual_seed(2)
    config = transformers.CLIPTextConfig(
        hidden_size=8,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        vocab_size=64,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return transformers.CLIPTextModel(config).eval()


def stable_diffusion(folder, channels=4):
    torch.manual_seed(3)
    denoiser = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
    ).eval()
    return {
        "unet": denoiser,
        "vae": vae(),
        "text_encoder": text_encoder(),
        "tokenizer": tokenizer(folder / "letters"),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def dit(folder):
    torch.manual_seed(4)
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=4,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
    ).eval()
    return {"transformer": transformer, "vae": vae()}


def picture():
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


def mask():
    return (torch.arange(SIZE) < SIZE // 2).float().expand(1, 1, SIZE, SIZE)


PROMPT = {"prompt": "a picture of cat", "negative_prompt": "dog", "guidance_scale": 3.0}
PIPELINES = {
    "DDPMPipeline": (lambda _: {"unet": unet()}, dict),
    "DDIMPipeline": (lambda _: {"unet": unet()}, lambda: {"eta": 0.5}),
    "StableDiffusionPipeline": (stable_diffusion, lambda: PROMPT),
    "StableDiffusionImg2ImgPipeline": (
        stable_diffusion,
        lambda: {**PROMPT, "image": picture(), "strength": 0.75},
    ),
    "StableDiffusionInpaintPipeline": (
        stable_diffusion,
        lambda: {**PROMPT, "image": picture(), "mask_image": mask(), "strength": 0.8},
    ),
    "DiTPipeline": (dit, lambda: {"class_labels": [3]}),
}
"""What each is made of, and what it is asked for."""

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS = {
    "DDPMScheduler": {},
    "DDIMScheduler": {"clip_sample": False, "set_alpha_to_one": False},
    "PNDMScheduler": {"skip_prk_steps": True},
    "LMSDiscreteScheduler": {},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "HeunDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverSinglestepScheduler": {},
    "UniPCMultistepScheduler": {},
    "DEISMultistepScheduler": {},
}
PAIRS = [
    ("DDPMPipeline", "DDPMScheduler"),
    ("DDIMPipeline", "DDIMScheduler"),
    *(("StableDiffusionPipeline", name) for name in SCHEDULERS if name != "DDPMScheduler"),
    ("StableDiffusionImg2ImgPipeline", "DDIMScheduler"),
    ("StableDiffusionImg2ImgPipeline", "PNDMScheduler"),
    ("StableDiffusionImg2ImgPipeline", "EulerDiscreteScheduler"),
    ("StableDiffusionImg2ImgPipeline", "DPMSolverMultistepScheduler"),
    ("StableDiffusionInpaintPipeline", "DDIMScheduler"),
    ("StableDiffusionInpaintPipeline", "EulerAncestralDiscreteScheduler"),
    ("StableDiffusionInpaintPipeline", "UniPCMultistepScheduler"),
    ("DiTPipeline", "DDIMScheduler"),
    ("DiTPipeline", "DPMSolverMultistepScheduler"),
]


def scheduler(library, pipeline, name):
    """A scheduler with the β that the pipeline's models are usually trained with."""
    noise = dict(LATENT) if pipeline.startswith("Stable") else {}
    if noise and name != "DPMSolverSinglestepScheduler":  # which has no such argument
        noise["steps_offset"] = 1  # without it these pipelines change the configuration themselves
    return getattr(library, name)(**noise, **SCHEDULERS[name])


def put(pipeline, chosen):
    """Give a pipeline this scheduler itself: DDIMPipeline makes its own out of the one it is given."""
    pipeline.register_modules(scheduler=chosen)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def images(pipeline, asked, steps=5):
    generator = torch.Generator().manual_seed(6)
    return pipeline(**asked, num_inference_steps=steps, generator=generator, output_type="np").images


def is_ours(chosen):
    return type(chosen) is getattr(alphabar.diffusers, type(chosen).__name__)


@pytest.mark.parametrize(("name", "kind"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_ours_inside_gives_their_images_and_comes_back_from_a_folder(name, kind, tmp_path):
    made_of, asking = PIPELINES[name]
    parts, pipeline_class = made_of(tmp_path), getattr(diffusers, name)
    theirs, ours = (scheduler(library, name, kind) for library in (diffusers, alphabar.diffusers))
    expected = images(put(pipeline_class(**parts, scheduler=theirs), theirs), asking())
    pipeline = put(pipeline_class(**parts, scheduler=ours), ours)
    assert is_ours(pipeline.scheduler)
    seen = images(pipeline, asking())
    assert seen.shape == (1, *(2 * (SIZE,) if "vae" in parts else (8, 8)), 3)
    assert np.abs(seen - expected).max() < ROUNDING
    assert np.array_equal(images(pipeline, asking()), seen), "a second run starts afresh"

    pipeline.save_pretrained(tmp_path / "folder")
    assert json.loads((tmp_path / "folder" / "model_index.json").read_text())["scheduler"] == [
        "diffusers",
        kind,
    ]
    loaded = pipeline_class.from_pretrained(tmp_path / "folder")
    assert not is_ours(loaded.scheduler), "the folder is diffusers' own"
    # Loaded weights lie elsewhere in memory, and kernels choose by alignment in which order they add.
    assert np.abs(images(put(loaded, loaded.scheduler), asking()) - expected).max() < ROUNDING
    again = getattr(alphabar.diffusers, kind).from_pretrained(tmp_path / "folder", subfolder="scheduler")
    assert np.abs(images(put(loaded, again), asking()) - seen).max() < ROUNDING


def test_inpainting_with_a_network_that_sees_the_mask(tmp_path):
    parts = stable_diffusion(tmp_path, channels=9)
    asked = PIPELINES["StableDiffusionInpaintPipeline"][1]()
    results = []
    for library in (diffusers, alphabar.diffusers):
        chosen = scheduler(library, "StableDiffusionInpaintPipeline", "DDIMScheduler")
        results.append(
            images(put(diffusers.StableDiffusionInpaintPipeline(**parts, scheduler=chosen), chosen), asked)
        )
    assert np.abs(results[0] - results[1]).max() < ROUNDING


def test_a_learned_variance_in_a_pipeline():
    network = unet(out_channels=6)
    results = []
    for library in (diffusers, alphabar.diffusers):
        chosen = library.DDPMScheduler(variance_type="learned_range")
        results.append(images(put(diffusers.DDPMPipeline(network, chosen), chosen), {}))
    assert np.abs(results[0] - results[1]).max() < ROUNDING


def test_a_scheduler_swapped_by_its_config_as_their_documentation_does(tmp_path):
    parts = stable_diffusion(tmp_path)
    theirs = scheduler(diffusers, "StableDiffusionPipeline", "PNDMScheduler")
    pipeline = put(diffusers.StableDiffusionPipeline(**parts, scheduler=theirs), theirs)
    results = []
    for library in (diffusers, alphabar.diffusers):
        pipeline.scheduler = library.DPMSolverMultistepScheduler.from_config(theirs.config)
        results.append(images(pipeline, PROMPT))
    assert np.abs(results[0] - results[1]).max() < ROUNDING

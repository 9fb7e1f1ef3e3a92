"""Pipelines of flow matching, and of video, run with our schedulers inside and give diffusers' own images.

All networks are random and tiny; nothing is fetched. Text encoders are left out: the prompt is a tensor.
"""

import json

import diffusers
import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

import alphabar.diffusers  # noqa: E402
from alphabar.errors import ConfigError  # noqa: E402

SIZE = 16  # pixels; the latents are 8×8
STEPS = 4
ROUNDING = 1e-4  # of pixels in [0, 1]: a few steps through a random network enlarge float32 rounding


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def vae(channels):
    torch.manual_seed(1)
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=channels,
        sample_size=SIZE,
        shift_factor=0.06,
        scaling_factor=1.5,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


def without_text(*numbers):
    parts = (f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in numbers)
    return dict.fromkeys(parts)


def stable_diffusion_3():
    torch.manual_seed(2)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=SIZE // 2,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=8,
        pooled_projection_dim=12,
        out_channels=4,
    ).eval()
    return {"transformer": transformer, "vae": vae(4), **without_text("", "_2", "_3")}


def flux():
    torch.manual_seed(3)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=12,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=True,
    ).eval()
    return {"transformer": transformer, "vae": vae(4), **without_text("", "_2")}


def stable_video_diffusion():
    torch.manual_seed(4)
    blocks = ("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal")
    unet = diffusers.UNetSpatioTemporalConditionModel(
        sample_size=SIZE // 2,
        in_channels=8,
        out_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=blocks,
        up_block_types=("CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
        cross_attention_dim=8,
        num_attention_heads=2,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
    ).eval()
    decoder = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        sample_size=SIZE,
    ).eval()
    config = transformers.CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=16,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=4,
    )
    return {
        "unet": unet,
        "vae": decoder,
        "image_encoder": transformers.CLIPVisionModelWithProjection(config).eval(),
        "feature_extractor": transformers.CLIPImageProcessor(),
    }


def picture():
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


PROMPT = {
    "prompt_embeds": normal(1, 5, 8, seed=6),
    "pooled_prompt_embeds": normal(1, 12, seed=7),
    "height": SIZE,
    "width": SIZE,
    "guidance_scale": 3.0,
}
GUIDED = {
    **PROMPT,
    "negative_prompt_embeds": normal(1, 5, 8, seed=8),
    "negative_pooled_prompt_embeds": normal(1, 12, seed=9),
}
IMAGE = {"image": picture(), "strength": 0.6}
VIDEO = {"image": picture(), "height": SIZE, "width": SIZE, "num_frames": 2, "decode_chunk_size": 1}
PIPELINES = {
    "StableDiffusion3Pipeline": (stable_diffusion_3, GUIDED),
    "StableDiffusion3Img2ImgPipeline": (stable_diffusion_3, {**GUIDED, **IMAGE}),
    "FluxPipeline": (flux, PROMPT),
    "FluxImg2ImgPipeline": (flux, {**PROMPT, **IMAGE}),
    "StableVideoDiffusionPipeline": (stable_video_diffusion, VIDEO),
}
"""What each is made of, and what it is asked for."""

EULER, HEUN = "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"
DYNAMIC = {"use_dynamic_shifting": True, "shift": 3.0}
VIDEO_LEVELS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
CASES = [
    ("StableDiffusion3Pipeline", EULER, {"shift": 3.0}),
    ("StableDiffusion3Pipeline", EULER, {**DYNAMIC, "shift_terminal": 0.1}),
    ("StableDiffusion3Pipeline", EULER, {"stochastic_sampling": True, "use_beta_sigmas": True}),
    ("StableDiffusion3Pipeline", HEUN, {"shift": 3.0}),
    ("StableDiffusion3Img2ImgPipeline", EULER, {"shift": 3.0}),
    ("StableDiffusion3Img2ImgPipeline", HEUN, {"shift": 3.0}),
    ("FluxPipeline", EULER, DYNAMIC),
    ("FluxPipeline", EULER, {"shift": 3.0}),
    ("FluxImg2ImgPipeline", EULER, DYNAMIC),
    ("StableVideoDiffusionPipeline", "EulerDiscreteScheduler", VIDEO_LEVELS),
]


def put(pipeline, scheduler):
    pipeline.register_modules(scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def images(pipeline, asked, steps=STEPS, **more):
    torch.manual_seed(0)  # Stable Diffusion 3 hands no generator to a scheduler that draws
    generator = torch.Generator().manual_seed(10)
    given = {"num_inference_steps": steps, "generator": generator, "output_type": "np", **asked, **more}
    made = pipeline(**given)
    return np.asarray(made.frames if hasattr(made, "frames") else made.images)


@pytest.mark.parametrize(("name", "kind", "config"), CASES)
def test_ours_inside_gives_their_images_and_comes_back_from_a_folder(name, kind, config, tmp_path):
    make, asked = PIPELINES[name]
    parts, pipeline_class = make(), getattr(diffusers, name)
    theirs, ours = (getattr(library, kind)(**config) for library in (diffusers, alphabar.diffusers))
    expected = images(put(pipeline_class(**parts, scheduler=theirs), theirs), asked)
    assert np.isfinite(expected).all()
    assert expected.std() > 0.01
    pipeline = put(pipeline_class(**parts, scheduler=ours), ours)
    assert type(pipeline.scheduler) is getattr(alphabar.diffusers, kind)
    seen = images(pipeline, asked)
    assert seen.shape == expected.shape
    assert np.abs(seen - expected).max() < ROUNDING
    assert np.array_equal(images(pipeline, asked), seen), "a second run starts afresh"

    pipeline.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["scheduler"] == ["diffusers", kind]
    left_out = {part: None for part, made in parts.items() if made is None}
    loaded = pipeline_class.from_pretrained(tmp_path, **left_out)
    assert type(loaded.scheduler) is getattr(diffusers, kind), "the folder is diffusers' own"
    assert np.abs(images(put(loaded, loaded.scheduler), asked) - expected).max() < ROUNDING
    again = getattr(alphabar.diffusers, kind).from_pretrained(tmp_path, subfolder="scheduler")
    assert np.abs(images(put(loaded, again), asked) - seen).max() < ROUNDING


def made_with(name, schedulers, **more):
    """The images of one pipeline with each of the schedulers, whether it has one already or not."""
    make, asked = PIPELINES[name]
    pipeline = getattr(diffusers, name)(**make(), scheduler=schedulers[0])
    return [images(put(pipeline, scheduler), asked, **more) for scheduler in schedulers]


LIBRARIES = (diffusers, alphabar.diffusers)


OWN_SIGMAS = {"sigmas": [1.0, 0.8, 0.35], "steps": 3}
VARIATIONS = [
    *(
        (name, more)
        for name in ("StableDiffusion3Pipeline", "FluxPipeline")
        for more in (OWN_SIGMAS, {"steps": 1})
    ),
    ("FluxPipeline", {"num_images_per_prompt": 2}),
]


@pytest.mark.parametrize(("name", "more"), VARIATIONS)
def test_own_sigmas_one_step_and_several_images(name, more):
    schedulers = [library.FlowMatchEulerDiscreteScheduler(shift=3.0) for library in LIBRARIES]
    theirs, ours = made_with(name, schedulers, **more)
    assert np.abs(theirs - ours).max() < ROUNDING


def test_in_bfloat16():
    make, asked = PIPELINES["FluxImg2ImgPipeline"]
    half = {name: x.bfloat16() if isinstance(x, torch.Tensor) else x for name, x in asked.items()}
    results = []
    for library in LIBRARIES:
        scheduler = library.FlowMatchEulerDiscreteScheduler(**DYNAMIC)
        pipeline = diffusers.FluxImg2ImgPipeline(**make(), scheduler=scheduler).to(torch.bfloat16)
        results.append(images(put(pipeline, scheduler), half))
    assert np.abs(results[0] - results[1]).max() < 0.05  # a sample may round to its neighbour in each step


def test_a_scheduler_swapped_by_its_config_as_their_documentation_does():
    config = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config
    wants = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    for kind, more in [
        ("FlowMatchHeunDiscreteScheduler", {}),
        ("UniPCMultistepScheduler", wants),
        ("DPMSolverMultistepScheduler", wants),
    ]:
        swapped = [getattr(library, kind).from_config(config, **more) for library in LIBRARIES]
        theirs, ours = made_with("StableDiffusion3Pipeline", swapped)
        assert np.abs(theirs - ours).max() < ROUNDING
    with pytest.raises(ConfigError, match="it would lose shift"):
        alphabar.diffusers.EulerDiscreteScheduler.from_config(config)


def test_installed_in_the_place_of_their_own(tmp_path):
    make, asked = PIPELINES["FluxPipeline"]
    parts, scheduler = make(), diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC)
    pipeline = put(diffusers.FluxPipeline(**parts, scheduler=scheduler), scheduler)
    expected = images(pipeline, asked)
    pipeline.save_pretrained(tmp_path)
    with alphabar.diffusers.install():
        left_out = {part: None for part, made in parts.items() if made is None}
        loaded = diffusers.FluxPipeline.from_pretrained(tmp_path, **left_out)
        assert type(loaded.scheduler) is alphabar.diffusers.FlowMatchEulerDiscreteScheduler
        assert np.abs(images(put(loaded, loaded.scheduler), asked) - expected).max() < ROUNDING

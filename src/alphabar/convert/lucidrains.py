r"""``model-N.pt`` of denoising-diffusion-pytorch, as a network that computes the same.

    ema      ema_model.model.downs.0.0.block1.proj.weight …    the average that samples are drawn from
    model    model.downs.0.0.block1.proj.weight …              the same, not averaged
    model    betas, loss_weight                                the schedule, and what is predicted

``UNet2DModel`` cannot express this network: its attention is linear and has memory, it normalises after its
convolutions, and it has two skips a block. :class:`alphabar.denoise.networks.LucidUNet` is that network. Two
parts become ordinary convolutions: weight standardisation (before 1.7) is applied to the weights, and the
"unshuffle" of 2×2 places with a 1×1 convolution is a 2×2 convolution of stride 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.convert.options import ConvertOptions, Weights, check_agrees, load_weights
from alphabar.denoise.networks import LucidUNet
from alphabar.errors import CheckpointError, ConfigError
from alphabar.schedule import NoiseSchedule
from alphabar.training import Checkpoint

__all__ = ["matches", "to_checkpoint"]

FAMILIES: dict[str, Callable[[int], NoiseSchedule]] = {
    "linear": partial(NoiseSchedule.linear, rescale_to_steps=True),
    "cosine": NoiseSchedule.cosine,
}
"""Its schedules that have a closed form here; its sigmoid schedule is kept as a list of β."""

SHORTEST = 21
"""Steps that the linear schedule needs, whose last β is 20/T."""

LOSS_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "epsilon": torch.ones_like,
    "sample": lambda snr: snr,
    "v_prediction": lambda snr: snr / (1 + snr),
}
"""Its weight of the loss where SNR ≤ 1, which min-SNR weighting leaves alone, by what is predicted."""

RENAMES = (
    (r"\.fn\.norm\.", ".norm."),
    (r"\.fn\.fn\.", "."),
    (r"^(downs\.\d+\.3)\.1\.", r"\1."),
)
"""Old names of attention, and the convolution behind the unshuffle."""

PLAIN = r"(block1|block2)\.proj\.weight$"
AVERAGE, MODEL = "ema_model.model.", "model."


def matches(content: Mapping[str, Any]) -> bool:
    """Return whether this is a file of denoising-diffusion-pytorch."""
    return isinstance(content.get("model"), Mapping) and "model.init_conv.weight" in content["model"]


def to_checkpoint(
    content: Mapping[str, Any], options: ConvertOptions, training: dict[str, Any]
) -> Checkpoint:
    """Return the averaged network with its schedule, prediction and image shape.

    Args:
        content: of a ``model-N.pt``: ``model``, ``ema``, ``step``, ``version``.
        options: ``image_size`` is needed, and ``prediction`` where the file has no ``loss_weight``.
        training: what else is known about the training.

    Raises:
        CheckpointError: a network that needs more than x_t and t, or of a release whose arithmetic cannot be
            seen in its weights.
        ConfigError: an option is missing, or contradicts the file.
    """
    options.require("image_size")
    weights, which = _weights(content)
    schedule = _schedule(content["model"]["betas"].double(), options)
    prediction = _prediction(content["model"], options)
    network = load_weights(_network(weights, options, _is_early(content)), _unfolded(content, weights))
    facts = {"step": content.get("step"), "version": content.get("version"), "weights": which}
    size = options.image_size or 0
    shape = (weights["init_conv.weight"].shape[1], size, size)
    return Checkpoint(network, schedule, prediction, shape, (), {**training, **facts})


def _weights(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
    """Return the network's weights, averaged where the file has them, with the newer names."""
    average = content.get("ema") or {}
    which, found, prefix = (
        ("average", average, AVERAGE) if any(name.startswith(AVERAGE) for name in average)
        else ("last", content["model"], MODEL)
    )  # fmt: skip
    chosen = {name[len(prefix) :]: weight for name, weight in found.items() if name.startswith(prefix)}
    return {_name(name): weight for name, weight in chosen.items()}, which


def _name(old: str) -> str:
    for pattern, new in RENAMES:
        old = re.sub(pattern, new, old)
    return old


def _is_early(content: Mapping[str, Any]) -> bool:
    """Return whether the file is of 1.0 to 1.6, from its version where its names leave it open.

    Raises:
        CheckpointError: 1.7, which changed its arithmetic three times under the same names, or before 1.0.
    """
    if not any(".2.fn." in name for name in content["model"]):
        return False
    version = str(content.get("version"))
    if not re.match(r"1\.[0-6]\.", version):
        raise CheckpointError(
            f"this file is of denoising-diffusion-pytorch {version}: 1.0 to 1.6 and 1.8 to 2.3 can be "
            "converted. Others compute different things with weights of the same names"
        )
    return True


def _unfolded(content: Mapping[str, Any], weights: Weights) -> dict[str, Tensor]:
    """Return weights for plain convolutions."""
    early = _is_early(content)
    plain = dict(weights)
    for name, weight in weights.items():
        if early and re.search(PLAIN, name):
            variance, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
            plain[name] = (weight - mean) * (variance + 1e-5).rsqrt()
        elif re.match(r"downs\.\d+\.3\.weight", name) and weight.shape[-1] == 1:
            plain[name] = weight.reshape(len(weight), -1, 2, 2)
    return plain


def _network(weights: Weights, options: ConvertOptions, early: bool) -> nn.Module:
    _check_conditions(weights)
    levels = len({name.split(".")[1] for name in weights if name.startswith("downs.")})
    attentions = [*(f"downs.{level}.2" for level in range(levels)), "mid_attn"]
    memory = weights.get("mid_attn.mem_kv")
    heads = tuple(_heads(weights, name, options, early) for name in attentions)
    inner = [len(weights[f"{name}.to_qkv.weight"]) // 3 for name in attentions]
    network: nn.Module = LucidUNet(
        sample_size=options.image_size,
        in_channels=weights["init_conv.weight"].shape[1],
        out_channels=len(weights["final_conv.weight"]),
        time_channels=weights["time_mlp.1.weight"].shape[1],
        widths=(
            len(weights["init_conv.weight"]),
            *(len(weights[f"downs.{level}.3.weight"]) for level in range(levels)),
        ),
        full=tuple(f"{name}.to_out.weight" in weights for name in attentions[:-1]),
        heads=heads,
        head_channels=tuple(channels // count for channels, count in zip(inner, heads, strict=True)),
        memory=0 if memory is None else memory.shape[2],
        groups=options.norm_groups if "mid_block1.block1.norm.weight" in weights else 0,
        early=early,
    )
    return network


def _heads(weights: Weights, attention: str, options: ConvertOptions, early: bool) -> int:
    """Return the number of heads: the shape of the memory shows it since 1.9; always 4 before 1.7."""
    memory = weights.get(f"{attention}.mem_kv")
    if memory is not None:
        check_agrees("num_heads", options.num_heads, memory.shape[1])
        return memory.shape[1]
    if early:
        check_agrees("num_heads", options.num_heads, 4)
        return 4
    options.require("num_heads")
    return options.num_heads or 0


def _check_conditions(weights: Weights) -> None:
    channels, out = weights["init_conv.weight"].shape[1], len(weights["final_conv.weight"])
    if weights["init_conv.weight"].ndim != 4:
        raise CheckpointError("this network is not for images: only two-dimensional ones can be converted")
    if "time_mlp.0.weights" in weights:
        raise CheckpointError("this network embeds t by random or learned frequencies, for continuous time")
    if out not in (channels, 2 * channels):
        raise CheckpointError(
            f"this network takes {channels} channels and returns {out}: one with self_condition needs its "
            "last x̂_0 besides x_t, which no sampler here gives it"
        )


def _schedule(betas: Tensor, options: ConvertOptions) -> NoiseSchedule:
    """Return the schedule of the β in the file, which are float32: as a family where they are one."""
    steps = len(betas)
    check_agrees("diffusion_steps", options.diffusion_steps, steps)
    for name, family in FAMILIES.items():
        if steps < SHORTEST:
            break
        schedule = family(steps)
        if torch.allclose(schedule.beta, betas, rtol=1e-6, atol=1e-9):
            check_agrees("schedule", options.schedule, name)
            return schedule
    check_agrees("schedule", options.schedule, "sigmoid")
    return NoiseSchedule.from_beta(betas)


def _prediction(buffers: Weights, options: ConvertOptions) -> str:
    """Return what is predicted, as the weights of the loss show it, or as given."""
    if "loss_weight" not in buffers:
        options.require("prediction")
        return options.parameterisation_name()
    alpha_bar = buffers["alphas_cumprod"].double()
    snr = alpha_bar / (1 - alpha_bar)
    noisy = (snr > 0) & (snr <= 1)
    weights, snr = buffers["loss_weight"].double()[noisy], snr[noisy]
    for name, weight_of in LOSS_WEIGHTS.items():
        if len(snr) and torch.allclose(weights, weight_of(snr), rtol=1e-3, atol=1e-9):
            check_agrees("prediction", options.prediction, name)
            return name
    if options.prediction is None:
        raise ConfigError("the loss_weight in this file does not show what is predicted: give --prediction")
    return options.parameterisation_name()

r"""The U-Net of improved-diffusion and guided-diffusion, as a diffusers model.

    input_blocks.K.0    → down_blocks.L.resnets.J       K = 1 + L (R + 1) + J, R blocks a level
    middle_block.0      → mid_block.resnets.0
    output_blocks.K.0   → up_blocks.U.resnets.J         K = U (R + 1) + J

Nichol & Dhariwal 2021, arXiv 2102.09672; Dhariwal & Nichol 2021, arXiv 2105.05233. What it computes is what
``UNet2DModel`` computes; only names differ, and the order of the rows of q, k and v. Two things need
:class:`alphabar.denoise.networks.GuidedUNet`: a number of heads at levels of different widths, and a first
level of another width than the embedding of t (the 512×512 network).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.convert.options import ConvertOptions, Weights, load_weights
from alphabar.denoise.networks import GuidedUNet
from alphabar.errors import CheckpointError, ConfigError, look_up
from alphabar.schedule import NoiseSchedule
from alphabar.training import Checkpoint

__all__ = ["matches", "to_checkpoint"]

SCHEDULES: dict[str, Callable[[int], NoiseSchedule]] = {
    "linear": partial(NoiseSchedule.linear, rescale_to_steps=True),
    "cosine": NoiseSchedule.cosine,
}
"""The two schedules that these codes know; both scale linear β by 1000/T."""

OUTER = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
MIDDLE = {
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}
INNER = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
    "norm": "group_norm",
    "proj_out": "to_out.0",
    "op": "conv",
    "conv": "conv",
}
"""Names within a block: of a residual block, of an attention, of a change of resolution."""

BLOCKS = {
    (True, True): ("AttnDownBlock2D", "AttnUpBlock2D"),
    (True, False): ("AttnDownBlock2D", "AttnUpBlock2D"),
    (False, True): ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"),
    (False, False): ("DownBlock2D", "UpBlock2D"),
}
"""A level of diffusers, by whether it has attention, and residual blocks that change the resolution."""

FOREIGN = {
    "input_blocks.1.1.transformer_blocks": "a network that attends to text: load it with diffusers",
    "out.1.positional_embedding": "a classifier, not a denoiser",
}
"""Networks with similar names that are not meant here."""


def matches(weights: Weights) -> bool:
    """Return whether these weights have the names of guided-diffusion."""
    return "input_blocks.0.0.weight" in weights


def to_checkpoint(weights: Weights, options: ConvertOptions, training: dict[str, Any]) -> Checkpoint:
    """Return the network with its schedule, prediction, image shape and classes.

    Args:
        weights: a state dict with the original names.
        options: ``image_size``, ``schedule``, ``diffusion_steps`` and ``num_heads`` or ``num_head_channels``
            are needed; ``rescale_timesteps`` where T is not 1000.
        training: what else is known about the training.

    Raises:
        CheckpointError: another kind of network, or weights that are missing or superfluous.
        ConfigError: an option is missing, or contradicts the weights.
        UnknownNameError: a schedule or a prediction that is not known.
    """
    _check_kind(weights)
    layout = Layout(weights)
    options.require("image_size", "schedule", "diffusion_steps")
    size, steps = options.image_size or 0, options.diffusion_steps or 0
    layout.check_size(size)
    schedule = look_up(SCHEDULES, options.schedule or "", "schedule")(steps)
    network = _network(layout, options, size, steps)
    load_weights(network, dict(_renamed(layout, options)) | _embedding_of_steps(layout, options, steps))
    classes = tuple(str(label) for label in range(layout.classes or 0))
    shape = (layout.channels, size, size)
    return Checkpoint(network, schedule, options.parameterisation_name(), shape, classes, training)


def _check_kind(weights: Weights) -> None:
    for prefix, what in FOREIGN.items():
        if any(name.startswith(prefix) for name in weights):
            raise CheckpointError(f"these weights are {what}")
    if "output_blocks.0.0.in_layers.0.weight" not in weights or "middle_block.1.qkv.weight" not in weights:
        raise CheckpointError("these weights are half a U-Net (a classifier?): a denoiser is wanted")


@dataclass(frozen=True)
class Layout:
    """The network's hyperparameters, computed from the names and shapes of its weights."""

    weights: Weights

    @cached_property
    def levels(self) -> int:
        """Levels of resolution: every one but the last ends with a larger image."""
        larger = {name.split(".")[1] for name in self.weights if _enlarges(name)}
        return len(larger) + 1

    @cached_property
    def layers(self) -> int:
        """Residual blocks of a level on the way down."""
        ups = len({name.split(".")[1] for name in self.weights if name.startswith("output_blocks.")})
        if ups % self.levels:
            raise CheckpointError(f"{ups} output blocks do not divide into {self.levels} levels")
        return ups // self.levels - 1

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(
            len(self.get(f"input_blocks.{self.down(level, 0)}.0.out_layers.3.weight"))
            for level in range(self.levels)
        )

    @cached_property
    def attends(self) -> tuple[bool, ...]:
        """Whether a level has attention."""
        return tuple(
            f"input_blocks.{self.down(level, 0)}.1.qkv.weight" in self.weights for level in range(self.levels)
        )

    @cached_property
    def channels(self) -> int:
        """Channels of the images."""
        channels, out = self.get("input_blocks.0.0.weight").shape[1], len(self.get("out.2.weight"))
        if channels == 6 or out not in (channels, 2 * channels):
            raise CheckpointError(
                f"this network takes {channels} channels and returns {out}, as one for super-resolution "
                "does: it needs a small image besides x_t and cannot be sampled from alone"
            )
        return channels

    @property
    def classes(self) -> int | None:
        """How many labels it knows."""
        return len(self.weights["label_emb.weight"]) if "label_emb.weight" in self.weights else None

    @property
    def time_channels(self) -> int:
        """Sinusoids that t becomes."""
        return self.get("time_embed.0.weight").shape[1]

    @property
    def scales(self) -> bool:
        """Whether t scales and shifts (use_scale_shift_norm) rather than adds."""
        block = f"input_blocks.{self.down(0, 0)}.0"
        return len(self.get(f"{block}.emb_layers.1.weight")) == 2 * self.widths[0]

    @property
    def residual_resampling(self) -> bool:
        """Whether residual blocks change the resolution (resblock_updown)."""
        return self.levels > 1 and f"input_blocks.{self.down(0, self.layers)}.0.op.weight" not in self.weights

    def get(self, name: str) -> Tensor:
        """Return a weight.

        Raises:
            CheckpointError: it is missing.
        """
        if name not in self.weights:
            raise CheckpointError(f"{name} is missing: this is no whole U-Net of guided-diffusion")
        return self.weights[name]

    def down(self, level: int, layer: int) -> int:
        """Return the number of an input block; that of layer R is the one that shrinks the image."""
        return 1 + level * (self.layers + 1) + layer

    def check_size(self, size: int) -> None:
        """Refuse images that cannot be halved as often as there are levels."""
        halvings = 2 ** (self.levels - 1)
        if size < halvings or size % halvings:
            raise ConfigError(f"image_size is {size}: a network of {self.levels} levels needs n × {halvings}")

    def modules(self) -> dict[str, str]:
        """Return the new name of every block within the levels."""
        names = dict(MIDDLE)
        for level, attends in enumerate(self.attends):
            for layer in range(self.layers):
                old, new = f"input_blocks.{self.down(level, layer)}", f"down_blocks.{level}"
                names[f"{old}.0"], names[f"{old}.1"] = f"{new}.resnets.{layer}", f"{new}.attentions.{layer}"
            names[f"input_blocks.{self.down(level, self.layers)}.0"] = f"down_blocks.{level}.downsamplers.0"
            up = self.levels - 1 - level
            for layer in range(self.layers + 1):
                old, new = f"output_blocks.{up * (self.layers + 1) + layer}", f"up_blocks.{up}"
                names[f"{old}.0"] = f"{new}.resnets.{layer}"
                names[f"{old}.1"] = f"{new}.attentions.{layer}" if attends else f"{new}.upsamplers.0"
                names[f"{old}.2"] = f"{new}.upsamplers.0"
        return names


def _enlarges(name: str) -> bool:
    parts = name.split(".")
    return parts[0] == "output_blocks" and parts[2] != "0" and parts[3] in ("conv", "in_layers")


def _network(layout: Layout, options: ConvertOptions, size: int, steps: int) -> nn.Module:
    head_channels, heads = _heads(layout, options)
    rescaled = _rescales(options, steps)
    down, up = zip(*(BLOCKS[attends, layout.residual_resampling] for attends in layout.attends), strict=True)
    resampling = "resnet" if layout.residual_resampling else "conv"
    config = {
        "sample_size": size,
        "in_channels": layout.channels,
        "out_channels": len(layout.get("out.2.weight")),
        "down_block_types": down,
        "up_block_types": up[::-1],
        "block_out_channels": layout.widths,
        "layers_per_block": layout.layers,
        "downsample_type": resampling,
        "upsample_type": resampling,
        "attention_head_dim": head_channels,
        "attn_norm_num_groups": 32,
        "resnet_time_scale_shift": "scale_shift" if layout.scales else "default",
        "time_embedding_type": "learned" if rescaled else "positional",
        "num_class_embeds": layout.classes,
        "num_train_timesteps": steps if rescaled else None,
    }
    if heads or layout.time_channels != layout.widths[0]:
        config |= {"num_heads": heads, "time_channels": layout.time_channels}
        return GuidedUNet(**config)  # type: ignore[no-any-return]  # diffusers is untyped
    from diffusers import UNet2DModel

    return UNet2DModel(**config)  # type: ignore[no-any-return]


def _heads(layout: Layout, options: ConvertOptions) -> tuple[int | None, int | None]:
    """Return channels a head, or the number of heads where its levels have different widths."""
    widths = {
        width for width, attends in zip(layout.widths, layout.attends, strict=True) if attends
    } | {layout.widths[-1]}  # fmt: skip
    if (options.num_heads is None) == (options.num_head_channels is None):
        raise ConfigError(
            "these weights do not say how attention divides into heads: give either --num-heads (4 unless "
            "the training said otherwise) or --num-head-channels, as in the training"
        )
    parts = options.num_heads or options.num_head_channels or 0
    wrong = [width for width in sorted(widths) if parts < 1 or width % parts]
    if wrong:
        raise ConfigError(
            f"attention over {wrong[0]} channels does not divide by {parts}: see the flags then"
        )
    if options.num_head_channels:
        return options.num_head_channels, None
    return (widths.pop() // parts, None) if len(widths) == 1 else (None, parts if parts > 1 else None)


def _rescales(options: ConvertOptions, steps: int) -> bool:
    """Return whether the network sees another number than t."""
    if steps == 1000:
        return False
    if options.rescale_timesteps is None:
        raise ConfigError(
            f"T is {steps}: improved-diffusion shows the network 1000 t / T by default, and "
            "guided-diffusion t. Say which by rescale_timesteps, True or False"
        )
    return options.rescale_timesteps


def _embedding_of_steps(layout: Layout, options: ConvertOptions, steps: int) -> dict[str, Tensor]:
    """Return the sinusoids of 1000 t / T as a table, which ``UNet2DModel`` can hold, where t is rescaled."""
    if not _rescales(options, steps):
        return {}
    from diffusers.models.embeddings import get_timestep_embedding

    seen = torch.arange(steps).float() * (1000.0 / steps)
    table: Tensor = get_timestep_embedding(
        seen, layout.time_channels, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    return {"time_proj.weight": table}


def _renamed(layout: Layout, options: ConvertOptions) -> Iterator[tuple[str, Tensor]]:
    modules = layout.modules()
    for name, weight in layout.weights.items():
        path, _, leaf = name.rpartition(".")
        block = ".".join(path.split(".")[: 2 if path.startswith("middle") else 3])
        inner = path[len(block) + 1 :]
        if path in OUTER:
            yield f"{OUTER[path]}.{leaf}", weight
        elif block in modules and inner == "qkv":
            for part, rows in zip("qkv", _divided(weight, options), strict=True):
                yield f"{modules[block]}.to_{part}.{leaf}", rows
        elif block in modules and inner in INNER:
            # 1×1 convolutions over a row of places are linear maps in diffusers
            linear = weight.squeeze(-1) if weight.ndim == 3 else weight
            yield f"{modules[block]}.{INNER[inner]}.{leaf}", linear
        else:
            raise CheckpointError(f"{name} has no place in a U-Net of guided-diffusion")


def _divided(weight: Tensor, options: ConvertOptions) -> tuple[Tensor, ...]:
    """Return the rows of q, k and v of (3C, C, 1) weights or (3C,) biases.

    The old order has q, k and v of a head beside each other; the new one all heads' q, then k, then v.
    """
    flat = weight.squeeze(-1) if weight.ndim == 3 else weight
    if options.new_attention_order:
        return flat.chunk(3)
    channels = len(flat) // 3
    heads = options.num_heads or channels // (options.num_head_channels or channels)
    rows = flat.reshape(heads, 3, -1, *flat.shape[1:])
    return tuple(rows[:, part].flatten(0, 1) for part in range(3))

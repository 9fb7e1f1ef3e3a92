r"""Networks that diffusers' ``UNet2DModel`` cannot express: of foreign weights, and with conditions.

    GuidedUNet   the U-Net of guided-diffusion where it has a number of heads in place of a width of heads,
                 or embeds t in more channels than its first level has (Dhariwal & Nichol 2021)
    LucidUNet    the U-Net of denoising-diffusion-pytorch: linear attention with memory,
                 softmax(k) vᵀ applied to softmax(q), and norms after the convolutions
    ConditionedUNet   a ``UNet2DModel`` that is told conditions (:mod:`alphabar.denoise.conditioned`)

All are diffusers models: ``save_pretrained`` writes safetensors and a ``config.json``, and a pipeline folder
that holds one opens in diffusers wherever this library is installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from alphabar.denoise.conditioned import Conditioning
from alphabar.errors import ConfigError, MissingExtraError

try:
    from diffusers import ConfigMixin, ModelMixin, UNet2DModel
    from diffusers.configuration_utils import register_to_config
    from diffusers.models.attention_processor import Attention
    from diffusers.models.embeddings import TimestepEmbedding, Timesteps
    from diffusers.models.unets.unet_2d import UNet2DOutput
except ImportError:
    raise MissingExtraError("a network of another code", "train") from None

__all__ = ["ConditionedUNet", "GuidedUNet", "LucidUNet"]


class GuidedUNet(UNet2DModel):  # type: ignore[misc]  # diffusers is untyped
    """A ``UNet2DModel`` with as many heads at every level, and its own width for the embedding of t.

    Called as ``network(x_t, t, class_labels)`` with x_t (B, C, H, W), t () or (B,), class_labels (B,).

    Args:
        num_heads: of every attention, whatever its channels; ``UNet2DModel`` fixes channels a head.
        time_channels: sinusoids that t becomes; ``UNet2DModel`` has as many as its first level has channels.
        sample_size: and all others, as in ``UNet2DModel``.
    """

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self,
        num_heads: int | None = None,
        time_channels: int | None = None,
        sample_size: int | tuple[int, int] | None = None,
        in_channels: int = 3,
        out_channels: int = 3,
        down_block_types: Sequence[str] = ("DownBlock2D",),
        up_block_types: Sequence[str] = ("UpBlock2D",),
        block_out_channels: Sequence[int] = (32,),
        layers_per_block: int = 2,
        downsample_type: str = "conv",
        upsample_type: str = "conv",
        attention_head_dim: int | None = None,
        attn_norm_num_groups: int | None = 32,
        resnet_time_scale_shift: str = "default",
        time_embedding_type: str = "positional",
        num_class_embeds: int | None = None,
        num_train_timesteps: int | None = None,
    ) -> None:
        channels = time_channels or block_out_channels[0]
        super().__init__(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=tuple(down_block_types),
            up_block_types=tuple(up_block_types),
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            downsample_type=downsample_type,
            upsample_type=upsample_type,
            attention_head_dim=attention_head_dim,
            attn_norm_num_groups=attn_norm_num_groups,
            resnet_time_scale_shift=resnet_time_scale_shift,
            time_embedding_type=time_embedding_type,
            time_embedding_dim=4 * channels,
            num_class_embeds=num_class_embeds,
            num_train_timesteps=num_train_timesteps,
        )
        learned = time_embedding_type == "learned"
        self.time_proj = (
            nn.Embedding(num_train_timesteps or 0, channels) if learned else Timesteps(channels, True, 0)
        )
        self.time_embedding = TimestepEmbedding(channels, 4 * channels)
        for module in self.modules():
            if num_heads and isinstance(module, Attention):
                module.heads = num_heads


class LucidUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is untyped
    """The U-Net of denoising-diffusion-pytorch 1.0 to 1.6 and 1.8 to 2.3; parameters keep their names.

    Called as ``network(x_t, t)`` with x_t (B, C, H, W), t () or (B,). H and W: multiples of 2^(L − 1).

    Args:
        sample_size: H = W of the images it was trained on.
        in_channels: C of x_t.
        out_channels: C, or 2C with a learned variance.
        time_channels: sinusoids that t becomes.
        widths: channels after the first convolution and after each level, L + 1 numbers.
        full: for each level, whether its attention is the full one; L flags.
        heads: of each level's attention and of the middle, L + 1 numbers.
        head_channels: channels of each of these heads, L + 1 numbers.
        memory: learned keys and values that every attention sees besides the image's.
        groups: of the GroupNorm in the blocks; 0: RMSNorm.
        early: LayerNorm around attention, and values divided by H·W, as before 1.7.
    """

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 3,
        out_channels: int = 3,
        time_channels: int = 64,
        widths: Sequence[int] = (64, 64, 128, 256, 512),
        full: Sequence[bool] = (False, False, False, True),
        heads: Sequence[int] = (4, 4, 4, 4, 4),
        head_channels: Sequence[int] = (32, 32, 32, 32, 32),
        memory: int = 4,
        groups: int = 0,
        early: bool = False,
    ) -> None:
        super().__init__()

        def block(of: int, to: int) -> _Block:
            return _Block(of, to, 4 * time_channels, groups)

        def attention(channels: int, level: int) -> nn.Module:
            linear = not full[level] if level < len(full) else False
            return _Attention(channels, heads[level], head_channels[level], memory, linear, early)

        last, middle = len(widths) - 2, widths[-1]
        self.init_conv = nn.Conv2d(in_channels, widths[0], 7, padding=3)
        self.time_proj = Timesteps(time_channels, flip_sin_to_cos=False, downscale_freq_shift=1)
        self.time_mlp = nn.Sequential(
            nn.Identity(),
            nn.Linear(time_channels, 4 * time_channels),
            nn.GELU(),
            nn.Linear(4 * time_channels, 4 * time_channels),
        )
        self.downs: Any = nn.ModuleList()  # of lists of four, which the types of torch cannot say
        self.ups: Any = nn.ModuleList()
        for level, (of, to) in enumerate(pairwise(widths)):
            smaller = nn.Conv2d(of, to, 3, padding=1) if level == last else nn.Conv2d(of, to, 2, stride=2)
            larger = nn.Conv2d(to, of, 3, padding=1)
            up = larger if level == 0 else nn.Sequential(nn.Upsample(scale_factor=2), larger)
            wide = (block(to + of, to), block(to + of, to))
            self.downs.append(nn.ModuleList([block(of, of), block(of, of), attention(of, level), smaller]))
            self.ups.insert(0, nn.ModuleList([*wide, attention(to, level), up]))
        self.mid_block1, self.mid_block2 = block(middle, middle), block(middle, middle)
        self.mid_attn = attention(middle, last + 1)
        self.final_res_block = block(2 * widths[0], widths[0])
        self.final_conv = nn.Conv2d(widths[0], out_channels, 1)

    def forward(self, sample: Tensor, timestep: Tensor | float, return_dict: bool = True) -> Any:
        """Return what the network says of (B, C, H, W) at level t: ``sample`` of an object, or a tuple."""
        t = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0])
        embedded = self.time_mlp(self.time_proj(t).to(sample.dtype))
        x = first = self.init_conv(sample)
        skips = []
        for block1, block2, attention, smaller in self.downs:
            x = block1(x, embedded)
            skips.append(x)
            x = attention(block2(x, embedded))
            skips.append(x)
            x = smaller(x)
        x = self.mid_block2(self.mid_attn(self.mid_block1(x, embedded)), embedded)
        for block1, block2, attention, larger in self.ups:
            x = block1(torch.cat([x, skips.pop()], dim=1), embedded)
            x = attention(block2(torch.cat([x, skips.pop()], dim=1), embedded))
            x = larger(x)
        x = self.final_conv(self.final_res_block(torch.cat([x, first], dim=1), embedded))
        return UNet2DOutput(sample=x) if return_dict else (x,)


class _ChannelNorm(nn.Module):
    """g · x √C / ‖x‖ over the C channels of each place; early: g · (x − mean) / √(variance + 1e-5)."""

    def __init__(self, channels: int, early: bool = False) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.early = early

    def forward(self, x: Tensor) -> Tensor:
        if self.early:
            variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
            return (x - mean) * (variance + 1e-5).rsqrt() * self.g
        return functional.normalize(x, dim=1) * self.g * math.sqrt(x.shape[1])


class _Convolved(nn.Module):
    """Convolution, norm, and SiLU, with a scale and a shift before the SiLU where given."""

    def __init__(self, of: int, to: int, groups: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(of, to, 3, padding=1)
        self.norm = nn.GroupNorm(groups, to) if groups else _ChannelNorm(to)

    def forward(self, x: Tensor, scale_shift: Sequence[Tensor] = ()) -> Tensor:
        x = self.norm(self.proj(x))
        if scale_shift:
            scale, shift = scale_shift
            x = x * (1 + scale) + shift
        return functional.silu(x)


class _Block(nn.Module):
    """Two of them with a residual connection; the first is scaled and shifted by t."""

    def __init__(self, of: int, to: int, time_width: int, groups: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(time_width, 2 * to))
        self.block1, self.block2 = _Convolved(of, to, groups), _Convolved(to, to, groups)
        self.res_conv = nn.Conv2d(of, to, 1) if of != to else nn.Identity()

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        scale_shift = self.mlp(embedded)[:, :, None, None].chunk(2, dim=1)
        changed: Tensor = self.res_conv(x) + self.block2(self.block1(x, scale_shift))
        return changed


class _Attention(nn.Module):
    """x + attention(norm(x)), linear or full, of ``heads`` heads with d channels each."""

    def __init__(self, channels: int, heads: int, d: int, memory: int, linear: bool, early: bool) -> None:
        super().__init__()
        self.heads, self.linear, self.early = heads, linear, early
        self.norm = _ChannelNorm(channels, early)
        self.to_qkv = nn.Conv2d(channels, 3 * heads * d, 1, bias=False)
        out = nn.Conv2d(heads * d, channels, 1)
        self.to_out = nn.Sequential(out, _ChannelNorm(channels, early)) if linear else out
        shape = (2, heads, d, memory) if linear else (2, heads, memory, d)
        self.mem_kv = nn.Parameter(torch.zeros(shape)) if memory else None

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        qkv = self.to_qkv(self.norm(x)).reshape(batch, 3, self.heads, -1, height * width)
        q, k, v = qkv.unbind(1) if self.linear else qkv.transpose(-1, -2).unbind(1)
        if self.mem_kv is not None:
            places = -1 if self.linear else -2
            k, v = (
                torch.cat([memory.expand(batch, -1, -1, -1), of_image], dim=places)
                for memory, of_image in zip(self.mem_kv, (k, v), strict=True)
            )
        answer = self._linear(q, k, v) if self.linear else _full(q, k, v)
        attended: Tensor = self.to_out(answer.reshape(batch, -1, height, width))
        return attended + x

    def _linear(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        v = v / q.shape[-1] if self.early else v
        context = k.softmax(dim=-1) @ v.transpose(-1, -2)  # (B, heads, d of k, d of v)
        return context.transpose(-1, -2) @ (q.softmax(dim=-2) / math.sqrt(q.shape[-2]))


def _full(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v).transpose(-1, -2)


class ConditionedUNet(UNet2DModel):  # type: ignore[misc]  # diffusers is untyped
    """A ``UNet2DModel`` that takes conditions: called as ``network(x_t, t, class_labels, name=code, …)``.

    Args:
        conditions: the shape of one code of each, by name.
        sample_size: and all others, as in ``UNet2DModel``; in_channels: of x_t alone.
    """

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self,
        conditions: Mapping[str, Sequence[int]],
        sample_size: int | tuple[int, int] | None = None,
        in_channels: int = 3,
        out_channels: int = 3,
        down_block_types: Sequence[str] = ("DownBlock2D",),
        up_block_types: Sequence[str] = ("UpBlock2D",),
        block_out_channels: Sequence[int] = (32,),
        layers_per_block: int = 2,
        add_attention: bool = True,
        norm_num_groups: int = 32,
        num_class_embeds: int | None = None,
    ) -> None:
        super().__init__(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=tuple(down_block_types),
            up_block_types=tuple(up_block_types),
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            add_attention=add_attention,
            norm_num_groups=norm_num_groups,
            num_class_embeds=num_class_embeds,
        )
        images = [name for name, shape in conditions.items() if len(shape) == 3]
        width = 4 * block_out_channels[0]
        self.conditioning = Conditioning(conditions, width, images)
        channels = in_channels + self.conditioning.channels
        self.conv_in = nn.Conv2d(channels, block_out_channels[0], 3, padding=1)
        self.label_embedding = nn.Embedding(num_class_embeds, width) if num_class_embeds else None
        self.class_embedding = nn.Identity()  # of the sum that forward makes

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
        **conditions: Tensor,
    ) -> Any:
        """Return what the network says of (B, C, H, W) at level t: ``sample`` of an object, or a tuple."""
        given, embedding = self.conditioning(sample, conditions)
        if (class_labels is None) != (self.label_embedding is None):
            has = "no classes" if self.label_embedding is None else "classes"
            raise ConfigError(f"class_labels is {class_labels!r:.40}, and the network has {has}")
        if self.label_embedding is not None:
            embedding = embedding + self.label_embedding(class_labels)
        return super().forward(given, timestep, embedding, return_dict)

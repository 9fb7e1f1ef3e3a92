"""The networks of two other codes, as they name and compute things, at any size.

Written from their equations, not from ours: einsum where ours reshapes, weights standardised when used.
"""

import math

import torch
from torch import nn
from torch.nn import functional


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters everywhere: originals start with zeros that would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / math.sqrt(
            parameter[0].numel() if parameter.ndim > 1 else 4
        )
    return network.eval().requires_grad_(False)


class Apply(nn.Module):
    """A place in a Sequential that holds no parameters."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


# --- guided-diffusion and improved-diffusion ---


def norm32(channels):
    return nn.GroupNorm(32, channels)


class GuidedBlock(nn.Module):
    def __init__(self, of, to, width, film, change=None):
        super().__init__()
        self.film, self.change = film, change or (lambda x: x)
        self.in_layers = nn.Sequential(norm32(of), nn.SiLU(), nn.Conv2d(of, to, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * to if film else to))
        self.out_layers = nn.Sequential(norm32(to), nn.SiLU(), nn.Identity(), nn.Conv2d(to, to, 3, padding=1))
        self.skip_connection = nn.Conv2d(of, to, 1) if of != to else nn.Identity()

    def forward(self, x, embedded):
        h = self.in_layers[2](self.change(self.in_layers[1](self.in_layers[0](x))))
        x, says = self.change(x), self.emb_layers(embedded)[..., None, None]
        if self.film:
            scale, shift = says.chunk(2, 1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            return self.skip_connection(x) + self.out_layers[3](functional.silu(h))
        return self.skip_connection(x) + self.out_layers(h + says)


class GuidedAttention(nn.Module):
    def __init__(self, channels, heads, new_order):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = norm32(channels)
        self.qkv, self.proj_out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x, _):
        b, c, n = len(x), x.shape[1], x[0, 0].numel()
        qkv = self.qkv(self.norm(x.reshape(b, c, n)))
        if self.new_order:
            q, k, v = (part.reshape(b, self.heads, -1, n) for part in qkv.chunk(3, 1))
        else:
            q, k, v = qkv.reshape(b, self.heads, -1, n).chunk(3, 2)
        weight = torch.einsum("bhct,bhcs->bhts", q, k).div(math.sqrt(c // self.heads)).softmax(-1)
        return x + self.proj_out(torch.einsum("bhts,bhcs->bhct", weight, v).reshape(b, c, n)).reshape(x.shape)


class Resample(nn.Module):
    def __init__(self, channels, name):
        super().__init__()
        self.add_module(name, nn.Conv2d(channels, channels, 3, stride=2 if name == "op" else 1, padding=1))

    def forward(self, x, _):
        return self.op(x) if hasattr(self, "op") else self.conv(functional.interpolate(x, scale_factor=2))


class GuidedOriginal(nn.Module):
    """``UNetModel`` of guided-diffusion: heads is a number of heads, or head_channels their width."""

    def __init__(
        self,
        *,
        image=3,
        out=3,
        width=32,
        mult=(1, 2),
        layers=1,
        attends=(1,),
        heads=2,
        head_channels=None,
        film=False,
        residual=False,
        new_order=False,
        classes=None,
        see=1.0,
    ):
        super().__init__()
        self.width, self.see = width, see
        time = 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        if classes:
            self.label_emb = nn.Embedding(classes, time)
        widths = [int(m * width) for m in mult]
        last = len(mult) - 1

        def attention(channels):
            return GuidedAttention(channels, channels // head_channels if head_channels else heads, new_order)

        def level_blocks(of, level):
            blocks = [GuidedBlock(of, widths[level], time, film)]
            return nn.ModuleList([*blocks, *([attention(widths[level])] if level in attends else [])])

        channels = widths[0]
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(image, channels, 3, padding=1)])])
        skips = [channels]
        for level, now in enumerate(widths):
            for _ in range(layers):
                self.input_blocks.append(level_blocks(channels, level))
                channels = now
                skips.append(channels)
            if level < last:
                shrink = (
                    GuidedBlock(now, now, time, film, lambda x: functional.avg_pool2d(x, 2))
                    if residual
                    else Resample(now, "op")
                )
                self.input_blocks.append(nn.ModuleList([shrink]))
                skips.append(channels)
        self.middle_block = nn.ModuleList(
            [
                GuidedBlock(channels, channels, time, film),
                attention(channels),
                GuidedBlock(channels, channels, time, film),
            ]
        )
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(mult))):
            for layer in range(layers + 1):
                blocks = level_blocks(channels + skips.pop(), level)
                channels = widths[level]
                if level and layer == layers:
                    grow = (
                        GuidedBlock(
                            channels,
                            channels,
                            time,
                            film,
                            lambda x: functional.interpolate(x, scale_factor=2),
                        )
                        if residual
                        else Resample(channels, "conv")
                    )
                    blocks.append(grow)
                self.output_blocks.append(blocks)
        self.out = nn.Sequential(norm32(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))

    def forward(self, x, t, y=None):
        frequencies = torch.exp(-math.log(10000) * torch.arange(self.width // 2) / (self.width // 2))
        angles = (t.float() * self.see)[:, None] * frequencies
        embedded = self.time_embed(torch.cat([angles.cos(), angles.sin()], -1))
        if y is not None:
            embedded = embedded + self.label_emb(y)
        x, skips = self.input_blocks[0][0](x), []
        skips.append(x)
        for blocks in self.input_blocks[1:]:
            for block in blocks:
                x = block(x, embedded)
            skips.append(x)
        for block in self.middle_block:
            x = block(x, embedded)
        for blocks in self.output_blocks:
            x = torch.cat([x, skips.pop()], 1)
            for block in blocks:
                x = block(x, embedded)
        return self.out(x)


# --- denoising-diffusion-pytorch ---


class Standardised(nn.Conv2d):
    def forward(self, x):
        flat = self.weight.flatten(1)
        flat = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return functional.conv2d(x, flat.view_as(self.weight), self.bias, padding=1)


class LucidNorm(nn.Module):
    def __init__(self, channels, early):
        super().__init__()
        self.early, self.g = early, nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x):
        if self.early:
            x = x - x.mean(1, keepdim=True)
            return x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt() * self.g
        return x / x.norm(dim=1, keepdim=True) * self.g * math.sqrt(x.shape[1])


class LucidConvolved(nn.Module):
    def __init__(self, of, to, era):
        super().__init__()
        self.proj = (Standardised if era == "1.6" else nn.Conv2d)(of, to, 3, padding=1)
        self.norm = LucidNorm(to, False) if era == "2" else nn.GroupNorm(8, to)


class LucidBlock(nn.Module):
    def __init__(self, of, to, time, era):
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(time, 2 * to))
        self.block1, self.block2 = LucidConvolved(of, to, era), LucidConvolved(to, to, era)
        self.res_conv = nn.Conv2d(of, to, 1) if of != to else nn.Identity()

    def forward(self, x, embedded):
        scale, shift = self.mlp(embedded)[..., None, None].chunk(2, 1)
        h = functional.silu(self.block1.norm(self.block1.proj(x)) * (scale + 1) + shift)
        return functional.silu(self.block2.norm(self.block2.proj(h))) + self.res_conv(x)


class LucidAttention(nn.Module):
    def __init__(self, channels, era, full, heads=4, d=32):
        super().__init__()
        self.era, self.full, self.heads = era, full, heads
        if era != "1.6":
            self.norm = LucidNorm(channels, False)
        if era in ("2", "1.9"):
            self.mem_kv = nn.Parameter(torch.randn((2, heads, 4, d) if full else (2, heads, d, 4)))
        self.to_qkv = nn.Conv2d(channels, 3 * heads * d, 1, bias=False)
        out = nn.Conv2d(heads * d, channels, 1)
        self.to_out = out if full else nn.Sequential(out, LucidNorm(channels, era == "1.6"))

    def forward(self, x):
        b, _, height, width = x.shape
        x = self.norm(x) if self.era != "1.6" else x
        q, k, v = (part.reshape(b, self.heads, -1, height * width) for part in self.to_qkv(x).chunk(3, 1))
        if hasattr(self, "mem_kv"):
            memory = self.mem_kv.transpose(2, 3) if self.full else self.mem_kv
            k, v = (
                torch.cat([m.expand(b, -1, -1, -1), part], 3) for m, part in zip(memory, (k, v), strict=True)
            )
        q, d = q if self.full else q.softmax(2), q.shape[2]
        if self.full:
            weight = torch.einsum("bhdi,bhdj->bhij", q / math.sqrt(d), k).softmax(-1)
            h = torch.einsum("bhij,bhdj->bhdi", weight, v)
        else:
            v = v / (height * width) if self.era == "1.6" else v
            context = torch.einsum("bhdn,bhen->bhde", k.softmax(3), v)
            h = torch.einsum("bhde,bhdn->bhen", context, q / math.sqrt(d))
        return self.to_out(h.reshape(b, -1, height, width))


class PreNorm(nn.Module):
    def __init__(self, channels, function):
        super().__init__()
        self.norm, self.fn = LucidNorm(channels, True), function


class Residual(nn.Module):
    def __init__(self, channels, function, era):
        super().__init__()
        self.fn = PreNorm(channels, function)

    def forward(self, x):
        return self.fn.fn(self.fn.norm(x))


def lucid_attention(channels, era, full):
    attention = LucidAttention(channels, era, full)
    return Residual(channels, attention, era) if era == "1.6" else attention


class LucidOriginal(nn.Module):
    """``Unet`` of denoising-diffusion-pytorch, of 1.6, 1.8, 1.9 or 2."""

    def __init__(self, era="2", *, dim=16, mult=(1, 2), channels=3, out=None):
        super().__init__()
        self.dim, time, widths = dim, 4 * dim, [dim, *(dim * m for m in mult)]
        self.init_conv = nn.Conv2d(channels, dim, 7, padding=3)
        self.time_mlp = nn.Sequential(nn.Identity(), nn.Linear(dim, time), nn.GELU(), nn.Linear(time, time))
        last = len(mult) - 1
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for level in range(len(mult)):
            of, to, full = widths[level], widths[level + 1], level == last and era != "1.6"
            unshuffle = nn.Sequential(
                Apply(lambda x: functional.pixel_unshuffle(x, 2)), nn.Conv2d(4 * of, to, 1)
            )
            self.downs.append(
                nn.ModuleList(
                    [
                        LucidBlock(of, of, time, era),
                        LucidBlock(of, of, time, era),
                        lucid_attention(of, era, full),
                        nn.Conv2d(of, to, 3, padding=1) if level == last else unshuffle,
                    ]
                )
            )
        self.mid_block1 = LucidBlock(widths[-1], widths[-1], time, era)
        self.mid_attn = lucid_attention(widths[-1], era, True)
        self.mid_block2 = LucidBlock(widths[-1], widths[-1], time, era)
        for level in reversed(range(len(mult))):
            of, to, full = widths[level], widths[level + 1], level == last and era != "1.6"
            grow = nn.Conv2d(to, of, 3, padding=1)
            larger = nn.Sequential(Apply(lambda x: functional.interpolate(x, scale_factor=2)), grow)
            self.ups.append(
                nn.ModuleList(
                    [
                        LucidBlock(to + of, to, time, era),
                        LucidBlock(to + of, to, time, era),
                        lucid_attention(to, era, full),
                        larger if level else grow,
                    ]
                )
            )
        self.final_res_block = LucidBlock(2 * dim, dim, time, era)
        self.final_conv = nn.Conv2d(dim, out or channels, 1)

    def forward(self, x, t):
        frequencies = torch.exp(-math.log(10000) * torch.arange(self.dim // 2) / (self.dim // 2 - 1))
        angles = t[:, None] * frequencies
        embedded = self.time_mlp(torch.cat([angles.sin(), angles.cos()], -1))
        x = first = self.init_conv(x)
        skips = []
        for block1, block2, attention, smaller in self.downs:
            x = block1(x, embedded)
            skips.append(x)
            x = block2(x, embedded)
            x = attention(x) + x
            skips.append(x)
            x = smaller(x)
        x = self.mid_block1(x, embedded)
        x = self.mid_block2(self.mid_attn(x) + x, embedded)
        for block1, block2, attention, larger in self.ups:
            x = block1(torch.cat([x, skips.pop()], 1), embedded)
            x = block2(torch.cat([x, skips.pop()], 1), embedded)
            x = larger(attention(x) + x)
        return self.final_conv(self.final_res_block(torch.cat([x, first], 1), embedded))

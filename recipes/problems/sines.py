"""Sine curves of random amplitude, frequency and phase: signals, (N, 1, 64).

    x(τ) = A sin(2π f τ + φ),   τ = 0, 1/64, …,   A ~ U(.5, 1.5),  f ~ U(1, 4),  φ ~ U(0, 2π)

Samples are judged by the sine curve that fits each best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from recipes.problems._distances import kolmogorov_smirnov

__all__ = ["draw", "fit", "score"]

LENGTH = 64
AMPLITUDE, FREQUENCY, PHASE = (0.5, 1.5), (1.0, 4.0), (0.0, 2 * math.pi)
TRIED = (0.25, 6.0)  # frequencies of the fit
AT_ONCE = 500


def draw(count: int, seed: int) -> dict[str, Tensor]:
    """Return curves, ``x`` of (N, 1, 64)."""
    random = torch.Generator().manual_seed(seed)
    amplitude, frequency, phase = (
        low + (high - low) * torch.rand(count, 1, generator=random, dtype=torch.float64)
        for low, high in (AMPLITUDE, FREQUENCY, PHASE)
    )
    turns = 2 * math.pi * frequency * _places()
    return {"x": (amplitude * torch.sin(turns + phase)).float()[:, None]}


def score(found: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> dict[str, float]:
    """Return how far curves are from sine curves, and their parameters from the prior.

    residual: the mean share of a curve's power that the nearest sine curve leaves.
    amplitude, frequency, phase: Kolmogorov–Smirnov distance of the fitted ones to the prior.
    spectrum: Σ_k |P_k − P'_k| / Σ_k P'_k of the mean power spectra of the curves and the true ones.
    """
    residual, *parameters = fit(found["x"])
    priors = {"amplitude": AMPLITUDE, "frequency": FREQUENCY, "phase": PHASE}
    power, of_true = (torch.fft.rfft(each["x"].double()).abs().square().mean(0) for each in (found, true))
    return {
        "residual": float(residual.mean()),
        **{
            name: kolmogorov_smirnov(values, *prior)
            for (name, prior), values in zip(priors.items(), parameters, strict=True)
        },
        "spectrum": float((power - of_true).abs().sum() / of_true.sum()),
    }


def fit(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the share of power that the nearest sine curve leaves, and its A, f and φ, (N,) each.

    For given f the nearest curve is a linear fit of sine and cosine; f is searched on two grids, the second
    of a step of .0005.

    Args:
        x: (N, 1, 64).
    """
    parts = []
    for curves in x.double().flatten(1).split(AT_ONCE):
        coarse = torch.arange(*TRIED, 0.025, dtype=torch.float64)
        place = _explained(curves, coarse[:, None]).argmax(0)
        fine = coarse[place] + torch.arange(-0.025, 0.025, 0.0005, dtype=torch.float64)[:, None]
        best = fine.gather(0, _explained(curves, fine).argmax(0)[None])
        parts.append(torch.stack([*_parameters(curves, best)]))
    residual, amplitude, frequency, phase = torch.cat(parts, dim=1)
    return residual, amplitude, frequency, phase


def _places() -> Tensor:
    return torch.arange(LENGTH, dtype=torch.float64) / LENGTH


def _basis(frequency: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return sine and cosine at frequencies (…), (…, 2, 64), their Gram matrix and its inverse."""
    turns = 2 * math.pi * frequency[..., None] * _places()
    basis = torch.stack([turns.sin(), turns.cos()], dim=-2)
    gram = basis @ basis.mT
    return basis, gram, torch.linalg.inv(gram)


def _explained(curves: Tensor, frequency: Tensor) -> Tensor:
    """Return the power that a fit explains, (F, N), of curves (N, 64), at frequencies (F, 1) or (F, N)."""
    basis, _, inverse = _basis(frequency)
    shares = torch.einsum("fnkl,nl->fnk", basis.expand(-1, len(curves), -1, -1), curves)
    return torch.einsum("fnk,fnkj,fnj->fn", shares, inverse.expand(-1, len(curves), -1, -1), shares)


def _parameters(curves: Tensor, frequency: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    basis, _, inverse = _basis(frequency[0])
    shares = torch.einsum("nkl,nl->nk", basis, curves)
    sine, cosine = torch.einsum("nkj,nj->nk", inverse, shares).unbind(1)
    fitted = torch.einsum("nk,nkl->nl", torch.stack([sine, cosine], 1), basis)
    residual = (curves - fitted).square().sum(1) / curves.square().sum(1)
    phase = torch.atan2(cosine, sine) % (2 * math.pi)
    return residual, torch.hypot(sine, cosine), frequency[0], phase

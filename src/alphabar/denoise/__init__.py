"""Network + schedule + parameterisation → x̂_0, and guidance as wrappers of that."""

from alphabar.denoise.denoiser import Denoise, Denoiser, Estimate, network_output
from alphabar.denoise.guidance import (
    ClassifierFree,
    ClassifierGuided,
    Clipped,
    DynamicThreshold,
    dynamic_threshold,
)

__all__ = [
    "ClassifierFree",
    "ClassifierGuided",
    "Clipped",
    "Denoise",
    "Denoiser",
    "DynamicThreshold",
    "Estimate",
    "dynamic_threshold",
    "network_output",
]

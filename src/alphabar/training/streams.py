"""The streams of addressed noise that training draws from.

Sampling draws from 0 … n, one a step, and inpainting from 2³¹ upwards: training lies between them, so that no
image is trained on with the noise that a sample of the same seed starts from.
"""

from __future__ import annotations

__all__ = [
    "BRIGHTNESS",
    "CONDITION",
    "CONTRAST",
    "CROP_LEFT",
    "CROP_SIDE",
    "CROP_TOP",
    "DROPOUT",
    "FLIP",
    "NOISE",
    "ORDER",
    "SATURATION",
    "TIMESTEP",
]

NOISE, TIMESTEP, DROPOUT, FLIP, ORDER = range(1 << 30, (1 << 30) + 5)
CROP_SIDE, CROP_TOP, CROP_LEFT, BRIGHTNESS, CONTRAST, SATURATION = range(ORDER + 1, ORDER + 7)
CONDITION = (1 << 30) + (1 << 20)
"""Of the first condition; the others follow."""

"""Image to image on your photograph: noise it up to a level, and let a network repaint it from there.

    python image_to_image.py photo.jpg

Without an argument it takes a photograph that comes with scikit-learn; nothing is downloaded. For minutes
a small network learns from pieces of the picture itself. One sees, in repainted.png, the picture and what is
made of it from three levels: the higher the level, the less is kept; large forms are kept the longest.
"""

import sys
from pathlib import Path

import torch
from PIL import Image

from alphabar import DPMSolver, image_to_image
from alphabar.training import (
    ImageData,
    TrainConfig,
    read_image,
    sample_photograph,
    to_uint8,
    to_unit,
    train,
    unet,
)


def main(photo: str = "", out: str = "repainted.png", steps: int = 800, side: int = 96) -> None:
    """Repaint a photograph, made a square of ``side`` pixels, after so many steps of training."""
    picture = read_image(photo, size=side, channels=3) if photo else sample_photograph()
    x_0 = to_unit(picture)[None]
    x_0 = torch.nn.functional.interpolate(x_0[..., : min(x_0.shape[-2:])], (side, side), mode="area")
    pieces = to_uint8(x_0).unfold(2, 16, 2).unfold(3, 16, 2)  # (1, 3, rows, columns, 16, 16)
    pieces = pieces.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 16, 16).contiguous()
    config = TrainConfig(steps=steps, batch_size=64, flip=True)
    for step in train(config, data=ImageData(pieces), network=unet((3, 16, 16), channels=(32, 64, 64))):
        if step.step % 100 == 0:
            print(f"step {step.step}  loss {step.loss:.4f}")
    denoiser = step.snapshot().denoiser()  # of convolutions: it takes the whole picture as well as a piece
    levels = (200, 400, 600)
    repainted = [
        image_to_image(denoiser, x_0, DPMSolver(steps=20), t_start=t, seed=0, progress=False) for t in levels
    ]
    strip = to_uint8(torch.cat([x_0, *repainted], dim=3)[0])
    Image.fromarray(strip.permute(1, 2, 0).numpy()).save(out)
    print(f"wrote {Path(out)}: the picture, then repainted from t = {', '.join(map(str, levels))}")


if __name__ == "__main__":
    main(*sys.argv[1:2])

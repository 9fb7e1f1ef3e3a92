"""Where the networks of other codes used to be defined: folders of alphabar 0.1 name them so to diffusers."""

from alphabar.denoise.networks import GuidedUNet, LucidUNet

__all__ = ["GuidedUNet", "LucidUNet"]

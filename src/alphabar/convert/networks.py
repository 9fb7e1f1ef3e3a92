"""Where the networks of other codes used to be defined: folders of alphabar 0.1 name them so to diffusers."""

from alphabar.denoise.networks import GuidedUNet, LucidUNet  # first: it says which extra is missing

from diffusers import ModelMixin  # isort: skip  # diffusers looks for it in the module that a folder names

__all__ = ["GuidedUNet", "LucidUNet", "ModelMixin"]

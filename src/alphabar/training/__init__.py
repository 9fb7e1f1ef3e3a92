"""Data, networks, losses, averages, checkpoints, and training as a generator of steps."""

from alphabar.training.checkpoint import Checkpoint, check_place, load, of, save
from alphabar.training.data import (
    Batch,
    ImageData,
    load_data,
    read_image,
    sample_photograph,
    to_uint8,
    to_unit,
)
from alphabar.training.ema import EMA
from alphabar.training.loop import TrainConfig, TrainStep, has_bfloat16, train
from alphabar.training.network import unet

__all__ = [
    "EMA",
    "Batch",
    "Checkpoint",
    "ImageData",
    "TrainConfig",
    "TrainStep",
    "check_place",
    "has_bfloat16",
    "load",
    "load_data",
    "of",
    "read_image",
    "sample_photograph",
    "save",
    "to_uint8",
    "to_unit",
    "train",
    "unet",
]

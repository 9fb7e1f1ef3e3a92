"""Data, networks, losses, averages, checkpoints, and training as a generator of steps."""

from alphabar.denoise.hub import push_to_hub
from alphabar.denoise.precision import has_bfloat16
from alphabar.training.averages import Averages, Profile, exponential, parse_profile, power
from alphabar.training.checkpoint import Checkpoint, check_place, load, of, save
from alphabar.training.config import TrainConfig
from alphabar.training.data import (
    Batch,
    ImageData,
    array_data,
    load_data,
    read_image,
    sample_photograph,
    to_uint8,
    to_unit,
)
from alphabar.training.doctor import Finding, TrainingWarning, examine, examine_count, examine_images
from alphabar.training.keeping import kept
from alphabar.training.log import logged, read_log
from alphabar.training.loop import TrainStep, train, training_data
from alphabar.training.loss import LOSSES
from alphabar.training.network import unet
from alphabar.training.objective import VARIANCES, Objective
from alphabar.training.posthoc import list_snapshots, post_hoc_weights, reconstruct, write_snapshot
from alphabar.training.timesteps import TIMESTEPS

__all__ = [
    "LOSSES",
    "TIMESTEPS",
    "VARIANCES",
    "Averages",
    "Batch",
    "Checkpoint",
    "Finding",
    "ImageData",
    "Objective",
    "Profile",
    "TrainConfig",
    "TrainStep",
    "TrainingWarning",
    "array_data",
    "check_place",
    "examine",
    "examine_count",
    "examine_images",
    "exponential",
    "has_bfloat16",
    "kept",
    "list_snapshots",
    "load",
    "load_data",
    "logged",
    "of",
    "parse_profile",
    "post_hoc_weights",
    "power",
    "push_to_hub",
    "read_image",
    "read_log",
    "reconstruct",
    "sample_photograph",
    "save",
    "to_uint8",
    "to_unit",
    "train",
    "training_data",
    "unet",
    "write_snapshot",
]

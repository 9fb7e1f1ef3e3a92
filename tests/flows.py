"""What the tests of flow matching's drop-ins share."""

import diffusers
import torch
from cases import normals

import alphabar.diffusers as ours

diffusers.utils.logging.set_verbosity_error()
SHAPE = (2, 3, 4)
X, Z = normals(*SHAPE, seed=1, dtype=torch.float32), normals(*SHAPE, seed=2, dtype=torch.float32)
EULER, HEUN = "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"


def pair(name, **config):
    """Return ours and diffusers'."""
    return getattr(ours, name)(**config), getattr(diffusers, name)(**config)


def network(x, t):
    return torch.tanh(x + 0.5 * x.roll(1, -1) + float(t) / 500 - 1)


def chain(scheduler, x, generator=None, **options):
    """Return where a run from x ends."""
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x, generator=generator, **options).prev_sample
    return x

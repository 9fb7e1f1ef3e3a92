"""The peers, used as their documentation does; what does not import here is left out, with a word."""

from __future__ import annotations

import importlib
import platform
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.kernels import cpu

__all__ = ["absent", "azula_denoiser", "library", "machine", "named", "versions"]

PEERS = {
    "diffusers": "diffusers",
    "azula": "azula.sample",
    "denoising-diffusion-pytorch": "denoising_diffusion_pytorch",
    "smalldiffusion": "smalldiffusion",
}


@lru_cache
def _imported(peer: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(PEERS[peer])
    except ImportError as error:
        return str(error)


def library(peer: str) -> Any:
    """Return a peer's module, or None where it does not import."""
    module = _imported(peer)
    return None if isinstance(module, str) else module


def absent() -> dict[str, str]:
    """Return the peers that are left out, and why."""
    return {peer: _imported(peer) for peer in PEERS if library(peer) is None}


def named(**calls: Callable[[], Any] | None) -> dict[str, Callable[[], Any]]:
    """Return the entrants that there are, ours first; an underscore in a name is shown as a space."""
    return {name.replace("_", " "): call for name, call in calls.items() if call is not None}


def versions() -> dict[str, str]:
    """Return the versions of everything that is compared."""
    names = ["alphabar", "torch", *(peer for peer in PEERS if library(peer) is not None)]
    return {name: metadata.version(name) for name in names} | {"Python": platform.python_version()}


def machine(device: str, threads: int) -> dict[str, str | int]:
    """Return what everything ran on."""
    facts: dict[str, str | int] = {
        "CPU": f"{_cpu()} ({torch.backends.cpu.get_cpu_capability()})",
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "kernels": "native" if getattr(cpu, "LIBRARY", None) else "plain torch",
    }
    return facts | ({"GPU": torch.cuda.get_device_name()} if device == "cuda" else {})


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    told = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return told[0] if told else platform.processor() or platform.machine()


class Halves(nn.Module):
    """A network that costs nothing, in the form that azula asks for: it reads the dtype of a parameter."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), device=device))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return half of x_t."""
        return x_t * 0.5


def azula_denoiser(device: str) -> Any:
    """Return azula's denoiser around that network."""
    from azula.denoise import SimpleDenoiser
    from azula.noise import VPSchedule

    return SimpleDenoiser(Halves(device), VPSchedule())

"""The table of networks: parameters and cost of each, for data of a shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from alphabar.checks import check_count
from alphabar.denoise.nets import NETS
from alphabar.errors import ConfigError
from alphabar.training import TrainConfig
from alphabar.training.config import UNET
from alphabar.training.network import new_network, sized

__all__ = ["Cost", "costs", "list_networks"]

EXAMPLES = ((2,), (1, 64), (1, 28, 28), (1, 16, 16, 16))
"""The shapes that are shown where none is given, by the number of dimensions beside the channels."""


class Cost(NamedTuple):
    """What a network takes."""

    network: str
    shape: tuple[int, ...]
    width: int
    parameters: int
    multiply_adds: int
    """Of one evaluation for one sample: half of what torch counts as floating-point operations."""


def costs(shape: Sequence[int], width: int | None = None) -> Iterator[Cost]:
    """Yield the networks for data of a shape; they are built without memory, and nothing is computed.

    Args:
        shape: (C, …).
        width: of all; by default each its own.

    Raises:
        ConfigError: no network takes such data, or has such a width.
    """
    from torch.utils.flop_counter import FlopCounterMode

    for name in _fitting(shape):
        config = sized(TrainConfig(network=name, width=width), shape, torch.device("cpu"))
        with torch.device("meta"):
            network = new_network(config, tuple(shape), 0).eval()
            x, t = torch.empty(1, *shape), torch.zeros(1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(x, t)
        numbers = sum(parameter.numel() for parameter in network.parameters())
        first = config.width or config.channels[0]
        yield Cost(name, tuple(shape), first, numbers, counter.get_total_flops() // 2)


def _fitting(shape: Sequence[int]) -> list[str]:
    """Return the names of the networks that take data of a shape, that which "auto" chooses first."""
    check_count(**{f"shape[{i}]": n for i, n in enumerate(shape)})
    first = sized(TrainConfig(), shape, torch.device("cpu")).network
    names = [UNET] if first == UNET else []
    names += [name for name, net in NETS.items() if len(shape) - 1 in net.dimensions]
    return sorted(names, key=lambda name: name != first)


def list_networks(shape: Sequence[int], width: int | None) -> None:
    """Print the table, of one shape or of an example of each kind.

    Raises:
        ConfigError: as :func:`costs`; sizes of which no network can be built.
    """
    try:
        found = [cost for each in ([shape] if shape else EXAMPLES) for cost in costs(each, width)]
    except RuntimeError as error:  # numbers that overflow
        raise ConfigError(f"no network can be built for data of shape {tuple(shape)}: {error}") from error
    print(f"{'network':9}{'data':>16}{'width':>7}{'parameters':>14}{'multiply-adds':>16}")
    for name, data, first, numbers, cost in found:
        sizes = "×".join(map(str, data))
        print(f"{name:9}{sizes:>16}{first:>7}{numbers:>14,}{cost:>16,}")
    print(
        'of each shape the first is what "auto" chooses; --network package.module:factory is one of your own'
    )

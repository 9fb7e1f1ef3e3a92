"""What the numbers of a ``config.json`` may be: only sizes that a network can have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from alphabar.checks import MOST_LEVELS
from alphabar.errors import CheckpointError

__all__ = ["check_network", "check_steps_of"]

Check = Callable[[Any], bool]


def _whole(least: int, most: int) -> Check:
    return lambda value: type(value) is int and least <= value <= most


def _several(of: Check, most: int = 32) -> Check:
    return lambda value: isinstance(value, list | tuple) and 0 < len(value) <= most and all(map(of, value))


def _or_none(of: Check) -> Check:
    return lambda value: value is None or of(value)


SIDE, WIDTH, DEPTH = _whole(1, 2**15), _whole(1, 2**16), _whole(1, 64)
RANGES: dict[str, tuple[Check, str]] = {
    "sample_size": (
        _or_none(lambda value: SIDE(value) or _several(SIDE, 2)(value)),
        "pixels, 1 … 32768, one number or two",
    ),
    "in_channels": (WIDTH, "1 … 65536"),
    "out_channels": (WIDTH, "1 … 65536"),
    "block_out_channels": (_several(WIDTH), "1 … 32 numbers, each 1 … 65536"),
    "layers_per_block": (DEPTH, "1 … 64"),
    "norm_num_groups": (WIDTH, "1 … 65536"),
    "attn_norm_num_groups": (_or_none(WIDTH), "1 … 65536, or null"),
    "attention_head_dim": (_or_none(WIDTH), "1 … 65536, or null"),
    "num_class_embeds": (_or_none(_whole(1, 10**7)), "1 … 10000000, or null"),
    "num_train_timesteps": (_or_none(_whole(1, MOST_LEVELS)), f"1 … {MOST_LEVELS}, or null"),
    "down_block_types": (_several(lambda value: isinstance(value, str)), "1 … 32 names"),
    "up_block_types": (_several(lambda value: isinstance(value, str)), "1 … 32 names"),
    "conditions": (
        lambda value: isinstance(value, dict) and all(map(_several(WIDTH, 3), value.values())),
        "for each name 1 … 3 numbers, each 1 … 65536",
    ),
    # of the networks in networks.py
    "num_heads": (_or_none(WIDTH), "1 … 65536, or null"),
    "time_channels": (_or_none(WIDTH), "1 … 65536, or null"),
    "widths": (_several(WIDTH), "1 … 32 numbers, each 1 … 65536"),
    "heads": (_several(WIDTH), "1 … 32 numbers, each 1 … 65536"),
    "head_channels": (_several(WIDTH), "1 … 32 numbers, each 1 … 65536"),
    "memory": (_whole(0, 2**16), "0 … 65536"),
    "groups": (_whole(0, 2**16), "0 … 65536"),
}


def check_network(config: Mapping[str, Any], where: object) -> None:
    """Refuse a network's configuration whose numbers lie outside what any network has.

    Raises:
        CheckpointError: with the first entry that does, and what it may be.
    """
    for name, (fits, range_) in RANGES.items():
        if name in config and not fits(config[name]):
            value = repr(config[name])
            raise CheckpointError(f"{where}: {name} is {value[:60]}: expected {range_}")


def check_steps_of(config: Mapping[str, Any], where: object) -> None:
    """Refuse a scheduler's configuration with a T outside 1 … 1,000,000.

    Raises:
        CheckpointError: its ``num_train_timesteps`` is something else.
    """
    steps = config.get("num_train_timesteps", 1000)
    if not _whole(1, MOST_LEVELS)(steps):
        raise CheckpointError(
            f"{where}: num_train_timesteps is {str(steps)[:60]}: expected a whole number, 1 … {MOST_LEVELS}"
        )

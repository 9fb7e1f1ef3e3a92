"""What accelerate does for a run: one device or many, sharded or not, and agreement among processes."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import alphabar
from alphabar.errors import ConfigError, MissingExtraError

__all__ = [
    "any_process",
    "describe_machine",
    "is_main",
    "is_sharded",
    "make_accelerator",
    "needs_cpu",
    "prepare",
    "processes",
    "share_of",
    "share_out",
    "summed",
    "whole",
]

Item = TypeVar("Item")


def make_accelerator(**options: Any) -> Any:
    """Return accelerate's ``Accelerator``, as the launcher's environment configures it.

    Args:
        options: further ones of ``Accelerator``, such as ``log_with``.

    Raises:
        MissingExtraError: accelerate is not installed.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
    except ImportError:
        raise MissingExtraError("training", "train") from None
    processes()
    accelerator = Accelerator(cpu=needs_cpu(), **options)
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asked and accelerator.distributed_type == DistributedType.MULTI_CPU:
        # accelerate reads this setting on GPUs alone, though sharding works on processors too.
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def needs_cpu() -> bool:
    """Return whether accelerate has to be told ``cpu=True``, so that it finds processes without GPUs."""
    return "LOCAL_RANK" in os.environ and not torch.cuda.is_available()


def share_of(batch_size: int, accumulate: int, accelerator: Any) -> int:
    """Return the images an update of this process.

    Raises:
        ConfigError: a batch that does not divide among the processes and their parts.
    """
    processes: int = accelerator.num_processes
    if batch_size % (processes * accumulate):
        parts = f"{processes} processes" + (f" in {accumulate} parts each" if accumulate > 1 else "")
        raise ConfigError(f"batch_size {batch_size} does not divide among {parts}")
    return batch_size // processes


def prepare(network: nn.Module, optimizer: Any, accelerator: Any) -> tuple[nn.Module, nn.Module, Any]:
    """Return the network as it is called, the network that holds the parameters, and the optimizer."""
    model, optimizer = accelerator.prepare(network.train(), optimizer)
    holder = model if getattr(accelerator, "is_fsdp2", False) else network
    return model, holder, optimizer


def is_sharded(accelerator: Any) -> bool:
    """Return whether each process is to hold a part of each parameter."""
    kind: str = accelerator.distributed_type.value
    return not (kind == "NO" or kind.startswith("MULTI_"))


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in any process; all must ask together."""
    state = processes()
    if state.num_processes == 1:
        return flag
    found = torch.tensor(float(flag), device=state.device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return bool(found)


def summed(tensor: Tensor) -> Tensor:
    """Return the sum of the tensors of all processes, which must ask together."""
    total: Tensor = make_accelerator().reduce(tensor, "sum")
    return total


def processes(**options: Any) -> Any:
    """Return accelerate's ``PartialState``, what this process knows of the others; made by the first call."""
    from accelerate import PartialState

    return PartialState(cpu=needs_cpu(), **_where_to_meet(), **options)


def _where_to_meet() -> dict[str, Any]:
    """Return a store of this restart's own, for ``init_process_group``.

    torchrun keeps one store over all restarts, where processes would find the addresses of those that are
    gone. Agents of several machines may count their restarts differently, so there it is left as it is.
    """
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    alone = os.environ.get("GROUP_WORLD_SIZE") == "1"
    if count == "0" or not alone or torch.distributed.is_initialized():
        return {}
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, world_size = next(rendezvous("env://"))
    return {"store": PrefixStore(f"restart {count}", store), "rank": rank, "world_size": world_size}


def share_out(items: Sequence[Item]) -> tuple[Sequence[Item], bool]:
    """Return those of some items that are this process's to do, and whether it is the first process."""
    state = processes()
    return items[state.process_index :: state.num_processes], bool(state.is_main_process)


def is_main() -> bool:
    """Return whether this is the only process, or the first."""
    return bool(make_accelerator().is_main_process)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor, gathered where it is sharded; all processes must ask together."""
    gathered: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered


def describe_machine() -> dict[str, str]:
    """Return the versions and the hardware that a run depends on."""
    accelerator = make_accelerator()
    on_gpu = accelerator.device.type == "cuda"
    return {
        "alphabar": alphabar.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": f"{_processor()}, {torch.get_num_threads()} threads",
        "device": torch.cuda.get_device_name() if on_gpu else str(accelerator.device),
        "processes": str(accelerator.num_processes),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

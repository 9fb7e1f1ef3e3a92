"""Data that do not fit in memory: the order's cost, the memory of a run, and whether it waits for images.

``python -m benchmarks.data`` prints what it finds, and writes nothing but temporary files.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from alphabar.training import ImageData, TrainConfig, load_data, loop, train
from alphabar.training.order import Order
from alphabar.training.order import batches as all_batches

__all__ = ["main"]

STEPS = 4
BATCH = 32


def main() -> None:
    """Print every measurement."""
    if sys.argv[1:]:
        print(json.dumps(memory(sys.argv[1])))
        return
    for block in (1, 1000):
        print(f"order of 10⁹ images, block {block}: {order(block):.2f} µs an image")
    with tempfile.TemporaryDirectory() as folder:
        peaks = {count: peak(Path(folder), count) for count in (10**3, 10**6)}
        for count, found in peaks.items():
            told = ", ".join(f"{name} {size:.0f} MiB" for name, size in found.items())
            print(f"training on {count:,} images of a parquet file, peak: {told}")
        print(f"difference: {sum(peaks[10**6].values()) - sum(peaks[10**3].values()):.0f} MiB")
        path = write(Path(folder), 20_000, jpeg(64))
        print(f"decoding 64×64 JPEG: {decoding(path):.0f} images a second in 2 processes")
        for name, found in feeding(path).items():
            print(f"update of a small U-Net, {BATCH} images of 64×64, {name}: {found}")


def order(block: int) -> float:
    """Return microseconds of this process an image, for batches of 128."""
    numbers = iter(Order(10**9, seed=0, steps=10**6, batch_size=128, offset=0, share=128, block=block))
    next(numbers)
    began = time.process_time()
    for _ in islice(numbers, 256):
        pass
    return (time.process_time() - began) / (256 * 128) * 1e6


def peak(folder: Path, count: int) -> dict[str, float]:
    """Return the peak memory of a process that trains, and of its workers, in MiB."""
    path = write(folder, count, png(8))
    command = [sys.executable, "-m", "benchmarks.data", path]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True).stdout.splitlines()[-1]))


def memory(path: str) -> dict[str, float]:
    """Train on images that are read when needed; return the peaks of this process and its workers."""
    data = load_data(path, size=8, memory_limit=0)
    config = TrainConfig(data=path, steps=200, batch_size=BATCH, channels=(8, 16))
    found: dict[str, float] = {}
    for step in train(config, data=data, network=Small(data.shape[0])):
        if step.step == config.steps - 8:  # the workers end with the last batch
            workers = [process.pid for process in multiprocessing.active_children()]
            found = {f"worker {k}": _peak(pid) for k, pid in enumerate(workers)}
    return {"the process itself": _peak("self")} | found


class Small(torch.nn.Module):
    """A network that costs next to nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return one convolution of x."""
        out: torch.Tensor = self.layer(x)
        return out


def _peak(pid: int | str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def decoding(path: str) -> float:
    """Return images a second from two worker processes, while nothing else is done."""
    data = load_data(path, memory_limit=0)
    order = Order(len(data), 0, 100, BATCH, 0, BATCH, block=data.block)
    every = all_batches(data, order, torch.device("cpu"))
    for _ in islice(every, 20):
        pass
    began = time.perf_counter()
    return sum(len(batch.images) for batch in islice(every, 60)) / (time.perf_counter() - began)


def feeding(path: str) -> dict[str, str]:
    """Train on images in memory and on images read when needed; return the time of updates and of waits."""
    config, found = TrainConfig(data=path, steps=STEPS + 4, batch_size=BATCH, channels=(16, 32, 32, 48)), {}
    read = load_data(path, memory_limit=0)
    held = ImageData(read[range(BATCH * 4)].images)
    for name, data in {"images in memory": held, "images read when needed": read}.items():
        waits: list[float] = []
        loop.batches = lambda *given, waits=waits, **more: timed(all_batches(*given, **more), waits)
        steps = train(config, data=data)
        for _ in range(3):
            next(steps)
        waits.clear()
        began = time.perf_counter()
        for _ in islice(steps, STEPS):
            pass
        each = (time.perf_counter() - began) / STEPS
        steps.close()
        found[name] = f"{each * 1e3:.0f} ms, of which {sum(waits) / STEPS * 1e3:.1f} ms waiting for images"
    loop.batches = all_batches
    return found


def timed(items: Iterator[Any], waits: list[float]) -> Iterator[Any]:
    """Yield the items, and note how long each was waited for."""
    while True:
        began = time.perf_counter()
        item = next(items, None)
        waits.append(time.perf_counter() - began)
        if item is None:
            return
        yield item


def write(folder: Path, count: int, image: bytes) -> str:
    """Write one image many times into a parquet file with row groups of 1000; return its path."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    path = folder / f"{count}-{len(image)}.parquet"
    part = pa.table({"image": [image] * 1000, "label": [k % 10 for k in range(1000)]})
    # Without a dictionary the images are written one by one, as different ones would be.
    with ParquetWriter(path, part.schema, use_dictionary=False) as writer:
        for _ in range(count // 1000):
            writer.write_table(part)
    return str(path)


def png(side: int) -> bytes:
    """Return a grey square."""
    return _encoded(torch.zeros(side, side, dtype=torch.uint8), "PNG")


def jpeg(side: int) -> bytes:
    """Return colours that change smoothly, at quality 90."""
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1)
    return _encoded((smooth[0] * 255).to(torch.uint8).permute(1, 2, 0), "JPEG")


def _encoded(pixels: torch.Tensor, form: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, form, quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    main()

"""What the tests of several processes run: a training, in parts, that says what it saw.

python tests/distributed.py RUN STEPS [--until STEP] [--die-once FILE] [--every STEPS]
"""

import argparse
import hashlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import torch

from alphabar.training import TrainConfig, kept, train
from alphabar.training import draw as drawing
from alphabar.training.engine import make_accelerator
from alphabar.training.state import newest

CONFIG = TrainConfig(
    channels=(8, 16),
    batch_size=16,
    warmup=1,
    precision="float32",
    class_conditional=True,
    flip=True,
    averages=("power(0.1)",),
)


def seen(first, examples):
    """Return, for each image of a share, its number and what was drawn for it, as digests."""
    rows = zip(*(tensor.cpu() for tensor in examples), strict=True)
    digests = [hashlib.sha256(b"".join(part.numpy().tobytes() for part in row)).hexdigest() for row in rows]
    return {first + k: digest for k, digest in enumerate(digests)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("--until", type=int)
    parser.add_argument("--die-once", type=Path)
    parser.add_argument("--every", type=int, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    images, call = {}, drawing.Draw.__call__

    def spy(draw, batch, first, out):
        examples = call(draw, batch, first, out)
        images.update(seen(first, examples))
        return examples

    drawing.Draw.__call__ = spy
    rank = make_accelerator().process_index
    resume = asked.run if newest(asked.run) else None
    steps = kept(train(replace(CONFIG, steps=asked.steps), resume=resume), asked.run, every=asked.every)
    losses = {}
    for step in steps:
        losses[step.step] = step.loss
        if rank == 1 and step.step == 5 and asked.die_once and not asked.die_once.exists():
            asked.die_once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if step.step == asked.until:
            break
    steps.close()
    place = asked.run / f"seen-{asked.until or asked.steps}-{rank}.json"
    place.write_text(json.dumps({"losses": losses, "images": images}))


if __name__ == "__main__":
    main()

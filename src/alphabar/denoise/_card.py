"""The model card of a pipeline folder: what a network is, how it was trained, and how to sample from it.

The block between the dashes is YAML for model hubs. The licence is the user's to choose, so it stands there
as a comment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import Any

from torch import nn

from alphabar.denoise.conditions import Condition, described, needs
from alphabar.denoise.factories import Factory

__all__ = ["CARD", "card", "with_scores"]

CARD = "README.md"

SHOWN = 20  # names of classes
TEXT = """\
---
library_name: alphabar
{tag}tags: [{tags}]
# license: yours to choose
---
# A denoising diffusion model of {what}

| | |
|---|---|
{facts}

Sample from it, in place of PLACE the name of this folder or of its repository:

```python
import torch
from alphabar import Denoiser, DPMSolver, sample
denoiser = Denoiser.from_pretrained("PLACE"{labels}{conditions}{network})
images = sample(denoiser, (16, {shape}), DPMSolver(steps=20), seed=0)  # (16, {shape}) in [-1, 1]
```

From the command line: `alphabar sample PLACE{option} --num 16 --steps 20 --seed 0`.
"""

OURS = """
This is no diffusers pipeline: its network is alphabar's `{factory}`.
"""

OWN = """
This is no diffusers pipeline: its network is built by the code `{factory}`, which is not in this folder, and
is run when the folder is opened.
"""

LABELLED = """
diffusers opens it, but its `DDPMPipeline` passes neither labels nor conditions and cannot sample it.
"""

TRAINING = """
## How it was trained

| setting | value |
|---|---|
{settings}
"""

SCORES = """\
<!-- scores -->
## How good its samples are

{scores}
<!-- end of scores -->
"""
SCORED = re.compile("<!-- scores -->.*<!-- end of scores -->\\n?", re.DOTALL)


def card(description: Mapping[str, Any], network: nn.Module) -> str:
    """Return the text of the card, Markdown with a YAML head.

    Args:
        description: what ``alphabar.json`` says: schedule, prediction, shape, classes, training.
        network: what was trained.
    """
    shape, factory = description["shape"], Factory.described(description)
    consent, conditions = factory.consent if factory else None, described(description)
    kind, sizes = "images" if len(shape) == 3 else "data", "×".join(map(str, shape))
    classes: Sequence[str] = description["classes"]
    examples = ", ".join(starmap(_example, conditions.items()))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    facts = {
        "network": f"{type(network).__name__}, {parameters:,} parameters",
        "noise schedule": f"`{description['schedule']}`",
        "prediction": f"`{description['prediction']}`",
        "variance": "learned" if description["learned_variance"] else "fixed",
        kind: f"{sizes}, values in [−1, 1]",
        "classes": ", ".join(classes[:SHOWN]) + (" …" if len(classes) > SHOWN else "") or "none",
        **({"conditions": needs(conditions)} if conditions else {}),
        "written by": f"alphabar {description['alphabar']}",
    }
    text = TEXT.format(
        tags="alphabar, ddpm" if factory else "alphabar, diffusers, ddpm",
        tag="pipeline_tag: unconditional-image-generation\n" if kind == "images" else "",
        what=f"{'×'.join(map(str, shape[1:] or shape))} {kind}"
        + (f" of {len(classes)} classes" if classes else ""),
        facts=_rows(facts),
        network=f', network="{consent}"' if consent else "",
        option=(f" --network {consent}" if consent else "")
        + (" --conditions WANTED.npz" if conditions else ""),
        labels=f", labels=torch.arange(16) % {len(classes)}" if classes else "",
        conditions=f", conditions={{{examples}}}" if examples else "",
        shape=", ".join(map(str, shape)),
    )
    training = {f"`{name}`": f"`{value}`" for name, value in description["training"].items()}
    if factory:
        text += (OWN if consent else OURS).format(factory=factory.name)
    elif classes or conditions:
        text += LABELLED
    return text + (TRAINING.format(settings=_rows(training)) if training else "")


def _example(name: str, condition: Condition) -> str:
    """Return code for the values of a condition for 16 samples, about the mean of its training data."""
    mean = sum(condition.mean) / len(condition.mean)
    return f'"{name}": torch.full({(16, *condition.shape)}, {mean:.4g})'


def with_scores(text: str, scores: str) -> str:
    """Return the text of a card with scores, in place of those that it had.

    Args:
        text: of the card, which its owner may have changed.
        scores: Markdown.
    """
    return SCORED.sub("", text).rstrip() + "\n\n" + SCORES.format(scores=scores)


def _rows(facts: Mapping[str, object]) -> str:
    """Return the rows of a table; what would end a cell or a line is written otherwise."""
    cells = (str(value).replace("|", "\\|").replace("\n", " ") for value in facts.values())
    return "\n".join(f"| {name} | {value} |" for name, value in zip(facts, cells, strict=True))

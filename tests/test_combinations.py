"""Network × data × condition: a mistake is a named error before the first step, and all else trains."""

from itertools import product

import pytest
import torch

from alphabar.errors import AlphabarError
from alphabar.training import ImageData, TrainConfig, train
from alphabar.training.trainer import Trainer

N = 8
ANY, PICTURES = "own_networks:without_labels", "own_networks:Transformer"
SHAPES = {
    "vectors": (2,),
    "signals": (1, 16),
    "images": (1, 8, 8),
    "odd images": (1, 7, 9),
    "volumes": (1, 4, 4, 4),
    "films": (1, 2, 4, 4, 4),
}
FITS = {
    "auto": {"vectors", "signals", "images", "odd images", "volumes"},
    "mlp": {"vectors"},
    "unet_1d": {"signals"},
    "unet_2d": {"images", "odd images"},
    "unet_3d": {"volumes"},
    "unet": {"images"},
    "dit": {"signals", "images", "odd images", "volumes"},
    PICTURES: {"images"},
    ANY: set(SHAPES),
}
RNG = torch.Generator().manual_seed(0)
VALUES = {
    "number": torch.arange(float(N)),
    "NaN": torch.tensor([torch.nan, *range(1, N)]),
    "flat": torch.ones(N),
    "few": torch.arange(float(N - 1)),
    "axes": torch.randn(N, 1, 1, 1, 1, 1, generator=RNG),
    "list": list(range(N)),
    "complex": torch.arange(N) * 1j,
}
MISTAKES = {
    "NaN": ("NaN", "row 0 of 8", "give a number"),
    "flat": ("flat is the same in all 8 rows", "leave it out"),
    "few": ("few has 7 values for 8 images", "give one each"),
    "axes": ("axes has values of shape (1, 1, 1, 1, 1)", "give values of at most four"),
    "list": ("list is list", "give a tensor"),
    "complex": ("complex is torch.complex64", "real numbers"),
    "number:vector": ("a vector has 1 axes", "ask for number:number"),
    "hue": ("no condition hue in the data", "choose among"),
}
"""Conditions that are wrong in themselves: what the error says is wrong, and what it says would be right."""
TOLD = ("", "number", "picture:image", "other:image", "labels", "labels without", *MISTAKES)


def mistakes(network, data, told):
    """Yield what the error must say, for each mistake of a combination; nothing for one that is right."""
    axes, is_own = len(SHAPES[data]), network in (ANY, PICTURES)
    if told in MISTAKES:
        yield MISTAKES[told]
    if told == "labels without":
        yield "no labels to train on", "put its images in a folder a class"
    if told == "other:image":
        yield ("the data are of", "give vectors a vector" if axes == 1 else "give both the same sides")
    if told == "picture:image" and axes == 1:
        yield "picture has values of shape (2,)", "ask for picture:vector"
    if told == "picture:image" and axes > 4:
        yield "picture has values of shape", "give values of at most four"
    if is_own and told in ("number", "picture:image"):
        yield "does not take that", "conditions"
    if network == ANY and told == "labels":
        yield "does not take that", "class_labels"
    if data not in FITS[network]:
        yield {
            "auto": ("the data have shape", "expected (C,), (C, L), (C, H, W) or (C, D, H, W)"),
            "unet": ("cannot be halved", "unet_2d")
            if data == "odd images"
            else ("network is 'unet', for images", "choose"),
            PICTURES: (PICTURES, "data of shape"),
        }.get(network, (f"network is '{network}', for data of shape (C", "choose"))


def training(network, data, told):
    """Return a training of one step."""
    shape = SHAPES[data]
    pixels = torch.randint(0, 256, (N, *shape), generator=RNG, dtype=torch.uint8)
    pictures = {"picture": pixels.expand(N, 2, *shape[1:]) if shape[1:] else pixels}
    pictures["other"] = torch.randn(N, 1, *[side + 1 for side in shape[1:4]] or [3], generator=RNG)
    labels = (torch.arange(N) % 2, ("a", "b")) if told == "labels" else ()
    config = TrainConfig(
        network=network,
        width=None if ":" in network else 8,
        steps=1,
        batch_size=4,
        diffusion_steps=4,
        precision="float32",
        class_conditional=told.startswith("labels"),
        conditions=(told,) if told and not told.startswith("labels") else (),
    )
    return train(config, data=ImageData(pixels, *labels, conditions=VALUES | pictures))


GRID = list(product(FITS, SHAPES, TOLD))
WRONG = [each for each in GRID if [*mistakes(*each)]]
RIGHT = [each for each in GRID if each not in WRONG]


def test_the_grid_holds_mistakes_of_every_network_data_and_condition():
    assert len(WRONG) >= 60
    for position, names in enumerate((FITS, SHAPES, {*TOLD} - {"", "number", "labels"})):
        assert {each[position] for each in WRONG} >= {*names}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("network", "data", "told"), WRONG)
def test_what_does_not_go_together_is_named_before_the_first_step(network, data, told, monkeypatch):
    monkeypatch.setattr(Trainer, "update", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(AlphabarError) as caught:
        next(training(network, data, told))
    said = str(caught.value)
    assert any(all(part in said for part in parts) for parts in mistakes(network, data, told)), said


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("network", "data", "told"), RIGHT)
def test_all_else_trains(network, data, told):
    assert next(training(network, data, told)).step == 1

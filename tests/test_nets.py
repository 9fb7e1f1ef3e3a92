"""The networks of the table: shapes, gradients, where they begin, precision, copies, folders, trainings."""

import copy
import json
from dataclasses import replace
from itertools import islice

import pytest
import torch
from cases import check_error, normals
from torch import nn

from alphabar import Denoiser
from alphabar.cli import main
from alphabar.cli._networks import costs
from alphabar.denoise.factories import Factory
from alphabar.denoise.nets import build
from alphabar.denoise.nets._parts import pooled
from alphabar.errors import CheckpointError, ConfigError, ShapeError, UnknownNameError
from alphabar.schedule import NoiseSchedule
from alphabar.training import Checkpoint, ImageData, TrainConfig, kept, load, save, train
from alphabar.training.network import new_network, sized

CASES = [
    *(("mlp", (1,)), ("mlp", (5,))),
    *(("unet_1d", (1, 1)), ("unet_1d", (2, 37)), ("unet_2d", (6, 12, 20)), ("unet_2d", (1, 13, 9))),
    *(("unet_3d", (2, 3, 9, 10)), ("dit", (1, 300)), ("dit", (3, 13, 18)), ("dit", (1, 5, 9, 6))),
]
every_case = pytest.mark.parametrize(("name", "shape"), CASES, ids=lambda value: str(value).replace(" ", ""))
CPU = torch.device("cpu")


def made(name, shape, *, classes=3, times=1, width=16):
    torch.manual_seed(0)
    return build(name, shape, classes=classes, out_channels=times * shape[0], width=width)


def shaken(network):
    """Return it with parameters that are nowhere 0."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def given(shape, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *shape, generator=generator), torch.arange(batch) * 500


def asked(network, shape):
    x, t = given(shape)
    return network(x, t, class_labels=torch.tensor([0, 3]))


@every_case
def test_the_answer_has_the_shape_of_the_data_and_begins_as_zero(name, shape):
    answer = asked(made(name, shape, times=2), shape)
    assert answer.shape == (2, 2 * shape[0], *shape[1:])
    assert not answer.any()


@every_case
def test_every_parameter_and_every_input_counts(name, shape):
    network = shaken(made(name, shape))
    x, t = given(shape)
    x.requires_grad_()
    network(x, t, class_labels=torch.arange(2)).square().sum().backward()
    for key, parameter in network.named_parameters():
        used = parameter.grad[:2] if key == "embedding.labels.weight" else parameter.grad
        assert used.any(), key
    assert x.grad.all()


@every_case
def test_samples_of_a_batch_do_not_meet_and_t_and_label_are_read_in_any_dtype(name, shape):
    network = shaken(made(name, shape)).double()
    x, t = given(shape)
    labels = torch.tensor([1, 3])
    with torch.no_grad():
        both = network(x.double(), t, class_labels=labels)
        apart = [
            network(x[i : i + 1].double(), t[i : i + 1].float(), class_labels=labels[i : i + 1])
            for i in (0, 1)
        ]
        torch.testing.assert_close(torch.cat(apart), both, rtol=1e-9, atol=1e-9)
        others = (
            network(x.double(), t + 1, class_labels=labels),
            network(x.double(), t, class_labels=1 - labels % 2),
        )
        assert all((other != both).flatten(1).any(1).all() for other in others)
        more = torch.ones(2, network.embedding.width, dtype=torch.float64)
        assert (network(x.double(), t, labels, embedding=more) != both).any()
        assert torch.equal(network(x.double(), t, labels, embedding=0 * more), both)


@every_case
def test_it_runs_in_bfloat16_and_a_copy_is_the_same(name, shape):
    network = shaken(made(name, shape))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = asked(network, shape)
    with torch.no_grad():
        exact = asked(network, shape)
        assert torch.equal(asked(copy.deepcopy(network), shape), exact)
    error = (rough.float() - exact).square().mean() / exact.square().mean()
    assert error < 0.05**2  # bfloat16 rounds to 2⁻⁹, some twenty layers one after the other


@pytest.mark.parametrize(("name", "shape"), [("unet_1d", (1, 12)), ("dit", (1, 5, 6))])
def test_it_is_traced_once_for_any_batch(name, shape):
    network = shaken(made(name, shape, classes=0, width=8)).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(network, given(shape), dynamic_shapes=({0: batch}, {0: batch}))
    x, t = given(shape, batch=3)
    torch.testing.assert_close(program.module()(x, t), network(x, t), rtol=1e-5, atol=1e-5)


# --- a t for each place ---

PLACED = [case for case in CASES if case[0] != "mlp"]
every_placed_case = pytest.mark.parametrize(
    ("name", "shape"), PLACED, ids=lambda value: str(value).replace(" ", "")
)


@every_placed_case
@torch.no_grad()
def test_a_t_for_each_place_that_is_everywhere_the_same_is_that_t(name, shape):
    network = shaken(made(name, shape)).double()
    x, t = given(shape)
    labels, more = torch.tensor([0, 3]), normals(2, network.embedding.width)
    one = network(x.double(), t, labels, more)
    for sides in ((), shape[1:2], shape[1:]):  # (B, 1), along the first side, at every place
        each = t.reshape(2, 1, *[1] * len(sides)).expand(2, 1, *sides)
        torch.testing.assert_close(network(x.double(), each, labels, more), one, rtol=1e-9, atol=1e-9)


@every_placed_case
@torch.no_grad()
def test_each_place_is_told_its_t(name, shape):
    """Where t changes at one place the answer changes there, and nothing in another sample."""
    network = shaken(made(name, shape, classes=0)).double()
    x, _ = given(shape)
    t = torch.full((2, 1, shape[1]), 300)
    changed = t.clone()
    changed[0, 0, -1] = 900
    before, after = network(x.double(), t), network(x.double(), changed)
    assert (before != after)[0, :, -1].any()
    assert torch.equal(before[1], after[1])


@torch.no_grad()
def test_what_joins_places_is_told_the_mean_of_their_embeddings():
    """The last group of a side that groups do not divide is filled with its last place."""
    told = normals(2, 5, 1, 3)
    found = pooled(told, 2, (3, 4))
    groups = [told[:, 0:2].mean(1), told[:, 2:4].mean(1), told[:, 4]]
    torch.testing.assert_close(found, torch.stack(groups, 1), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "shape", "t"),
    [
        ("mlp", (5,), (2, 5)),
        ("mlp", (5,), (2, 1)),
        ("unet_1d", (2, 37), (2, 2, 37)),
        ("unet_1d", (2, 37), (2, 1, 36)),
        ("unet_3d", (2, 3, 9, 10), (2, 1, 3, 9, 1, 1)),
        ("dit", (1, 300), (2, 300)),
        ("dit", (1, 300), ()),
    ],
)
def test_a_t_of_another_shape_is_a_named_error(name, shape, t):
    network = made(name, shape, classes=0)
    check_error(lambda: network(torch.zeros(2, *shape), torch.zeros(t)), ShapeError, str(t), "(B,)")


# --- what is refused ---


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: build("unet_2", (1, 8, 8), out_channels=1), UnknownNameError, "unet_2d"),
        (lambda: build("unet_1d", (1, 8, 8), out_channels=1), ConfigError, "unet_2d or dit"),
        (lambda: build("mlp", (1, 8), out_channels=1), ConfigError, "(C,)"),
        (lambda: build("mlp", (1,), out_channels=1, width=12), ConfigError, "multiple of 8"),
        (lambda: build("mlp", (1,), out_channels=1, width=2**20), ConfigError, "at most 16384"),
        (lambda: made("mlp", (4,), classes=0)(torch.zeros(2, 5), torch.zeros(2)), ShapeError, "(B, 4)"),
        (lambda: made("mlp", (4,))(torch.zeros(2, 4), torch.zeros(2)), ConfigError, "class_labels"),
        (lambda: asked(made("mlp", (4,), classes=0), (4,)), ConfigError, "takes no labels"),
        (lambda: TrainConfig(network="unet3d"), ConfigError, "unet_3d"),
        (lambda: TrainConfig(network="mlp", channels=(8,)), ConfigError, "channels"),
        (lambda: TrainConfig(width=8, channels=(8,)), ConfigError, "one of them"),
        (lambda: TrainConfig(width=9), ConfigError, "multiple of 8"),
        (lambda: TrainConfig(network="package.module:factory", width=8), ConfigError, "width"),
        (lambda: sized(TrainConfig(), (1, 2, 3, 4, 5), CPU), ConfigError, "(C, D, H, W)"),
        (lambda: new_network(TrainConfig(network="unet"), (1, 8), 0), ConfigError, "images"),
    ],
)
def test_what_does_not_fit_is_named(call, error, says):
    check_error(call, error, says)


# --- chosen by the data ---


@pytest.mark.parametrize(
    ("shape", "network"),
    [
        *(((2,), "mlp"), ((1, 64), "unet_1d"), ((3, 32, 32), "unet"), ((1, 28, 28), "unet")),
        *(
            ((6, 12, 20), "unet"),
            ((1, 30, 30), "unet_2d"),
            ((1, 9, 8), "unet_2d"),
            ((1, 16, 16, 16), "unet_3d"),
        ),
    ],
)
def test_the_network_suits_the_shape(shape, network):
    config = sized(TrainConfig(), shape, CPU)
    assert config.network == network
    assert (config.width is None) == (network == "unet") == bool(config.channels)
    with torch.device("meta"):
        assert isinstance(new_network(config, shape, 2), nn.Module)
    assert sized(config, shape, CPU) == config


def test_one_number_scales_every_network():
    for shape in [(2,), (1, 8), (1, 8, 8), (1, 4, 4, 4)]:
        narrow, wide = ({cost.network: cost for cost in costs(shape, width)} for width in (16, 32))
        for name, cost in narrow.items():
            assert 3 < wide[name].parameters / cost.parameters < 4.2 or name == "mlp", name
            assert wide[name].multiply_adds > 2 * cost.multiply_adds


def test_the_cost_is_that_of_the_formula():
    (cost,) = costs((3,), width=16)
    told = 128 * 16 + 16 * 16
    blocks = 4 * (16 * 32 + 2 * 16 * 32)
    assert cost.multiply_adds == told + 3 * 16 + blocks + 16 * 3


def test_the_networks_are_listed(capsys):
    assert main(["info", "--networks", "--shape", "2", "8", "--width", "8"]) == 0
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert rows[1:3] == [["unet_1d", "2×8", "8"], ["dit", "2×8", "8"]]
    assert main(["info", "--shape", "2"]) == 2
    assert main(["info", "--networks", "--shape", "2", "0"]) == 2


# --- folders ---


def checkpoint(name="unet_1d", shape=(1, 12), width=8, classes=("a", "b")):
    factory = Factory(name, shape, len(classes), 2 * shape[0], width)
    network = shaken(factory.build(seed=1)).eval()
    return Checkpoint(network, NoiseSchedule.cosine(10), "v_prediction", shape, classes, {}, factory)


@pytest.mark.parametrize(
    ("name", "shape"), [("mlp", (3,)), ("unet_1d", (1, 12)), ("unet_3d", (1, 3, 4, 5)), ("dit", (1, 9))]
)
def test_a_folder_is_opened_without_consent_and_answers_the_same(name, shape, tmp_path):
    saved = checkpoint(name, shape)
    found = load(save(tmp_path / "run", saved))
    assert found.factory == saved.factory
    assert found.shape == shape
    assert found.learns_variance
    assert found.digest() == saved.digest()
    x, labels = given(shape)[0], torch.tensor([0, 2])
    expected = saved.denoiser(labels)(x, 5)
    opened = Denoiser.from_pretrained(tmp_path / "run", labels)
    assert torch.equal(opened(x, 5).x_0, expected.x_0)
    again = Denoiser.from_pretrained(opened.save_pretrained(tmp_path / "again"), labels)
    assert torch.equal(again(x, 5).x_0, expected.x_0)
    card = (tmp_path / "again" / "README.md").read_text("utf-8")
    assert f"alphabar's `{name}`" in card
    assert "--network" not in card


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"width": 2**40}, "width"),
        ({"width": "8"}, "width"),
        ({"width": 16}, "does not load"),
        ({"width": None}, "width"),
        ({"shape": [1, 60_000]}, "does not load"),
        ({"shape": [60_000, 60_000]}, "does not load"),
        ({"shape": [1, 8, 8]}, "unet_2d or dit"),
        ({"factory": "dit"}, "does not load"),
        ({"factory": "unet_9d"}, "package.module:factory"),
        ({"classes": ["x"] * 3}, "does not load"),
    ],
)
def test_a_hostile_description_is_named_and_takes_no_memory(change, says, tmp_path):
    run = save(tmp_path / "run", checkpoint("dit" if change.get("shape", [1])[0] == 60_000 else "unet_1d"))
    about = json.loads((run / "alphabar.json").read_text()) | change
    (run / "alphabar.json").write_text(json.dumps(about))
    check_error(lambda: load(run), (CheckpointError, ConfigError), says)


# --- training ---


def data(shape=(1, 9, 10), count=12):
    pixels = torch.arange(count * torch.Size(shape).numel()) * 37 % 256
    return ImageData(pixels.to(torch.uint8).reshape(count, *shape), torch.arange(count) % 2, ("a", "b"))


CONFIG = TrainConfig(width=8, steps=4, batch_size=4, warmup=1, precision="float32", class_conditional=True)


def test_images_that_the_u_net_cannot_halve_are_trained_kept_and_resumed(tmp_path):
    undisturbed = list(train(CONFIG, data=data()))
    for _ in islice(kept(train(CONFIG, data=data()), tmp_path, every=2), 2):
        pass
    resumed = list(kept(train(replace(CONFIG, width=None), data=data(), resume=tmp_path), tmp_path, every=2))
    assert [step.loss for step in resumed] == [step.loss for step in undisturbed[2:]]
    result = undisturbed[-1].snapshot()
    assert result.training["network"] == "unet_2d"
    assert result.training["width"] == 8
    assert load(tmp_path).digest() == result.digest()


def test_a_run_is_not_gone_on_from_with_another_network(tmp_path):
    for _ in kept(train(replace(CONFIG, steps=1), data=data()), tmp_path, every=1):
        pass
    for other, says in ({"network": "dit"}, "network is 'dit'"), ({"width": 16}, "width is 16"):
        config = replace(CONFIG, **other)
        check_error(lambda c=config: next(train(c, data=data(), resume=tmp_path)), ConfigError, says)


def test_the_command_line_trains_resumes_and_samples_a_transformer(tmp_path, capsys):
    run = str(tmp_path / "run")
    few = [
        "--width",
        "8",
        "--batch-size",
        "8",
        "--tracker",
        "none",
        "--class-conditional",
        "--variance",
        "learned_range",
    ]
    assert (
        main(
            [
                "train",
                "digits",
                "--out",
                run,
                "--network",
                "dit",
                *few,
                "--steps",
                "2",
                "--checkpoint-every",
                "1",
            ]
        )
        == 0
    )
    assert main(["train", run, "--resume", "--steps", "3"]) == 0
    assert main(["sample", run, "--num", "2", "--steps", "2"]) == 0
    assert load(run).training["width"] == 8
    assert main(["train", "digits", "--out", run, "--overwrite", "--network", "unet_3d", "--steps", "1"]) == 2
    assert "(C, D, H, W)" in capsys.readouterr().err

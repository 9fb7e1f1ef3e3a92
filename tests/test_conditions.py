"""What a network is told beside the label: codes, withholding, networks that take them, training and runs."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from cases import check_error
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from alphabar import DDIM, ClassifierFree, Denoiser, NoiseSchedule, sample
from alphabar.denoise.conditions import Condition, codes, described, rows_of, split_kind
from alphabar.denoise.factories import Factory
from alphabar.denoise.networks import ConditionedUNet
from alphabar.errors import CheckpointError, ConfigError, DataError, DtypeError, ShapeError, UnknownNameError
from alphabar.samplers import export_chain
from alphabar.training import ImageData, TrainConfig, kept, load, save, train
from alphabar.training.data import Batch
from alphabar.training.draw import Draw
from alphabar.training.network import unet

F64 = torch.float64
N = 24
RNG = torch.Generator().manual_seed(3)
TOLD = {
    "width": torch.linspace(1, 3, N, dtype=F64),
    "place": torch.randn(N, 3, generator=RNG) * 5 + 2,
    "text": torch.randn(N, 4, 6, generator=RNG),
    "low": torch.randint(0, 256, (N, 2, 8, 8), generator=RNG, dtype=torch.uint8),
}
IMAGES = torch.randint(0, 256, (N, 1, 8, 8), generator=RNG, dtype=torch.uint8)
DATA = ImageData(IMAGES, torch.arange(N) % 3, ("a", "b", "c"), conditions=TOLD)
OWN = "own_networks:Told"
CONFIG = TrainConfig(
    network=OWN,
    steps=6,
    batch_size=8,
    warmup=1,
    precision="float32",
    conditions=tuple(TOLD),
    learning_rate=1e-2,
)
CONDITIONS = {name: Condition.measured(name, values) for name, values in TOLD.items()}
SHAPES = {name: condition.code_shape for name, condition in CONDITIONS.items()}


# --- codes ---


@pytest.mark.parametrize("name", TOLD)
def test_a_code_is_standardised_over_the_training_data_and_says_that_it_is_given(name):
    condition, values = CONDITIONS[name], TOLD[name]
    code = condition.code(values)
    assert code.shape == (N, *condition.code_shape)
    assert code.dtype == torch.float32
    last = {"text": -1}.get(name, 1)
    parts = code.movedim(last, -1)
    assert (parts[..., -1] == 1).all()
    flat = parts[..., :-1].double().reshape(-1, parts.shape[-1] - 1)
    if name != "low":  # pixels have the range of all pixels
        assert torch.allclose(flat.mean(0), torch.zeros(1, dtype=F64), atol=1e-6)
        assert torch.allclose(flat.std(0, correction=0), torch.ones(1, dtype=F64), atol=1e-6)
    back = (flat * torch.tensor(condition.std) + torch.tensor(condition.mean)).float()
    given_ = values[:, None] if name == "width" else values
    assert torch.allclose(back, given_.movedim(last, -1).reshape(-1, parts.shape[-1] - 1).float(), atol=1e-5)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20).filter(lambda some: np.std(some) > 1e-3))
def test_statistics_are_those_of_numpy_and_a_record_keeps_them_to_the_bit(numbers):
    found = Condition.measured("c", torch.tensor(numbers, dtype=F64))
    assert found.mean[0] == pytest.approx(np.mean(numbers), rel=1e-12, abs=1e-9)
    assert found.std[0] == pytest.approx(np.std(numbers), rel=1e-9)
    assert (found.least[0], found.most[0]) == (min(numbers), max(numbers))
    assert described({"conditions": {"c": json.loads(json.dumps(found.record()))}}) == {"c": found}


def test_images_of_8_bits_are_scaled_as_all_images_are():
    code = CONDITIONS["low"].code(TOLD["low"])
    assert torch.allclose(code[:, :2], TOLD["low"].float() / 127.5 - 1, atol=2**-23, rtol=0)


@pytest.mark.parametrize(
    ("values", "kind", "error", "says"),
    [
        (torch.tensor([1.0, torch.nan]), None, DataError, "row 1 of 2"),
        (torch.tensor([[1.0, 2.0], [torch.inf, 1.0]]), None, DataError, "row 1"),
        (torch.ones(5), None, ConfigError, "the same in all 5 rows"),
        (torch.tensor([1e300, -1e300], dtype=F64), None, DataError, "scale"),
        (torch.arange(4.0), "vector", ConfigError, "ask for c:number"),
        (torch.zeros(4, 1, 2, 2), "number", ConfigError, "a number"),
        (torch.arange(4.0), "sound", UnknownNameError, "kind of condition"),
        (torch.zeros(3, dtype=torch.complex64), None, DtypeError, "complex"),
        (torch.zeros(0), None, DataError, "holds no row"),
        (torch.tensor(1.0), None, DataError, "give (N, …) values"),
    ],
)
def test_values_of_which_no_condition_can_be_made(values, kind, error, says):
    check_error(lambda: Condition.measured("c", values, kind), error, says)


@pytest.mark.parametrize("name", ["", "two words", "class_labels", "t", "x-y", "1st", "return_dict"])
def test_names_that_no_network_could_take_as_a_keyword(name):
    check_error(lambda: split_kind(name), ConfigError, "rename")
    check_error(lambda: TrainConfig(conditions=(f"{name}:image",)), ConfigError, "rename")


def test_settings_that_contradict_each_other():
    check_error(lambda: TrainConfig(conditions=("a", "a:image")), ConfigError, "each once")
    check_error(lambda: TrainConfig(conditions=("a:picture",)), UnknownNameError, "'image'")
    check_error(lambda: TrainConfig(condition_dropout=1.5), ConfigError, "condition_dropout is 1.5")


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"width": None}, CheckpointError, "width missing: this network needs width (a number, 1 … 3"),
        ({"height": torch.ones(2)}, CheckpointError, "no condition height"),
        ({"width": torch.ones(2, 1)}, ShapeError, "width has shape (2, 1)"),
        ({"place": torch.ones(2, 4)}, ShapeError, "a vector 3"),
        ({"low": torch.zeros(2, 2, 4, 4)}, ShapeError, "an image 2×8×8"),
        ({"width": torch.tensor([1.0, torch.nan])}, DataError, "row 1"),
        ({"width": 1.5}, DtypeError, "float"),
    ],
)
def test_conditions_that_a_run_cannot_take_are_named_with_what_it_needs(change, error, says):
    given_ = {**rows_of(TOLD, range(2)), **change}
    check_error(lambda: codes(CONDITIONS, {k: v for k, v in given_.items() if v is not None}), error, says)


# --- networks ---


def test_a_network_of_ours_is_the_plain_one_with_more_channels_and_a_sum_of_embeddings():
    torch.manual_seed(0)
    network = unet((1, 8, 8), channels=(8, 8), classes=3, conditions=SHAPES).eval()
    assert isinstance(network, ConditionedUNet)
    inner = network.conditioning
    plain = unet((1 + 3, 8, 8), channels=(8, 8), classes=3, out_channels=1).eval()
    x, t, labels = torch.randn(2, 1, 8, 8), torch.tensor([3, 900]), torch.tensor([0, 2])
    told = codes(CONDITIONS, rows_of(TOLD, range(2)))
    told["place"][1] = told["low"][1] = 0  # withheld from the second
    embedding = network.label_embedding(labels)
    for name, mlp in zip(("place", "text", "width"), inner.embed, strict=True):
        first, _, second = mlp
        added = second(functional.silu(first(told[name])))
        embedding = embedding + (added.mean(1) if name == "text" else added)
    plain.load_state_dict(network.state_dict(), strict=False)
    plain.class_embedding = torch.nn.Identity()
    expected = plain(torch.cat([x, told["low"]], 1), t, embedding).sample
    assert torch.allclose(network(x, t, labels, **told).sample, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("unet_1d", (1, 5)), ("unet_2d", (1, 8, 8)), ("unet_3d", (1, 2, 3, 4)), ("dit", (1, 5))],
)
def test_a_network_of_the_table_is_given_images_as_channels_and_the_sum_of_the_others(name, shape):
    picture = Condition.measured("low", torch.randn(N, 2, *shape[1:], generator=RNG), "image")
    told = {**CONDITIONS, "low": picture}
    factory = Factory(name, shape, classes=3, out_channels=1, width=8, conditions=told)
    network = factory.build().double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=RNG))
    x, t, labels = (
        torch.randn(2, *shape, dtype=F64, generator=RNG),
        torch.tensor([3, 900]),
        torch.tensor([0, 2]),
    )
    given_ = codes(told, rows_of(TOLD | {"low": torch.randn(N, *picture.shape, generator=RNG)}, range(2)))
    embedding = torch.zeros(2, network.network.embedding.width, dtype=F64)
    for each, mlp in zip(("place", "text", "width"), network.conditioning.embed, strict=True):
        added = mlp(given_[each].double())
        embedding = embedding + (added.mean(1) if each == "text" else added)
    expected = network.network(torch.cat([x, given_["low"].double()], 1), t, labels, embedding)
    found = network(x, t, class_labels=labels, **given_)
    assert found.shape == x.shape
    assert torch.equal(found, expected)
    assert not torch.equal(found, network(x, t, class_labels=labels, **given_ | {"low": given_["low"] * 0}))
    assert not torch.equal(
        found, network(x, t, class_labels=labels, **given_ | {"width": given_["width"] * 0})
    )


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"place": None}, ConfigError, "expected low, place, text, width"),
        ({"more": torch.zeros(2, 2)}, ConfigError, "more"),
        ({"place": torch.zeros(2, 3)}, ShapeError, "expected its code, (2, 4)"),
        ({"low": torch.zeros(1, 3, 8, 8)}, ShapeError, "low"),
        ({"class_labels": None}, ConfigError, "has classes"),
    ],
)
def test_a_network_names_codes_that_it_does_not_take(change, error, says):
    network = unet((1, 8, 8), channels=(8,), classes=3, conditions=SHAPES)
    told = {"class_labels": torch.zeros(2).long(), **codes(CONDITIONS, rows_of(TOLD, range(2))), **change}
    told = {name: value for name, value in told.items() if value is not None}
    check_error(lambda: network(torch.zeros(2, 1, 8, 8), torch.zeros(2).long(), **told), error, says)


# --- guidance, on data whose answer is known: c ~ N(0, 1), x_0 | c ~ N(c, s²) ---

S = 0.5
COSINE = NoiseSchedule.cosine()


def exact(x, t, c):
    """E[x_0 | x_t, c] where the code says that c is given, E[x_0 | x_t] where it is withheld."""
    alpha_bar = COSINE.alpha_bar[t].to(x)[:, None]
    value, is_given = c[:, :1].to(x), c[:, 1:].to(x)
    variance = S**2 + (1 - is_given)  # of x_0 around its mean
    gain = variance * alpha_bar.sqrt() / (alpha_bar * variance + 1 - alpha_bar)
    mean = is_given * value
    return mean + gain * (x - alpha_bar.sqrt() * mean)


def of(values):
    return {"c": torch.stack([values, torch.ones_like(values)], 1)}


def test_samples_follow_the_condition():
    values = torch.tensor([-2.0, 0.0, 3.0], dtype=F64).repeat_interleave(4000)
    denoiser = Denoiser(exact, COSINE, "sample", conditions=of(values))
    found = sample(denoiser, (12000, 1), DDIM(100), seed=0, dtype=F64, progress=False).reshape(3, 4000)
    error = S / 4000**0.5  # a fifth of a standard deviation is more than the chain's own
    assert torch.allclose(found.mean(1), torch.tensor([-2.0, 0.0, 3.0], dtype=F64), atol=5 * error)
    assert torch.allclose(found.std(1), torch.tensor(S, dtype=F64), rtol=0.05)


@pytest.mark.parametrize("t", [0, 400, 998])
@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_guidance_withholds_the_conditions_for_the_second_estimate(scale, t):
    x, values = torch.randn(5, 1, dtype=F64, generator=RNG), torch.randn(5, dtype=F64, generator=RNG)
    denoiser = Denoiser(exact, COSINE, "sample", conditions=of(values))
    withheld = replace(denoiser, conditions={"c": torch.zeros(5, 2, dtype=F64)})
    expected = scale * denoiser(x, t).x_0 + (1 - scale) * withheld(x, t).x_0
    assert torch.allclose(ClassifierFree(denoiser, scale)(x, t).x_0, expected, rtol=1e-12, atol=1e-12)


def test_a_chain_with_conditions_is_not_exported(tmp_path):
    network = Factory("unet_2d", (1, 8, 8), classes=0, out_channels=1, width=8, conditions=CONDITIONS).build()
    told = codes(CONDITIONS, rows_of(TOLD, range(2)))
    denoiser = Denoiser(network, COSINE, "sample", conditions=told)
    check_error(
        lambda: export_chain(denoiser, (1, 8, 8), DDIM(2), tmp_path / "a.pt2"),
        ConfigError,
        "is told width, place",
    )


def test_labels_and_conditions_are_withheld_together():
    def network(x, t, class_labels, c):
        return x + class_labels[:, None] + 10 * c[:, :1]

    denoiser = Denoiser(network, COSINE, "sample", torch.tensor([1, 2]), conditions={"c": torch.ones(2, 2)})
    x = torch.zeros(2, 1)
    found = ClassifierFree(denoiser, 2.0, null_label=7)(x, 3).x_0
    assert torch.equal(found, 2 * torch.tensor([[11.0], [12.0]]) - 7)
    check_error(lambda: ClassifierFree(denoiser, 2.0), ConfigError, "null_label")
    bare = Denoiser(network, COSINE, "sample")
    check_error(lambda: ClassifierFree(bare, 2.0), ConfigError, "conditions")
    check_error(lambda: denoiser(torch.zeros(3, 1), 3), ShapeError, "give one a sample")
    nan = {"c": torch.tensor([torch.nan, 1.0])}
    check_error(lambda: Denoiser(network, COSINE, "sample", conditions=nan), DataError, "row 0")


# --- what is random: withheld by address ---


def drawn(config, rows, first):
    batch = Batch(*DATA[[n % N for n in rows]])
    draw = Draw(config, 3, COSINE.log_snr, CONDITIONS)
    return draw(batch, first, torch.empty(2, len(batch.images), 1, 8, 8)[0])


def test_what_is_withheld_does_not_depend_on_how_a_batch_is_shared():
    config = replace(CONFIG, condition_dropout=0.5, class_conditional=True)
    whole = drawn(config, range(16), 32)
    parts = [drawn(config, range(8), 32), drawn(config, range(8, 16), 40)]
    for name, code in whole.conditions.items():
        assert torch.equal(code, torch.cat([part.conditions[name] for part in parts]))


def test_the_shares_that_are_withheld_and_how_they_go_together():
    config, count = replace(CONFIG, condition_dropout=0.2, label_dropout=0.2), 4000
    made = drawn(config, range(count), 0)
    gone = torch.stack([code.flatten(1).eq(0).all(1) for code in made.conditions.values()])
    error = 5 * (0.25 / count) ** 0.5
    assert torch.allclose(gone.double().mean(1), torch.full((4,), 1 - 0.8**2, dtype=F64), atol=error)
    alone = 0.2**4 * 0.8  # of four that are withheld each by itself
    assert float(gone.all(0).double().mean()) == pytest.approx(0.2 + alone, abs=error)
    assert ((made.labels == 3) <= gone.all(0)).all()  # a label goes with all conditions
    one = Draw(config, 0, COSINE.log_snr, {"width": CONDITIONS["width"]})
    batch = Batch(*DATA[[n % N for n in range(count)]])
    code = one(batch, 0, torch.empty(count, 1, 8, 8)).conditions["width"]
    assert float(code.eq(0).all(1).double().mean()) == pytest.approx(0.2, abs=error)


def test_an_image_and_the_image_that_it_is_told_are_moved_together():
    config = replace(CONFIG, flip=True, crop=0.5, condition_dropout=0.0)
    images = ImageData(IMAGES, conditions={"same": IMAGES})
    draw = Draw(config, 0, COSINE.log_snr, {"same": Condition.pixels((1, 8, 8))})
    made = draw(images[range(N)], 0, torch.empty(N, 1, 8, 8))
    assert torch.allclose(made.conditions["same"][:, :1], made.x_0, atol=2**-23, rtol=0)
    assert not torch.equal(made.x_0, IMAGES.float() / 127.5 - 1)


# --- training ---


def training(config=CONFIG, data=DATA, **more):
    return train(config, data=data, **more)


def test_training_finds_the_regression_on_the_condition():
    """The network returns w · code + b whatever x_t is, and the optimum is least squares."""
    c = torch.linspace(-1, 1, 64, dtype=F64)
    pixels = (127.5 + 60 * c + 20 * torch.sin(40 * c)).round().to(torch.uint8)
    data = ImageData(pixels.reshape(64, 1, 1, 1), conditions={"c": c})
    config = replace(
        CONFIG, conditions=("c",), prediction="sample", steps=120, batch_size=64, condition_dropout=0.0
    )
    *_, last = training(replace(config, learning_rate=0.1, ema_decay=0.5), data)
    trained = last.snapshot()
    x_0 = pixels.double() / 127.5 - 1
    slope = float((x_0 * c).mean() / c.square().mean())
    at = torch.tensor([-1.0, 0.0, 0.5])
    found = trained.denoiser(conditions={"c": at})(torch.randn(3, 1, 1, 1), 500).x_0.flatten().double()
    assert torch.allclose(found, x_0.mean() + slope * at.double(), atol=5e-3)


@pytest.mark.parametrize("network", ["unet", "unet_2d", "dit", OWN])
def test_a_run_is_saved_and_opened_to_the_bit(network, tmp_path):
    config = replace(CONFIG, network=network, class_conditional=True, steps=1)
    config = config if network == OWN else replace(config, width=8)
    *_, last = training(config)
    made = last.snapshot()
    save(tmp_path / "run", made)
    consent = network if network == OWN else None
    opened = load(tmp_path / "run", network=consent)
    assert opened.conditions == made.conditions == CONDITIONS
    assert opened.digest() == made.digest()
    x, labels, told = torch.randn(4, 1, 8, 8), torch.arange(4) % 3, rows_of(TOLD, range(4))
    expected = made.guided(labels, 2.0, conditions=told)(x, 7).x_0
    assert torch.equal(opened.guided(labels, 2.0, conditions=told)(x, 7).x_0, expected)
    again = Denoiser.from_pretrained(tmp_path / "run", labels, network=consent, conditions=told)
    assert torch.equal(again(x, 7).x_0, opened.denoiser(labels, conditions=told)(x, 7).x_0)
    again.save_pretrained(tmp_path / "copy")
    assert load(tmp_path / "copy", network=consent).conditions == CONDITIONS
    check_error(lambda: opened.denoiser(labels), CheckpointError, "missing: this network needs width")
    check_error(
        lambda: Denoiser.from_pretrained(tmp_path / "run", labels, network=consent), CheckpointError, "low"
    )


def test_a_network_that_never_was_without_its_conditions_is_not_guided():
    *_, last = training(replace(CONFIG, condition_dropout=0.0, steps=1))
    told = rows_of(TOLD, range(2))
    check_error(
        lambda: last.snapshot().guided(None, 2.0, conditions=told), ConfigError, "condition_dropout 0"
    )


@pytest.mark.parametrize(("network", "stop"), [(OWN, 3), (OWN, 4), ("unet_2d", 3)])
def test_a_resumed_run_is_the_one_that_was_never_stopped(network, stop, tmp_path):
    config = replace(CONFIG, network=network, width=None if network == OWN else 8, class_conditional=True)
    undisturbed = list(training(config))
    for _ in islice(kept(training(config), tmp_path, every=2), stop):
        pass
    again = list(kept(training(config, resume=tmp_path), tmp_path, every=2))
    assert [step.loss for step in again] == [step.loss for step in undisturbed[stop // 2 * 2 :]]
    found, expected = again[-1].state().tensors, undisturbed[-1].state().tensors
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    other = replace(DATA, conditions={**TOLD, "width": TOLD["width"] * 2})
    check_error(
        lambda: next(training(config, other, resume=tmp_path)), ConfigError, "the data have conditions"
    )
    fewer = replace(config, conditions=("width",))
    check_error(lambda: next(training(fewer, resume=tmp_path)), ConfigError, "conditions is", "begun with")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "sound"}, "sound"),
        ({"shape": [3]}, "shape"),
        ({"shape": [2**40]}, "kind"),
        ({"mean": [1.0, 2.0]}, "expected 1 finite"),
        ({"std": [0.0]}, "positive"),
        ({"std": [float("nan")]}, "finite"),
        ({"least": None}, "finite"),
        ({"most": "1"}, "finite"),
    ],
)
def test_a_description_that_no_condition_can_have_is_an_error(change, says):
    record = CONDITIONS["width"].record()
    check_error(lambda: described({"conditions": {"width": record | change}}), CheckpointError, says)


@pytest.mark.parametrize("found", [[1], {"a b": {}}, {"width": 3}, {"width": {}}, "width"])
def test_a_description_of_another_form_is_an_error(found):
    check_error(lambda: described({"conditions": found}), CheckpointError, "conditions are")

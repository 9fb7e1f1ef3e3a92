"""Features by name: a trained classifier, files, functions, torch-fidelity's networks; and their cache."""

import sys

import onnx
import pytest
import torch
from cases import check_error, normals
from fidelity import import_fidelity
from onnx import TensorProto, helper

from alphabar.errors import CheckpointError, ConfigError, DataError, UnknownNameError
from alphabar.evaluation import features_by_name
from alphabar.evaluation.cache import cached, hash_of
from alphabar.training import ImageData, load_data


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def some_images(count=8, channels=3, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


DATA = ImageData(some_images())


def test_trained_features_tell_classes_apart_that_they_were_trained_on():
    digits = load_data("digits").subset(range(600))
    features = features_by_name("train", digits)
    found, labels = features(digits.images), digits.labels
    assert found.shape == (600, 48)
    centres = torch.stack([found[labels == k].mean(0) for k in range(10)])
    assert (torch.cdist(found, centres).argmin(1) == labels).float().mean() > 0.95
    assert features.name == "train (classes)"


def test_features_are_trained_once_for_the_same_images(monkeypatch):
    data = load_data("digits").subset(range(100))
    first = features_by_name("train", data)

    def again(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr("alphabar.evaluation.classifier.fit_classifier", again)
    second = features_by_name("train", data)
    assert first.digest == second.digest
    assert torch.equal(first(data.images), second(data.images))
    with pytest.raises(AssertionError, match="trained again"):
        features_by_name("train", data.subset(range(1, 100)))


def test_images_without_labels_train_features_by_how_they_were_turned():
    digits = load_data("digits")
    unlabelled = ImageData(digits.images[:400])
    features = features_by_name("train", unlabelled)
    assert features.name == "train (turns)"
    assert features(digits.images[400:500]).std(0).gt(0).sum() > 20


@pytest.mark.parametrize("shape", [(1, 7, 7), (3, 40, 40), (1, 2, 2)])
def test_images_of_any_size_have_trained_features(shape):
    data = ImageData(torch.randint(0, 256, (64, *shape), dtype=torch.uint8), torch.arange(64) % 2, ("a", "b"))
    assert features_by_name("train", data)(data.images[:3]).shape == (3, 48)


class Flat(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1).float() / 255


def test_a_torchscript_file_gives_its_features(tmp_path):
    path = tmp_path / "network.pt"
    torch.jit.script(Flat()).save(str(path))
    features = features_by_name(str(path), DATA)
    assert torch.equal(features(DATA.images), DATA.images.flatten(1) / 255)
    assert len(features.digest) == 64


@pytest.mark.parametrize(("kind", "name"), [(TensorProto.UINT8, "uint8"), (TensorProto.FLOAT, "float")])
def test_an_onnx_file_gives_its_features(tmp_path, kind, name):
    given = helper.make_tensor_value_info("images", kind, ["N", 3, 8, 8])
    found = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 192])
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["features"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, name, [given], [found]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    path = tmp_path / "network.onnx"
    onnx.save(model, path)
    assert torch.equal(features_by_name(str(path), DATA)(DATA.images), DATA.images.flatten(1).float())


def test_a_function_of_ones_own_gives_its_features(tmp_path, monkeypatch):
    (tmp_path / "own_features.py").write_text("def means(images):\n    return images.float().mean((2, 3))\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    features = features_by_name("own_features:means", DATA)
    assert torch.equal(features(DATA.images), DATA.images.float().mean((2, 3)))
    assert features.digest
    sys.modules.pop("own_features")


def test_inception_is_torch_fidelitys_and_takes_grey_for_colour(tmp_path, monkeypatch):
    import_fidelity()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path / "weights.pth"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
        made = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path="")
    torch.save(made.state_dict(), path)
    features = features_by_name("inception", DATA, weights=path)
    images = some_images(2)
    with torch.no_grad():
        (expected,) = made(images)
    assert torch.equal(features(images), expected)
    grey = some_images(2, channels=1)
    assert torch.equal(features(grey), features(grey.expand(-1, 3, -1, -1)))


def test_weights_that_are_not_there_are_asked_for_and_never_fetched(tmp_path, monkeypatch):
    import_fidelity()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def fetched(*_, **__):
        raise AssertionError("something was fetched")

    monkeypatch.setattr("urllib.request.urlopen", fetched)
    where = str(tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth")
    check_error(lambda: features_by_name("inception", DATA), CheckpointError, where, "--weights")
    check_error(lambda: features_by_name("dinov2", DATA), CheckpointError, "facebookresearch_dinov2_main")


def test_damaged_weights_of_the_usual_name_are_refused(tmp_path):
    import_fidelity()
    path = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    path.write_bytes(b"anything else")
    check_error(lambda: features_by_name("inception", DATA, weights=path), CheckpointError, "damaged")


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("inceptoin", UnknownNameError, "dinov2"),
        ("no_such_module:f", ConfigError, "no module no_such_module"),
        ("math:pi", ConfigError, "expected a function"),
        ("missing.onnx", CheckpointError, "no file"),
        ("missing.pt", CheckpointError, "no file"),
    ],
)
def test_names_without_features_are_refused(name, error, says):
    check_error(lambda: features_by_name(name, DATA), error, says)


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_files_that_are_something_else_are_refused(tmp_path, suffix):
    path = tmp_path / f"network{suffix}"
    path.write_bytes(b"nothing of the kind")
    check_error(lambda: features_by_name(str(path), DATA), CheckpointError, str(path))


@pytest.mark.parametrize(
    "body",
    [
        "return images.float()",
        "return images.float().flatten(1)[:1]",
        "return images.float().flatten(1) / 0",
        "return None",
    ],
)
def test_functions_that_return_no_features_are_refused(tmp_path, monkeypatch, body):
    (tmp_path / "bad_features.py").write_text(f"def f(images):\n    {body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("bad_features", None)
    check_error(lambda: features_by_name("bad_features:f", DATA)(DATA.images), DataError, "bad_features:f")


def test_what_was_made_once_is_read_and_what_is_damaged_is_made_again(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": normals(3, 2)}

    first, second = cached(("a", "b"), make), cached(("a", "b"), make)
    assert torch.equal(first["x"], second["x"])
    assert len(made) == 1
    cached(("a", "c"), make)
    assert len(made) == 2
    (file,) = (path for path in (tmp_path / "cache").rglob("*.safetensors") if hash_of("a", "b") in path.name)
    file.write_bytes(file.read_bytes()[:20])
    assert torch.equal(cached(("a", "b"), make)["x"], first["x"])
    assert len(made) == 3


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert torch.equal(cached(("a",), lambda: {"x": torch.ones(2)})["x"], torch.ones(2))

"""Features of images, by which sets of images are compared.

    train                     a small classifier, trained on the reference images on the spot
    inception, dinov2         the usual ones, by torch-fidelity
    network.pt, network.onnx  a TorchScript or ONNX file
    package.module:function   one's own

Each takes uint8 images (B, C, H, W) and returns (B, D). A network by name is never fetched: its weights are
read from a file, or from where torch keeps them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.denoise.factories import find
from alphabar.denoise.files import digest
from alphabar.errors import CheckpointError, ConfigError, DataError, MissingExtraError, UnknownNameError
from alphabar.evaluation.cache import hash_of
from alphabar.evaluation.classifier import LARGEST, fitted
from alphabar.training import ImageData, to_unit

__all__ = ["FEATURES", "Features", "features_by_name"]

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's; the name ends with its hash
INCEPTION_URL = f"github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"
DINOV2 = "dinov2_vitl14_pretrain.pth"
DINOV2_REPO = "facebookresearch_dinov2_main"


@dataclass(frozen=True, eq=False)
class Features:
    """A function from images to vectors, and what it is, so that a score can be made again."""

    name: str
    function: Callable[[Tensor], Tensor]
    """Takes uint8 (B, C, H, W), and returns (B, D)."""
    digest: str
    """SHA-256 of its weights, or of the source of one's own function."""
    resize: str
    """What it does to the size of the images."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of uint8 images (B, C, H, W), (B, D) float32 on the CPU.

        Raises:
            DataError: the function fails, or returns anything but (B, D) finite numbers.
        """
        found: Any = self.function(images)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
            form = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise DataError(
                f"the features {self.name} of {len(images)} images are {form}: expected ({len(images)}, D)"
            )
        if not found.isfinite().all():
            raise DataError(f"the features {self.name} hold NaN or infinity")
        return found.float().cpu()


@dataclass(frozen=True)
class _Asked:
    """What features are made from."""

    name: str
    weights: Path | None
    data: ImageData
    device: torch.device


def features_by_name(
    name: str,
    data: ImageData,
    *,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
) -> Features:
    """Return features by one of the names above.

    Args:
        name: as above.
        data: the reference images, on which ``train`` trains.
        weights: the file of the weights of ``inception`` or ``dinov2``, if not where torch keeps them.
        device: where the network computes.

    Raises:
        UnknownNameError: no such name.
        CheckpointError: weights that are not there, or not what they should be.
        MissingExtraError: torch-fidelity or onnxruntime is not installed.
        ConfigError: a function that cannot be imported.
    """
    asked = _Asked(name, weights, data, torch.device(device))
    if name in FEATURES:
        return FEATURES[name](asked)
    if ":" in name:
        return _own(asked)
    if Path(name).suffix in FILES:
        if not Path(name).is_file():
            raise CheckpointError(f"features: there is no file {name}")
        return FILES[Path(name).suffix](asked)
    raise UnknownNameError(
        f"unknown features {name!r}: choose one of {', '.join(sorted(FEATURES))}, a TorchScript (.pt) or "
        "ONNX (.onnx) file, or package.module:function"
    )


def _trained(asked: _Asked) -> Features:
    images, labels, _ = asked.data[range(len(asked.data))]
    kind = "turns" if labels is None else "classes"
    made = fitted(images, labels).to(asked.device)
    weights = hash_of(*made.state_dict().values())
    return Features(
        f"train ({kind})",
        lambda images: made.features(to_unit(images.to(asked.device))),
        weights,
        f"averaged to at most {LARGEST}×{LARGEST}",
    )


def _inception(asked: _Asked) -> Features:
    extractor = _fidelity("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    path = asked.weights or _kept(INCEPTION)
    if not path.is_file():
        raise CheckpointError(
            f"features inception: there is no file {path}: fetch it from {INCEPTION_URL}, or name another "
            "place by --weights"
        )
    found = digest(path)
    if path.name == INCEPTION and not found.startswith(INCEPTION.removesuffix(".pth").rpartition("-")[2]):
        raise CheckpointError(f"{path} is damaged: its SHA-256 is {found}")
    network = extractor("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    network = network.to(asked.device)
    return Features(
        f"inception (torch-fidelity {version('torch-fidelity')})",
        lambda images: network(_in_colour(images).to(asked.device))[0],
        found,
        "bilinear to 299×299, as in TensorFlow 1",
    )


def _dinov2(asked: _Asked) -> Features:
    extractor = _fidelity("feature_extractor_dinov2").FeatureExtractorDinoV2
    places = Path(torch.hub.get_dir(), DINOV2_REPO), asked.weights or _kept(DINOV2)
    if asked.weights is not None and asked.weights != _kept(DINOV2):
        raise ConfigError(f"features dinov2: torch-fidelity reads its weights from {_kept(DINOV2)} alone")
    if missing := [place for place in places if not place.exists()]:
        raise CheckpointError(
            f"features dinov2: there is no {missing[0]}: put the repository facebookresearch/dinov2 of "
            f"GitHub into {places[0]}, and {DINOV2} of its releases into {places[1].parent}"
        )
    network = extractor("dinov2-vit-l-14", ["dinov2"]).to(asked.device)
    return Features(
        f"dinov2 (torch-fidelity {version('torch-fidelity')})",
        lambda images: network(_in_colour(images).to(asked.device))[0],
        digest(places[1]),
        "bilinear to 224×224, as in TensorFlow 1",
    )


def _fidelity(module: str) -> Any:
    try:
        return import_module(f"torch_fidelity.{module}")
    except ImportError:
        raise MissingExtraError("features by torch-fidelity", "evaluate") from None


def _kept(name: str) -> Path:
    """Return where torch keeps weights."""
    return Path(torch.hub.get_dir(), "checkpoints", name)


def _in_colour(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def _own(asked: _Asked) -> Features:
    function = find(asked.name, "features")
    source = inspect.getsourcefile(
        inspect.unwrap(function) if inspect.isfunction(function) else type(function)
    )
    return Features(
        asked.name,
        lambda images: function(images.to(asked.device)),
        digest(Path(source)) if source else "",
        "its own",
    )


def _torchscript(asked: _Asked) -> Features:
    try:
        network = torch.jit.load(asked.name, map_location=asked.device).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{asked.name} is no TorchScript file: {str(error).splitlines()[0]}") from None
    return Features(
        asked.name, lambda images: network(images.to(asked.device)), digest(Path(asked.name)), "its own"
    )


def _onnx(asked: _Asked) -> Features:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("features from an ONNX file", package="onnxruntime") from None
    try:
        session = onnxruntime.InferenceSession(asked.name, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class
        raise CheckpointError(f"{asked.name} is no ONNX file: {str(error).splitlines()[0]}") from None
    (given, *_) = session.get_inputs()
    kind = torch.uint8 if given.type == "tensor(uint8)" else torch.float32

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {given.name: images.to(kind).numpy()})[0])

    return Features(asked.name, run, digest(Path(asked.name)), "its own")


FEATURES: Mapping[str, Callable[[_Asked], Features]] = {
    "train": _trained,
    "inception": _inception,
    "dinov2": _dinov2,
}
FILES: Mapping[str, Callable[[_Asked], Features]] = {".pt": _torchscript, ".onnx": _onnx}

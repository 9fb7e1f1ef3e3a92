"""A chain in a file: without this library it returns what ``sample`` returns from the same noise."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import check_error
from torch import nn

from alphabar import (
    DDIM,
    DDPM,
    ClassifierGuided,
    Clipped,
    Denoiser,
    DynamicThreshold,
    NoiseSchedule,
    UniPC,
    export_chain,
    normal,
    sample,
)
from alphabar.cli import exporting, main
from alphabar.errors import (
    CheckpointError,
    ConfigError,
    DtypeError,
    MissingExtraError,
    ShapeError,
    TimestepError,
    UnknownNameError,
)
from alphabar.samplers import export, loop
from alphabar.samplers.loop import Start
from alphabar.training import Checkpoint, load, save, unet

pytestmark = pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="needs torch 2.7")

COSINE = NoiseSchedule.cosine()
SHAPE = (2, 4, 4)
SEED = 17
PAGE = Path(__file__).parents[1] / "docs/_site/run_exported.py"
CLOSE = {"rtol": 0, "atol": 32 * torch.finfo(torch.float32).eps}


class Small(nn.Module):
    """Nonlinear and of t; with two ``halves`` it learns its variance."""

    def __init__(self, halves=1):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.out = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 2 * halves, 3, padding=1)

    def forward(self, x, t):
        return self.out(torch.tanh(self.conv(x)) * torch.cos(t / 300)[:, None, None, None])


def denoiser():
    return Denoiser(Small(), COSINE, "v_prediction")


def learned():
    return DynamicThreshold(Denoiser(Small(halves=2), COSINE, "v_prediction"))


def drawn(batch, plan, shape, labels=None):
    """Return the noise that ``sample`` draws for a batch from SEED, as a file takes it."""
    random = [step for step, row in enumerate(plan.rows, 1) if row.is_random]
    given = {"x_t": normal((batch, *shape), seed=SEED)}
    if random:
        given["noise"] = torch.stack([normal((batch, *shape), seed=SEED, stream=step) for step in random])
    return given if labels is None else given | {"labels": labels}


ELSEWHERE = """
import runpy, sys
sys.modules["alphabar"] = None
import numpy, onnxruntime, torch
given, answers = torch.load("given"), {}
for path, batches in given.items():
    if path.endswith(".pt2"):
        chain = torch.export.load(path).module()
        answers[path] = [chain(**each) for each in batches]
    else:
        chain = onnxruntime.InferenceSession(path)
        runs = [chain.run(["x_0"], {k: v.numpy() for k, v in each.items()}) for each in batches]
        answers[path] = [torch.from_numpy(x_0) for x_0, in runs]
sys.argv[1:] = ["unet.onnx", "4", "x.npy"]
runpy.run_path(PAGE, run_name="__main__")
answers["page"] = [torch.from_numpy(numpy.load("x.npy"))]
assert not [name for name, module in sys.modules.items() if name.startswith("alphabar") and module]
torch.save(answers, "answers")
""".replace("PAGE", repr(str(PAGE)))

IMAGE = (1, 4, 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A U-Net of two classes as it begins."""
    torch.manual_seed(0)
    network = unet(IMAGE, channels=(8,), classes=2).eval()
    place = tmp_path_factory.mktemp("run") / "run"
    return save(place, Checkpoint(network, COSINE, "v_prediction", IMAGE, ("a", "b")))


@pytest.fixture
def answers(run, tmp_path):
    """What files answer where alphabar cannot be imported, and what they should, by their names."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    trained, classes = load(run), torch.tensor([1, 0, 2])
    command = ["export", str(run), "--steps", "2", "--sampler"]
    assert main([*command, "ddpm", str(tmp_path / "unet.onnx")]) == 0
    assert main([*command, "unipc", "--guidance", "2", str(tmp_path / "unet.pt2")]) == 0
    export_chain(learned(), SHAPE, DDPM(3, "learned_range"), tmp_path / "learned.pt2")
    written = {
        "unet.onnx": (trained.guided, DDPM(2), IMAGE, classes),
        "unet.pt2": (lambda labels: trained.guided(labels, 2.0), UniPC(2), IMAGE, classes),
        "learned.pt2": (lambda labels: learned(), DDPM(3, "learned_range"), SHAPE, None),
    }
    given, expected = {}, {}
    for name, (made, sampler, shape, labels) in written.items():
        plan = sampler.plan(COSINE)
        parts = [None if labels is None else labels[:n] for n in (3, 1)]
        given[name] = [drawn(n, plan, shape, part) for n, part in zip((3, 1), parts, strict=True)]
        expected[name] = [
            sample(made(part), (n, *shape), sampler, seed=SEED, progress=False)
            for n, part in zip((3, 1), parts, strict=True)
        ]
    generator = np.random.default_rng(0)  # as the page draws
    x_t, noise = (torch.from_numpy(generator.standard_normal((4, *IMAGE), np.float32)) for _ in range(2))
    start = Start(x_t, {1: noise}.__getitem__)
    *_, last = loop.chain(trained.guided(torch.zeros(4, dtype=int)), DDPM(2).plan(COSINE), start)
    expected["page"] = [last.x_t]
    torch.save(given, tmp_path / "given")
    subprocess.run([sys.executable, "-c", ELSEWHERE], check=True, cwd=tmp_path)
    return torch.load(tmp_path / "answers"), expected


def test_files_return_what_sample_returns_for_any_batch(answers):
    found, wanted = answers
    assert found.keys() == wanted.keys() == {"unet.onnx", "unet.pt2", "learned.pt2", "page"}
    for name in wanted:
        for answer, expected in zip(found[name], wanted[name], strict=True):
            # Convolutions add up in another order: a few roundings an evaluation, of numbers near 1.
            torch.testing.assert_close(answer, expected, **CLOSE)
            assert expected.std() > 0.1


class OfOneBatch(Small):
    """A network that takes the batch for a plain number, which is then a constant."""

    def forward(self, x, t):
        return super().forward(x.reshape(len(x), *x.shape[1:]), t)


class OrderedFrom64(Small):
    """As diffusers' U-Net orders its memory."""

    def forward(self, x, t):
        return super().forward(x.contiguous() if x.shape[0] >= 64 else x, t)


def test_a_file_says_up_to_which_batch_it_was_traced(tmp_path, capsys, monkeypatch):
    found = export_chain(
        Denoiser(OrderedFrom64(), COSINE, "v_prediction"), SHAPE, DDIM(1), tmp_path / "x.pt2"
    )
    assert found.largest == 63
    chain = torch.export.load(found.path).module()
    chain(x_t=normal((63, *SHAPE), seed=SEED))
    with pytest.raises(Exception, match=r"63|64"):
        chain(x_t=normal((64, *SHAPE), seed=SEED))
    assert exporting._described(found).endswith(
        "takes x_t (batch, 2, 4, 4); traced for a batch of at most 63"
    )
    assert "traced" not in exporting._described(replace(found, largest=float("inf")))


def test_a_network_that_depends_on_its_batch_is_written_for_one(tmp_path):
    fixed = Denoiser(OfOneBatch(), COSINE, "v_prediction")
    check_error(
        lambda: export_chain(fixed, SHAPE, DDIM(1), tmp_path / "any.pt2"), ConfigError, "trace", "batch"
    )
    assert list(tmp_path.iterdir()) == []
    found = export_chain(fixed, SHAPE, DDIM(1), tmp_path / "four.pt2", batch=4)
    assert (found.inputs, found.largest) == ({"x_t": (4, *SHAPE)}, 4)
    x_t = normal((4, *SHAPE), seed=SEED)
    answer = torch.export.load(tmp_path / "four.pt2").module()(x_t=x_t)
    torch.testing.assert_close(
        answer, sample(fixed, x_t.shape, DDIM(1), x_t=x_t, seed=0, progress=False), **CLOSE
    )


def test_the_arithmetic_of_a_file_is_float32(tmp_path):
    low = Denoiser(Small(), COSINE, "v_prediction", precision="bfloat16")
    export_chain(low, SHAPE, DDIM(1), tmp_path / "x.pt2")
    x_t = normal((2, *SHAPE), seed=SEED)
    answer = torch.export.load(tmp_path / "x.pt2").module()(x_t=x_t)
    exact = sample(denoiser(), x_t.shape, DDIM(1), x_t=x_t, seed=0, progress=False)
    torch.testing.assert_close(answer, exact, **CLOSE)


class Broken(Small):
    def forward(self, x, t):
        return x.reshape(-1)[: int(x.numel()) // 2]


def wrapped(network):
    return Denoiser(network, COSINE, "v_prediction")


def hinted(x_t, t):
    return x_t.flatten(1)[:, :2]


@pytest.mark.parametrize(
    ("made", "options", "error", "says"),
    [
        (denoiser, {"path": "x.bin"}, UnknownNameError, ["ending '.bin'", "'.onnx', '.pt2'"]),
        (denoiser, {"path": "x"}, UnknownNameError, ["ending ''"]),
        (denoiser, {"path": "taken.pt2"}, ConfigError, ["a folder"]),
        (denoiser, {"path": "file/x.pt2"}, CheckpointError, ["cannot be written"]),
        (denoiser, {"sampler": DDIM(1001)}, TimestepError, ["1001"]),
        (denoiser, {"sampler": "ddim"}, DtypeError, ["DDIM(steps=50)"]),
        (denoiser, {"batch": 0}, ConfigError, ["batch is 0"]),
        (denoiser, {"shape": (2, 0)}, ConfigError, ["shape[1] is 0"]),
        (lambda: wrapped(lambda x_t, t: x_t), {}, DtypeError, ["function", "torch.nn.Module"]),
        (lambda: wrapped(Broken()), {}, ShapeError, ["returned"]),
        (
            lambda: Clipped(ClassifierGuided(denoiser(), hinted, torch.tensor([0]))),
            *({}, ConfigError, ["ClassifierGuided", "ClassifierFree"]),
        ),
    ],
)
def test_what_cannot_be_exported_is_named_and_leaves_no_file(made, options, error, says, tmp_path):
    (tmp_path / "taken.pt2").mkdir()
    (tmp_path / "file").write_text("x")
    given = {"shape": SHAPE, "sampler": DDIM(1), "path": "x.pt2", **options}
    path = tmp_path / given.pop("path")
    with pytest.raises(error) as caught:
        export_chain(made(), path=path, **given)
    assert all(each in str(caught.value) for each in says)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "taken.pt2"]


def test_what_onnx_does_not_have_is_named(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")

    def fails(*arguments, **options):
        raise RuntimeError("conversion failed") from ValueError("no function for aten.kthvalue\nsee above")

    monkeypatch.setattr(torch.onnx, "export", fails)
    check_error(
        lambda: export_chain(learned(), SHAPE, DDIM(1), tmp_path / "x.onnx"),
        *(ConfigError, "torch.onnx cannot write", "no function for aten.kthvalue: choose the ending .pt2"),
    )
    assert list(tmp_path.iterdir()) == []


def test_an_onnx_file_needs_its_packages_and_holds_two_gigabytes(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(export, "LARGEST", 100)
    check_error(lambda: export_chain(denoiser(), SHAPE, DDIM(1), tmp_path / "x.onnx"), ConfigError, "GiB")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"alphabar\[export\]"):
        export_chain(denoiser(), SHAPE, DDIM(1), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_a_file_takes(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), "x.pt2", "--steps", "1", "--batch", "2"]) == 0
    size = (tmp_path / "x.pt2").stat().st_size / 2**20
    said = f"wrote x.pt2 ({size:.1f} MiB, takes x_t (2, 1, 4, 4) and labels (2))\n"
    assert capsys.readouterr() == (said, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x.npz"], "unknown ending '.npz'"),
        (["x.pt2", "--steps", "1001"], "1001"),
        (["x.pt2", "--steps", "0"], "evaluations is 0"),
        (["x.pt2", "--sampler", "ddmi"], "unknown sampler 'ddmi'"),
        (["x.pt2", "--batch", "0"], "batch is 0"),
        (["run/nowhere/unet/config.json/x.pt2"], "cannot be written"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, says, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").write_text("x")
    assert main(["export", str(run), *arguments]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert [each.name for each in tmp_path.iterdir()] == ["run"]

"""What networks compute in, float32 or bfloat16, beside a chain in float32; memory that is kept for them."""

import json
import platform
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from cases import check_error, normals
from torch.nn import functional

from alphabar import DDIM, ClassifierFree, Clipped, Denoiser, NoiseSchedule, cli, iter_sample, sample
from alphabar.cli import _memory, main
from alphabar.denoise.precision import PRECISIONS, precision_on
from alphabar.errors import UnknownNameError
from alphabar.evaluation import draw
from alphabar.training import Checkpoint, load, save, unet

COSINE = NoiseSchedule.cosine()
SHAPE = (3, 2, 4, 4)
HALF = torch.finfo(torch.bfloat16).eps / 2  # the relative error of one rounding
CPU = torch.device("cpu")


class Convolution(torch.nn.Module):
    """A network whose answer in any precision can be written out, and which notes what it was given."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = normals(2, 2, 3, 3, dtype=torch.float32) / 4, normals(2, dtype=torch.float32)
        self.given = []

    def forward(self, x_t, t, class_labels=None):
        self.given.append(x_t.dtype)
        return functional.conv2d(x_t, self.weight, self.bias, padding=1)


def test_bfloat16_rounds_what_the_network_multiplies_and_nothing_else():
    network, x_t = Convolution(), normals(*SHAPE, dtype=torch.float32)
    found = Denoiser(network, COSINE, "sample", precision="bfloat16")(x_t, 500).x_0
    low = (part.bfloat16() for part in (x_t, network.weight, network.bias))
    assert found.dtype == torch.float32
    assert torch.equal(found, functional.conv2d(*low, padding=1).float())
    assert network.weight.dtype == network.given[0] == torch.float32


def test_float32_leaves_the_network_as_it_is_and_as_its_surroundings_have_it():
    network, x_t = Convolution(), normals(*SHAPE, dtype=torch.float32)
    plain = Denoiser(network, COSINE, "sample")
    assert torch.equal(plain(x_t, 500).x_0, functional.conv2d(x_t, network.weight, network.bias, padding=1))
    with torch.autocast("cpu", torch.bfloat16):
        surrounded = plain(x_t, 500).x_0
    assert torch.equal(surrounded, replace(plain, precision="bfloat16")(x_t, 500).x_0)


@pytest.mark.parametrize("has", [False, True])
def test_auto_is_bfloat16_where_the_processor_has_it(has, monkeypatch):
    monkeypatch.setitem(PRECISIONS, "auto", lambda device: has)
    network, x_t = Convolution(), normals(*SHAPE, dtype=torch.float32)
    named = precision_on(CPU, "auto")
    assert named == ("bfloat16" if has else "float32")
    auto, same = (Denoiser(network, COSINE, precision=each)(x_t, 9).x_0 for each in ("auto", named))
    assert torch.equal(auto, same)


def test_the_chains_own_state_stays_float32():
    # x̂_0 = x/2 by a product: half a unit of bfloat16 is all that an evaluation loses, of at most |x| ≤ 6.77.
    def halved(x_t, t):
        return x_t @ (torch.eye(x_t.shape[-1]) / 2)

    low, exact = (Denoiser(halved, COSINE, "sample", precision=each) for each in ("bfloat16", "float32"))
    states = [list(iter_sample(each, SHAPE, DDIM(8), seed=1)) for each in (low, exact)]
    assert all(state.x_t.dtype == state.x_0.dtype == torch.float32 for state in states[0])
    assert torch.equal(states[0][0].x_0, (states[0][0].x_t / 2).bfloat16().float())
    error = (states[0][-1].x_t - states[1][-1].x_t).abs().max()
    # A step keeps σ_s/σ_t ≤ 1 of the state's error and adds at most √ᾱ_s of the estimate's.
    assert 0 < error < 8 * HALF * 6.77
    assert not torch.equal(states[0][4].x_t, states[0][4].x_t.bfloat16().float())


def test_guidance_and_compiled_graphs_keep_the_precision():
    network, x_t = Convolution(), normals(*SHAPE, dtype=torch.float32)
    labelled = Denoiser(network, COSINE, "sample", torch.tensor([0, 1, 0]), "bfloat16")
    guided = Clipped(ClassifierFree(labelled, 2.0, null_label=2))(x_t, 500).x_0
    assert torch.equal(guided, labelled(x_t, 500).x_0.clamp(-1, 1))  # this network hears no label
    plan, auto = DDIM(2).plan(COSINE), Denoiser(lambda x_t, t: x_t @ x_t, COSINE, "sample", precision="auto")

    def run(x_t):
        return sample(auto, SHAPE, plan, x_t=x_t, seed=5, progress=False)

    torch._dynamo.reset()
    assert torch.equal(torch.compile(run, fullgraph=True, backend="eager")(x_t), run(x_t))


def test_another_precision_is_named():
    network = Convolution()
    for precision in ("float16", None, 16):
        check_error(
            lambda precision=precision: Denoiser(network, COSINE, precision=precision),
            *(UnknownNameError, "precision", "'auto'"),
        )
    check_error(lambda: precision_on(CPU, "half"), UnknownNameError, "'half'")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network of 8×8 images as it begins."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("run") / "run"
    network = unet((1, 8, 8), channels=(8,)).eval()
    torch.nn.init.normal_(network.conv_out.weight, std=0.3)
    return save(place, Checkpoint(network, COSINE, "v_prediction", (1, 8, 8)))


def test_samples_of_one_precision_are_never_mixed_with_those_of_another(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(PRECISIONS, "auto", lambda device: True)
    command = ["sample", str(run), "--num", "3", "--steps", "2", "--out", str(tmp_path / "auto")]
    assert main(command) == 0
    assert json.loads((tmp_path / "auto/samples.json").read_text())["precision"] == "bfloat16"
    assert main([*command, "--precision", "bfloat16"]) == 0
    assert "holds all 3 images already" in capsys.readouterr().out
    assert main([*command, "--precision", "float32"]) == 2
    assert "precision was bfloat16, is float32" in capsys.readouterr().err
    assert main([*command, "--precision", "float16"]) == 2
    assert "unknown precision 'float16'" in capsys.readouterr().err


def test_samples_in_memory_are_drawn_in_the_precision_that_is_asked_for(run):
    trained = load(run)
    low, exact = (draw(trained, DDIM(2), 4, precision=each) for each in ("bfloat16", "float32"))
    apart = (low.images.int() - exact.images.int()).abs()
    assert 0 < apart.max() < 16  # of 255


FAULTS = """
import ctypes, importlib.util, resource, sys
spec = importlib.util.spec_from_file_location("memory", sys.argv[1])
memory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(memory)
if sys.argv[2] == "keep":
    assert memory.keep_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.memset.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def layer(size):
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)
layer(48 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    layer(48 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_what_is_freed_serves_again_without_new_pages():
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", FAULTS, _memory.__file__, how],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for how in ("keep", "plain")
    }
    # Fresh pages of 48 MiB are at least 24 a time, where each is of 2 MiB; usually 12288.
    assert faults["plain"] >= 5 * 24
    assert faults["keep"] < 24


def test_only_a_process_of_the_commands_own_keeps_its_memory(monkeypatch):
    asked = []
    monkeypatch.setattr(_memory, "keep_memory", lambda: asked.append(True))
    assert main(["samplers", "--evals", "0"]) == 2
    assert asked == []
    monkeypatch.setattr(sys, "argv", ["alphabar", "samplers", "--evals", "0"])
    assert cli.main() == 2
    assert asked == [True]

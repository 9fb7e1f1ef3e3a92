"""The whole loop as one graph, and without a wait: no step asks a device for the value of a tensor."""

from dataclasses import replace

import pytest
import torch
from cases import check_error, normals
from torch.utils._python_dispatch import TorchDispatchMode

from alphabar import DDIM, DDPM, Clipped, Denoiser, NoiseSchedule, iter_sample, sample
from alphabar import kernels as ops
from alphabar.denoise.guidance import ClassifierFree, DynamicThreshold
from alphabar.errors import NoAnswerError
from alphabar.process import addressed
from alphabar.samplers import loop
from alphabar.samplers.adams import DEIS, LMS, PNDM
from alphabar.samplers.dpm import DPMSolver
from alphabar.samplers.dpm2 import DPM2
from alphabar.samplers.editing import resampled
from alphabar.samplers.euler import Euler, EulerAncestral, Heun
from alphabar.samplers.unipc import UniPC

COSINE = NoiseSchedule.cosine()
SHAPE = (2, 3, 8, 8)
SAMPLERS = {
    "DDPM": DDPM(3),
    "DDPM, learned": DDPM(3, "learned_range"),
    "DDIM": DDIM(3, eta=0.5),
    "DDIM, inverse": DDIM(3, inverse=True),
    "Euler": Euler(3),
    "Euler, ancestral": EulerAncestral(3),
    "Heun": Heun(2),
    "DPM-Solver-2": DPM2(2),
    "DPM-Solver-2, ancestral": DPM2(2, eta=1.0),
    "DPM-Solver++": DPMSolver(4, order=3),
    "DPM-Solver++, single-step": DPMSolver(4, multistep=False),
    "DPM-Solver++, SDE": DPMSolver(3, sde=True),
    "UniPC": UniPC(5, order=3),
    "DEIS": DEIS(5),
    "LMS": LMS(5),
    "PNDM": PNDM(5),
    "PNDM, Runge-Kutta": PNDM(4, runge_kutta=True),
}
PLANS = {name: sampler.plan(COSINE) for name, sampler in SAMPLERS.items()}
PLANS["RePaint"] = resampled(DDPM(3).plan(COSINE), COSINE, 2, 1)
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())


def network(x_t, t, class_labels=None):
    """Smooth, nonlinear, of t and of labels, and learning its variance."""
    shift = 0 if class_labels is None else class_labels.to(x_t)[:, None, None, None]
    output = torch.tanh(x_t + shift) * torch.cos(t.to(x_t) / 300)[:, None, None, None]
    return torch.cat([output, output / 2], 1)


PLAIN = Denoiser(network, COSINE, "v_prediction")
LABELLED = Denoiser(network, COSINE, "epsilon", torch.tensor([0, 1]))


def guided(denoiser):
    return Clipped(ClassifierFree(denoiser, 2.0, 1, rescale=0.5, interval=(100, 800)))


DENOISERS = {
    "plain": PLAIN,
    "clipped": Clipped(PLAIN),
    "thresholded": DynamicThreshold(PLAIN),
    "guided": guided(LABELLED),
}
every_denoiser = pytest.mark.parametrize("denoiser", DENOISERS.values(), ids=DENOISERS.keys())


def compiled_equals_plain(denoiser, plan):
    # The plan is settled before: it is plain numbers, and they become part of the graph.
    def run(x_t):
        return sample(denoiser, SHAPE, plan, x_t=x_t, seed=5, progress=False)

    torch._dynamo.reset()
    x_t = normals(*SHAPE, dtype=torch.float32)
    graph = torch.compile(run, fullgraph=True, backend="eager")
    assert torch.equal(graph(x_t), run(x_t))


@every_plan
def test_a_whole_chain_is_one_graph_that_gives_the_same_image(plan):
    compiled_equals_plain(PLAIN, plan)


@every_denoiser
def test_guidance_is_part_of_the_graph(denoiser):
    compiled_equals_plain(denoiser, PLANS["DDIM"])


def test_a_row_is_a_graph_for_the_compilers_backend_too():
    row = PLANS["UniPC"].rows[-2]
    tensors = [normals(*SHAPE, seed=i, dtype=torch.float32) for i in range(1 + len(row.history))]

    def advance(x_t, *history):
        return row.advance(x_t, history)

    torch._dynamo.reset()
    graph = torch.compile(advance, fullgraph=True, backend="aot_eager")
    assert torch.equal(graph(*tensors), advance(*tensors))


@pytest.mark.parametrize("address", [None, ops.Address(2**64 - 1, 3, 2**40)])
def test_a_sum_is_one_node_that_runs_what_the_plain_call_runs(address):
    graphs = []

    def backend(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return graph

    def total(x, y):
        return ops.lincomb((0.5, 2, 0.1)[: 2 + (address is not None)], (x, y), noise=address)

    torch._dynamo.reset()
    x, y = (normals(*SHAPE, seed=seed, dtype=torch.float32) for seed in (0, 1))
    assert torch.equal(torch.compile(total, fullgraph=True, backend=backend)(x, y), total(x, y))
    # Dynamo also notes the question whether a transform is active, which is settled while it traces.
    assert [name for name in graphs[0] if "functorch" not in name] == ["alphabar.lincomb.default"]


def test_the_operators_are_what_torch_asks_of_operators():
    tensors = [normals(3, 5, seed=seed, dtype=torch.float32).requires_grad_() for seed in (0, 1)]
    for coefficients, address in (([0.5, 2.0], None), ([0.5, 2.0, 0.1], [-1, 3, 5])):
        torch.library.opcheck(
            torch.ops.alphabar.lincomb.default, (tensors, coefficients, torch.float32, address)
        )
    torch.library.opcheck(torch.ops.alphabar.normal.default, (torch.empty(3, 5), [-1, 3, 5]))


def test_guidance_differentiates_through_a_compiled_sum():
    def slope(x_t):
        x_0 = ops.lincomb((2.0, -0.5), (x_t, x_t.square()))
        return torch.autograd.grad(x_0.sum(), x_t)[0]

    x_t = normals(*SHAPE).requires_grad_()
    torch._dynamo.reset()
    total = torch.compile(lambda x: ops.lincomb((2.0, -0.5), (x, x.square())).sum(), backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(total(x_t), x_t)[0], slope(x_t))
    torch.testing.assert_close(slope(x_t), (2 - x_t).detach())


@pytest.mark.parametrize("change", [torch.vmap, lambda f: lambda x: torch.func.jvp(f, (x,), (x,))[1]])
def test_transforms_in_a_graph_take_the_reference(change):
    function = change(lambda x: ops.lincomb((2.0, 1.0), (x, x)))
    x = normals(4, 3)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(function, fullgraph=True, backend="aot_eager")(x), 3 * x)


class Recorded(TorchDispatchMode):
    """What is asked of a device: every operation on tensors without values, and every copy to or from it."""

    def __init__(self):
        super().__init__()
        self.names, self.crossings = set(), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        devices = {x.device.type for x in (*args, result) if isinstance(x, torch.Tensor) and x.ndim}
        if "meta" in devices:
            self.names.add(func.overloadpacket.__name__)
        if len(devices) > 1:
            self.crossings.append(func)
        return result


@pytest.fixture
def looks(monkeypatch):
    """The steps at which the loop looks at values; it is not let look, for meta tensors have none."""
    looked = []
    monkeypatch.setattr(loop, "_check_flags", lambda flags, plan: looked.append(len(flags) - 1))
    return looked


def needs_no_value(denoiser, plan, looks):
    # Tensors of the meta device have no values: a branch, .item() or nonzero on one raises. What is left to
    # find are copies between it and the CPU, where on an accelerator the host would wait.
    with Recorded() as recorded:
        found = sample(denoiser, SHAPE, plan, seed=5, device="meta", progress=False)
    assert found.shape == SHAPE
    assert recorded.crossings == []
    assert {"mul", "add", "all"} <= recorded.names
    assert not recorded.names & {"_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal"}
    assert looks == [len(plan) - 1]


@every_plan
def test_no_step_needs_a_value_or_moves_one_between_devices(plan, looks):
    needs_no_value(PLAIN, plan, looks)


@pytest.mark.parametrize("name", DENOISERS)
def test_no_guidance_needs_a_value_either(name, looks):
    on_meta = replace(LABELLED, labels=torch.zeros(2, dtype=torch.int64, device="meta"))
    needs_no_value(guided(on_meta) if name == "guided" else DENOISERS[name], PLANS["LMS"], looks)


def test_the_record_would_show_what_it_looks_for():
    with Recorded() as recorded:
        torch.ones(3, device="meta").copy_(torch.ones(3))
    assert len(recorded.crossings) == 1
    with pytest.raises(RuntimeError, match="meta"):
        bool(torch.ones((), device="meta"))


@pytest.mark.parametrize("at_once", [True, False], ids=["CPU", "accelerator"])
def test_a_broken_step_is_named_at_once_on_a_cpu_and_at_the_end_elsewhere(at_once, monkeypatch):
    monkeypatch.setattr(loop, "_reads_values", lambda device: at_once)
    asked = []

    def breaks(x_t, t):
        asked.append(int(t[0]))
        return x_t.new_full(x_t.shape, torch.nan if t[0] < 500 else 0)

    broken = Denoiser(breaks, COSINE, "sample")
    check_error(
        lambda: sample(broken, SHAPE, DDIM(5), seed=1, progress=False),
        NoAnswerError,
        "step 3, t = 399",
        "NaN or infinity",
    )
    assert asked == [999, 799, 599, 399, 199][: 4 if at_once else 5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_plan
def test_on_cuda_no_step_synchronises(plan):
    looks = [0]
    z = addressed.normal(SHAPE, seed=1, device="cuda")
    states = iter_sample(PLAIN, SHAPE, plan, x_t=z, seed=5)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(len(plan) - 1):
            looks.append(next(states).step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert looks[-1] == len(plan) - 2

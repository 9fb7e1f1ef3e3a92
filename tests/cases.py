"""What several test files share: all families, random schedules, what an error must say, last places,
a denoiser that knows."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import strategies as st

from alphabar import Denoiser, Estimate, NoiseSchedule
from alphabar.errors import AlphabarError
from alphabar.samplers.exact import variances_reached

FAMILIES = ("linear", "scaled_linear", "cosine", "sigmoid", "laplace", "exponential")
COSINE = NoiseSchedule.cosine()
LOW_PRECISION = (torch.float32, torch.float16, torch.bfloat16)
VIEWED_AS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


def family(name: str, steps: int = 1000) -> NoiseSchedule:
    return getattr(NoiseSchedule, name)(steps)


def all_schedules() -> dict[str, NoiseSchedule]:
    """Every family, as it is and with zero terminal SNR."""
    plain = {name: family(name) for name in FAMILIES}
    return plain | {f"{name}-zero-snr": schedule.zero_terminal_snr() for name, schedule in plain.items()}


# Eleven orders of magnitude of β, and up to 24 of them: short enough for exact fractions.
betas = st.lists(
    st.one_of(st.floats(1e-12, 1e-6), st.floats(1e-6, 0.1), st.floats(0.1, 0.999)), min_size=1, max_size=24
)
schedules = betas.map(NoiseSchedule.from_beta)
ordinary_schedules = st.lists(st.floats(1e-4, 0.3), min_size=2, max_size=24).map(NoiseSchedule.from_beta)
seeds = st.integers(0, 2**64 - 1)


def normals(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def check_error(call, error: type[AlphabarError], *fragments: str) -> None:
    """The call raises the named error, which is also a built-in one, and its text holds every fragment."""
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, AlphabarError)
    assert isinstance(caught.value, ValueError | TypeError)
    for fragment in fragments:
        assert fragment in str(caught.value)


def units_apart(a: torch.Tensor, b: torch.Tensor) -> int:
    """How many representable numbers lie between two tensors of one dtype, at most."""

    def place(x: torch.Tensor) -> torch.Tensor:
        bits = x.contiguous().view(VIEWED_AS[x.dtype]).long()
        half = 1 << (8 * x.element_size() - 1)
        return torch.where(bits < 0, -half - bits, bits)

    return int((place(a) - place(b)).abs().max())


def unit_in_the_last_place(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The distance of neighbouring numbers of ``dtype`` around float64 numbers."""
    info = torch.finfo(dtype)
    return torch.maximum(2 ** exact.abs().log2().floor(), torch.tensor(info.tiny)) * info.eps


def variance_reached(plan, schedule: NoiseSchedule, width: float) -> float:
    """The variance at which a plan's samples arrive when the data are N(0, width²): width² is right."""
    return float(variances_reached(plan, schedule, torch.tensor([width], dtype=torch.float64)))


@dataclass(frozen=True)
class Known:
    """A denoiser whose answer is known."""

    x_0: torch.Tensor
    schedule: NoiseSchedule = COSINE

    def __call__(self, x_t, t):
        return Estimate(self.x_0, None)


class Network(torch.nn.Module):
    """Small, smooth, and the same at every call: two convolutions with fixed random weights."""

    def __init__(self, channels=3, learns_variance=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = torch.nn.Conv2d(channels, 8, 3, padding=1)
            self.last = torch.nn.Conv2d(8, channels * (1 + learns_variance), 3, padding=1)
        self.asked = []

    def forward(self, x_t, t):
        self.asked.append(t.tolist())
        return self.last(torch.tanh(self.first(x_t) + (t / 300).sin().to(x_t)[:, None, None, None]))


def denoiser(prediction="v_prediction", schedule=COSINE, **more):
    return Denoiser(Network(**more), schedule, prediction)

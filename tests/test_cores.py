"""A batch drawn on several cores is the same, each part on one core, and torch's own number stays."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphabar import DDPM, Denoiser, NoiseSchedule, sample
from alphabar.samplers.cores import on_each_core, workers

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    workers.cache_clear()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)
    workers.cache_clear()


def test_each_worker_has_one_core_and_the_others_stay():
    counts = list(workers(2).map(lambda _: torch.get_num_threads(), range(8)))
    assert counts == [1] * 8
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_noise_does_not_depend_on_the_parts(count):
    denoiser = Denoiser(lambda x, t: torch.tanh(x), NoiseSchedule.cosine(100), "sample")

    def draw(block: range) -> torch.Tensor:
        options = {"seed": 1, "first": block.start, "progress": False}
        return sample(denoiser, (len(block), 2, 4, 4), DDPM(5), **options)

    block = range(10, 10 + count)
    torch.testing.assert_close(on_each_core(draw, CPU)(block), draw(block), rtol=1e-6, atol=1e-6)


@given(st.integers(0, 1000), st.integers(1, 100))
def test_every_sample_is_drawn_once_in_order_and_by_all_cores(first, count):
    seen = []

    def draw(block: range) -> torch.Tensor:
        seen.append(block)
        return torch.tensor(block)

    block = range(first, first + count)
    assert torch.equal(on_each_core(draw, CPU)(block), torch.tensor(block))
    assert len(seen) <= 3 and max(map(len, seen)) == -(-count // 3)


def test_an_error_of_a_part_is_that_of_the_batch():
    with pytest.raises(ValueError, match="no sample 5"):
        on_each_core(lambda block: (_ for _ in ()).throw(ValueError("no sample 5")), CPU)(range(9))


def test_one_thread_and_other_devices_draw_as_they_are():
    def draw(block: range) -> torch.Tensor:
        return torch.tensor(block)

    assert on_each_core(draw, torch.device("cuda")) is draw
    torch.set_num_threads(1)
    assert on_each_core(draw, CPU) is draw

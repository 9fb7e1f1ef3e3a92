"""Noising and reading under ``torch.compile`` and ``torch.func``, first calls too; a wrong t is refused."""

import pytest
import torch
from cases import check_error, normals

from alphabar import NoiseSchedule, add_noise, add_noise_step, posterior, velocity
from alphabar.errors import TimestepError
from alphabar.process import to_eps, to_x_0

JUMPS = {
    "add_noise": add_noise,
    "add_noise_step": add_noise_step,
    "velocity": velocity,
    "posterior": lambda *arguments: posterior(*arguments).mean,
    "to_x_0": lambda schedule, x, y, t: to_x_0(schedule, "epsilon", x, y, t),
    "to_eps": lambda schedule, x, y, t: to_eps(schedule, "sample", x, y, t),
}
every_jump = pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS.keys())


@every_jump
@pytest.mark.parametrize("t", [7, torch.tensor(7), torch.tensor([1, 2, 3])], ids=["int", "one", "batch"])
def test_a_first_call_can_be_compiled_whole(jump, t):
    schedule = NoiseSchedule.cosine(50)  # a new one: nothing of it is in a cache
    x, y = normals(3, 2, 4, seed=1), normals(3, 2, 4, seed=2)
    torch._dynamo.reset()
    graph = torch.compile(lambda x, y, t: jump(schedule, x, y, t), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(graph(x, y, t), jump(schedule, x, y, t), rtol=0, atol=1e-14)
    if isinstance(t, torch.Tensor):  # a graph that is there refuses a wrong t too
        with pytest.raises(RuntimeError, match="t must be in 0 … 49"):
            graph(x, y, t + 50)


@every_jump
def test_the_batch_can_be_mapped_with_its_t(jump):
    schedule, t = NoiseSchedule.cosine(50), torch.tensor([1, 2, 49])
    x, y = normals(3, 2, 4, seed=1), normals(3, 2, 4, seed=2)

    def one(x, y, t):
        return jump(schedule, x, y, t)

    torch.testing.assert_close(torch.vmap(one)(x, y, t), one(x, y, t), rtol=0, atol=1e-14)
    torch.testing.assert_close(
        torch.vmap(one, (None, None, 0))(x[0], y[0], t)[1], one(x[0], y[0], 2), rtol=0, atol=1e-14
    )
    check_error(lambda: torch.vmap(one)(x, y, t + 1), TimestepError, "t = 50", "0 … 49")
    slopes = torch.vmap(torch.func.grad(lambda x, y, t: one(x, y, t).sum()))(x, y, t)
    _, change = torch.func.jvp(lambda x: one(x, y, t), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(slopes, change, rtol=0, atol=1e-14)

"""What corrects the parameters: Muon, whose update turns all directions of a matrix alike, and AdamW.

    m ← 0.95 m + 0.05 g,    u = 0.05 g + 0.95 m,    W ← W − rate · 0.2 √max(n, k) · U Vᵀ    where u = U S Vᵀ

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) is for hidden layers, (n, k) with a convolution's
kernel counted into k; all other parameters take AdamW (Loshchilov & Hutter 2019, algorithm 2). The factor
makes its steps as large as AdamW's, so that one rate serves both (Liu et al. 2025, arXiv 2502.16982,
equation 4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.errors import ConfigError

__all__ = ["OPTIMIZERS", "Muon", "begin", "chosen", "matrices", "orthogonal"]

BETAS = (0.9, 0.99)
MOMENTUM = 0.95
SMALLEST = 16  # rows and columns of a matrix that is worth it; the layer that leaves the network has fewer
ITERATION = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Muon(torch.optim.Optimizer):
    """Muon for the matrices of a network, AdamW for all its other parameters.

    Args:
        network: what is trained.
        rate: the learning rate of both.
    """

    def __init__(self, network: nn.Module, rate: float) -> None:
        hidden = matrices(network)
        known = set(map(id, hidden))
        rest = [parameter for parameter in network.parameters() if id(parameter) not in known]
        groups = [{"params": hidden, "moments": ("momentum",)}, {"params": rest, "moments": ADAMW}]
        super().__init__(groups, {"lr": rate})
        self.adamw = _adamw(self.param_groups[1:], rate)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Correct all parameters by their gradients."""
        begin(self)
        # Loading a state, which accelerate does too, puts new groups and a new state in place of the old.
        self.adamw.param_groups, self.adamw.state = self.param_groups[1:], self.state
        answer = self.adamw.step(closure)
        group = self.param_groups[0]
        for parameter in group["params"]:
            if parameter.grad is not None:
                momentum = self.state[parameter]["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
                update = parameter.grad.lerp(momentum, MOMENTUM).flatten(1)
                rate = 0.2 * max(update.shape) ** 0.5 * group["lr"]
                parameter.sub_(orthogonal(update).view_as(parameter), alpha=rate)
        return answer


ADAMW = ("exp_avg", "exp_avg_sq")
OPTIMIZERS: dict[str, Callable[[nn.Module, float], torch.optim.Optimizer]] = {
    "muon": Muon,
    "adamw": lambda network, rate: _adamw([{"params": network.parameters(), "moments": ADAMW}], rate),
}
"""By name, ``make(network, rate)``."""


def chosen(name: str, *, is_sharded: bool, are_vectors: bool = False) -> str:
    """Return the optimizer that a name stands for; auto is Muon, which needs whole matrices.

    Of vectors it is AdamW: a batch of them costs less than to make an update orthogonal.

    Raises:
        ConfigError: Muon, where each process holds a part of each matrix.
    """
    if name == "auto":
        return "adamw" if is_sharded or are_vectors else "muon"
    if name == "muon" and is_sharded:
        raise ConfigError("optimizer is 'muon', and the parameters are sharded among processes: take adamw")
    return name


def begin(optimizer: torch.optim.Optimizer) -> None:
    """Make the moments of each parameter that has none, which an optimizer does at its first update."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if not state:
                state.update((name, torch.zeros_like(parameter.detach())) for name in group["moments"])
                if group["moments"] == ADAMW:
                    state["step"] = torch.zeros((), device=parameter.device)


def matrices(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights of linear layers and convolutions with at least 16 rows and columns, each once."""
    weights = {id(layer.weight) for layer in network.modules() if isinstance(layer, LAYERS)}
    found = [parameter for parameter in network.parameters() if id(parameter) in weights]
    return [parameter for parameter in found if min(parameter.flatten(1).shape) >= SMALLEST]


def orthogonal(update: Tensor) -> Tensor:
    """Return a matrix with all singular values near 1, U Vᵀ of u = U S Vᵀ, by five Newton–Schulz iterations.

    X ← Q X with Q = a + b G + c G², G = X Xᵀ, from X = u/‖u‖: each singular value s goes to
    a s + b s³ + c s⁵, and ends in 0.7 … 1.2 where it began above 0.01. All Q commute with G, so that the
    iterations are those of G and of their product alone, whose sides are the shorter one of u.
    """
    is_tall = update.shape[0] > update.shape[1]
    x = update.mT if is_tall else update
    x = x / (x.norm() + 1e-7)
    a, b, c = ITERATION
    gram, unit = x @ x.mT, torch.eye(len(x), dtype=x.dtype, device=x.device)
    product = unit
    for _ in range(ITERATIONS):
        q = torch.addmm(gram, gram, gram, beta=b, alpha=c).add_(unit, alpha=a)
        product, gram = q @ product, q @ gram @ q
    turned: Tensor = product @ x
    return turned.mT if is_tall else turned


def _adamw(groups: list[dict[str, Any]], rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS, fused=True)

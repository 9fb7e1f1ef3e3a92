r"""What the network is asked, and what its answer costs, by the same table as sampling reads it.

    input = c_in · (√ᾱ · x_0 + √(1−ᾱ) · z),   time = t or the kind's own,   loss = w(t) · ‖output − target‖²

A network that learns its variance returns twice the channels, and the loss is L_simple + λ L_vlb (Nichol &
Dhariwal 2021, arXiv 2102.09672, equation 16), λ = .001, where the bound sees the mean as a constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.errors import ShapeError, look_up
from alphabar.kernels import lincomb
from alphabar.process import (
    SIGMA_DATA,
    Parameterisation,
    Table,
    coefficients_at,
    coefficients_table,
    edm,
    named,
    no_answer,
    spread,
)
from alphabar.schedule import NoiseSchedule
from alphabar.training.bound import Steps, chain_steps, term_bits
from alphabar.training.loss import weights

__all__ = ["VARIANCES", "Objective", "check_answers"]

VLB = 1e-3  # λ, the weight of the bound

VARIANCES = {"fixed": 1, "learned_range": 2}
"""How the variance comes about, and how many times the channels of the image the network returns for it."""


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of a kind of network on a schedule; made by :meth:`of`."""

    prediction: str | Parameterisation
    """The kind of network."""
    table: Table
    """Of it, on the device."""
    has_own_time: bool
    """Whether the network takes another time than t."""
    weight: Tensor
    """(T,) w(t)."""
    steps: Steps | None
    """Of the bound, where the variance is learned."""

    @classmethod
    def of(
        cls,
        schedule: NoiseSchedule,
        prediction: str | Parameterisation,
        *,
        loss: str = "simple",
        variance: str = "fixed",
        sigma_data: float = SIGMA_DATA,
        device: torch.device | str = "cpu",
    ) -> Objective:
        """Return the loss of a kind of network on a schedule, its tables on the device.

        Args:
            schedule: the noise schedule.
            prediction: the kind of network; "edm" is that for data of this deviation.
            loss: a name in ``LOSSES``.
            variance: a name in ``VARIANCES``.
            sigma_data: the standard deviation of the data.
            device: where the data will be.

        Raises:
            NoAnswerError: a kind without an answer at a t of the schedule, as ε where ᾱ = 0.
            ConfigError: a loss whose weight is not finite.
            UnknownNameError: another prediction, loss or variance.
        """
        prediction = edm(sigma_data) if prediction == "edm" and sigma_data != SIGMA_DATA else prediction
        kind, place = named(prediction), torch.device(device)
        check_answers(schedule, kind)
        learns = look_up(VARIANCES, variance, "variance") > 1
        return cls(
            prediction,
            coefficients_table(schedule, kind, place),
            kind.time is not None,
            weights(schedule, kind, loss, sigma_data).to(place),
            chain_steps(schedule, device=place) if learns else None,
        )

    def ask(self, x_0: Tensor, noise: Tensor, t: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what the network takes: its input, (B, …), and its time, in the shape of t.

        Args:
            x_0: (B, …) clean data.
            noise: (B, …) standard normal.
            t: (B,) int64, or (B, 1, …) that broadcasts over the sides of x_0, a t for each token.
            out: where to write the input.
        """
        given = lincomb(self.table.noised[t], (x_0, noise), out=out)
        return given, self.table.time[t].float() if self.has_own_time else t

    def loss(self, output: Tensor, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the mean loss of a batch; arguments and errors as in :meth:`losses`."""
        return self.losses(output, x_0, noise, t).mean()

    def losses(self, output: Tensor, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the loss of each image of a batch, (B,), or at each place in the shape of t.

        Args:
            output: what the network returned: (B, C, …), or (B, 2C, …) where it learns its variance.
            x_0: (B, C, …) clean data.
            noise: (B, C, …) as it was added.
            t: (B,) int64; or (B, 1, …), a t for each token, where the variance is not learned.

        Raises:
            ShapeError: another shape.
        """
        self._check(output, x_0)
        output = output.to(torch.promote_types(output.dtype, x_0.dtype))
        answer, *variance = output.chunk(2, 1) if self.steps else (output,)
        error = answer - lincomb(self.table.target[t], (x_0, noise))
        losses = self.weight[t].to(error.dtype) * _mean(error.square(), t)
        if self.steps:
            of_x_0 = spread(self.table.x_0[t, 1], x_0).to(error.dtype) * error.detach()
            bits = term_bits(self.steps, t, x_0, of_x_0, *variance)
            losses = losses + VLB * len(self.weight) * bits
        return losses

    def _check(self, output: Tensor, x_0: Tensor) -> None:
        times = 2 if self.steps else 1
        expected = (len(x_0), times * x_0.shape[1], *x_0.shape[2:])
        if tuple(output.shape) != expected:
            why = "the mean and the variance" if self.steps else "one number for each of the images"
            raise ShapeError(f"the network returned {tuple(output.shape)}: expected {expected}, {why}")


def check_answers(schedule: NoiseSchedule, prediction: str | Parameterisation) -> None:
    """Require a kind of network whose output x̂_0 and ε̂ follow from at every t.

    Raises:
        NoAnswerError: another one, as ε where ᾱ = 0.
        UnknownNameError: another prediction.
    """
    kind = named(prediction)
    for t in (0, len(schedule) - 1):  # between them √ᾱ and √(1−ᾱ) are larger than at one of the two
        if not coefficients_at(schedule, kind, t).answers:
            raise no_answer(kind, f"t = {t}")


def _mean(squares: Tensor, t: Tensor) -> Tensor:
    """Return the mean over everything that has one t, in the shape of t."""
    if t.ndim == 1:
        return squares.flatten(1).mean(1)
    alike = [d for d in range(1, squares.ndim) if d >= t.ndim or t.shape[d] == 1]
    return squares.mean(alike).reshape(t.shape)

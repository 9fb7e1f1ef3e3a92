"""A sampler of your own in ten lines: DPM-Solver++ of second order.

A sampler is a table of numbers. With λ = log(√ᾱ/√(1−ᾱ)) and h = λ_s − λ_t, a row is

    x_s = σ_s/σ_t · x_t + (√ᾱ_s − σ_s/σ_t √ᾱ_t) · ((1 + k) · x̂_0 − k · x̂_0'),    k = h/(2 h')

where x̂_0' and h' are of the row before (Lu et al. 2022, arXiv 2211.01095, algorithm 2). One sees its
exact error beside DDIM's, which is this with k = 0: twice the steps halve DDIM's, and quarter this one's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from alphabar import DDIM, NoiseSchedule, Row
from alphabar.samplers import Stepwise, gaussian_error
from alphabar.schedule import Level, Spacing


@dataclass(frozen=True)
class TwoEstimates(Stepwise):
    """Each step uses the newest estimate of x_0 and the one before."""

    steps: int | None = None
    spacing: Spacing = "log_snr"

    def rows(self, levels: Sequence[Level]) -> Iterator[Row]:
        """Return the table on given levels, each noisier than the next."""
        before = 0.0
        for t, s in pairwise(levels):
            h = s.half_log_snr - t.half_log_snr
            k = h / (2 * before) if before and s.sigma else 0.0  # the last step, to clean data, is of order 1
            shrink = s.sigma / t.sigma
            b = s.signal - shrink * t.signal
            yield Row(t.t, s.t, shrink, (b * (1 + k), -b * k) if k else (b,))
            before = h


def main(most: int = 160) -> None:
    """Print the error for 10, 20, 40, … steps."""
    schedule, steps = NoiseSchedule.cosine(), 10
    print("steps      DDIM  two estimates")
    while steps <= most:
        errors = [gaussian_error(kind(steps, spacing="log_snr"), schedule) for kind in (DDIM, TwoEstimates)]
        print(f"{steps:5} {errors[0]:9.5f} {errors[1]:14.5f}")
        steps *= 2


if __name__ == "__main__":
    main()

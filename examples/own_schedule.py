"""A noise schedule of your own: from β, or from ᾱ.

One sees a table: how much signal each schedule leaves at its end, and the exact error of ten evaluations on
Gaussian data, for which the best possible network is known.
"""

import math

from alphabar import DPMSolver, NoiseSchedule
from alphabar.samplers import gaussian_error


def quadratic(steps: int) -> NoiseSchedule:
    """β_t rises as the square of t."""
    return NoiseSchedule.from_beta([1e-4 + 0.03 * (t / steps) ** 2 for t in range(steps)])


def straight_log_snr(steps: int, first: float = 9.0, last: float = -9.0) -> NoiseSchedule:
    """log ᾱ/(1−ᾱ) falls evenly; ᾱ is the sigmoid of it."""
    log_snr = [first + (last - first) * t / (steps - 1) for t in range(steps)]
    return NoiseSchedule.from_alpha_bar([1 / (1 + math.exp(-each)) for each in log_snr])


def main(steps: int = 1000, evaluations: int = 10) -> None:
    """Compare schedules of so many levels by samplers of so many evaluations."""
    schedules = {
        "linear": NoiseSchedule.linear(),
        "cosine": NoiseSchedule.cosine(steps),
        "quadratic β": quadratic(steps),
        "straight log-SNR": straight_log_snr(steps),
    }
    print(f"{'schedule':18} {'signal left at T':>16} {'error':>9}")
    for name, schedule in schedules.items():
        error = gaussian_error(DPMSolver(steps=evaluations, order=2), schedule)
        print(f"{name:18} {schedule.signal_scale[-1]:16.5f} {error:9.4f}")


if __name__ == "__main__":
    main()

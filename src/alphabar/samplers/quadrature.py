"""Integrals of polynomials against an exponential: the arithmetic under every fast solver.

    φ_k(z) = ∫_0^1 e^{(1−u) z} u^{k−1}/(k−1)! du,     φ_{k+1}(z) = (φ_k(z) − 1/k!)/z,     φ_0(z) = e^z

An estimate known at a few nodes u_k and integrated from u = 0 to u = 1 becomes Σ_k w_k · estimate_k. The w
that are right for every polynomial through the nodes solve Σ_k w_k u_k^j = μ_j, where μ_j is the integral
of u^j: the equation R ρ = b of UniPC (Zhao et al. 2023, arXiv 2302.04867, theorem 3.1). The functions φ are
those of Hochbruck & Ostermann 2005 and of Lu et al. 2022, arXiv 2206.00927, appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul

__all__ = ["moments", "phi", "weights"]

TERMS = 20  # of the series of φ at |z| < 1: the first one left out is below 1/20!


def phi(k: int, z: float) -> float:
    """φ_k(z), right to rounding; 0 at z = −∞.

    >>> phi(1, 0.0), phi(2, 0.0), phi(1, -math.inf)
    (1.0, 0.5, 0.0)
    """
    if abs(z) < 1:  # the recursion loses a digit for each digit of 1/z
        return math.fsum(z**n / math.factorial(n + k) for n in range(TERMS))
    value = math.exp(z)
    for i in range(k):
        value = (value - 1 / math.factorial(i)) / z
    return value


def moments(z: float, count: int) -> list[float]:
    """μ_j = −z ∫_0^1 e^{(1−u) z} u^j du = −z j! φ_{j+1}(z), for j = 1 … count.

    With z = −h these are what a solver in x̂_0 needs for a step of h in half log-SNR, in units of √ᾱ_s; with
    z = h what a solver in ε̂ needs, in units of √(1−ᾱ_s).
    """
    return [-z * math.factorial(j) * phi(j + 1, z) for j in range(1, count + 1)]


def weights(nodes: Sequence[float], integrals: Sequence[float]) -> list[float]:
    """Return the w with Σ_k w_k u_k^j = μ_j for j = 1 … n: of estimate_k − estimate_0, where u_0 = 0.

    w_k is the integral of Lagrange's polynomial u Π_m (u − u_m) / u_k Π_m (u_k − u_m), m ≠ k.

    >>> weights([1.0], [0.5]), weights([-1.0, 1.0], [0.0, 1.0])
    ([0.5], [0.5, 0.5])

    Args:
        nodes: u_k, distinct and not 0.
        integrals: μ_1 … μ_n, as many as nodes.
    """
    found = []
    for k, node in enumerate(nodes):
        product, at_node = [1.0], node  # the coefficients of Π (u − u_m), lowest power first
        for other in (*nodes[:k], *nodes[k + 1 :]):
            shifted, scaled = [0.0, *product], [*product, 0.0]
            product = [up - other * same for up, same in zip(shifted, scaled, strict=True)]
            at_node *= node - other
        found.append(sum(map(mul, product, integrals)) / at_node)
    return found

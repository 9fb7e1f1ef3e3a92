"""The one primitive and the noise it may need: add up a few tensors, draw a Gaussian by address.

    lincomb:  out = c_0 · x_0 + c_1 · x_1 + … + c · z
    normal:   z = Box–Muller(Philox(seed; block, stream, sample))

Everything the library does to data is a call of one of these two.
"""

from alphabar.kernels.backend import backend, is_traced
from alphabar.kernels.cpu import Address
from alphabar.kernels.lincomb import at_once, lincomb, work_dtype
from alphabar.kernels.philox import normal, philox4x32, uniform

__all__ = [
    "Address",
    "at_once",
    "backend",
    "is_traced",
    "lincomb",
    "normal",
    "philox4x32",
    "uniform",
    "work_dtype",
]

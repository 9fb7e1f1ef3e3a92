"""The one primitive and the noise it may need: add up a few tensors, draw a Gaussian by address.

    lincomb:  out = c_0 · x_0 + c_1 · x_1 + … + c · z
    normal:   z = Box–Muller(Philox(seed; block, stream, sample))

Everything the library does to data is a call of one of these two.
"""

from alphabar.kernels.backend import Address, is_traced
from alphabar.kernels.devices import backend
from alphabar.kernels.lincomb import all_finite, lincomb
from alphabar.kernels.philox import normal, philox4x32, uniform
from alphabar.kernels.reference import work_dtype

__all__ = [
    "Address",
    "all_finite",
    "backend",
    "is_traced",
    "lincomb",
    "normal",
    "philox4x32",
    "uniform",
    "work_dtype",
]

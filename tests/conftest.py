"""One thread and one fixed list of hypothesis examples: every run checks the same numbers."""

import os

import pytest
import torch
from hypothesis import settings

pytest.register_assert_rewrite("cases")
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=60, database=None)
settings.load_profile("fixed")
torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, by whatever comes first


@pytest.fixture
def rng():
    """A generator with a fixed seed: statistical statements are about one known draw."""
    return torch.Generator().manual_seed(20060111)


@pytest.fixture(scope="session")
def digits():
    """The 1,797 real 8×8 digits of scikit-learn in [−1, 1], (1797, 1, 8, 8) float64."""
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().images).unsqueeze(1) / 8 - 1

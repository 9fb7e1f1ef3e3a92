"""Every drop-in scheduler against its namesake in diffusers, on random configurations: see differential.py.

They agree in float64, in what they draw and in the precision of what they return, or are in DEVIATIONS, each
of which occurs. In lower precision and without the kernels ours is as near to its own float64 chain as
rounding allows, and in threads it gives the same bits.
"""

import pytest
from chains import draw_case
from configurations import OPTIONS
from deviations import DEVIATIONS, deviations_of
from differential import DTYPES, REFUSED, TOLERANCE, compare, threads_give_the_same_bits

from alphabar.diffusers.adapter import SCHEDULERS

CONFIGURATIONS = 20
NAMES = [name.removesuffix("Scheduler") for name in SCHEDULERS]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", NAMES)
def test_the_same_images_or_a_listed_deviation(name):
    found = []
    for seed in range(CONFIGURATIONS):
        case = draw_case(name, OPTIONS[name], seed)
        found.append((case, compare(case, DTYPES[seed % len(DTYPES)])))
    for case, comparison in found:
        assert not comparison.faults, f"{case}: {comparison.faults}"
        assert comparison.agrees or deviations_of(case), f"{case}: {comparison}"
    answered = [case for case, comparison in found if comparison is not REFUSED and comparison.agrees]
    assert len(answered) >= CONFIGURATIONS / 3, "too few configurations have an answer in both"
    assert all(map(threads_give_the_same_bits, answered[:3]))


@pytest.mark.parametrize("deviation", DEVIATIONS, ids=lambda deviation: deviation.what)
def test_each_deviation_still_occurs(deviation):
    assert deviations_of(deviation.example) == [deviation.what]
    for case in (deviation.example, *deviation.more):
        comparison = compare(case, DTYPES[0])
        assert not comparison.faults
        if comparison.difference > TOLERANCE:
            return
    pytest.fail("no longer so")

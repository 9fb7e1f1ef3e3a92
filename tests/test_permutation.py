"""The order of the images: a bijection at every size, and each order about as often as every other."""

import math
from itertools import islice

import pytest
import torch
from cases import check_error, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from alphabar.errors import ConfigError
from alphabar.training.order import Order
from alphabar.training.permutation import WINDOW, permuted, permuted_in_blocks

LIKELY = 1e-4  # the draws are fixed: a p-value above this once is above it always
BILLION = 10**9


def in_blocks(count, block, epoch=0, seed=0):
    places = torch.arange(count)
    return permuted_in_blocks(places, count, block, seed=seed, number=torch.full_like(places, epoch))


# It is a bijection


@given(st.integers(1, 10**5), seeds, st.integers(0, 2**63 - 1))
def test_every_number_comes_once(count, seed, epoch):
    found = permuted(torch.arange(count), count, seed=seed, number=epoch)
    assert torch.equal(found.sort().values, torch.arange(count))


@settings(max_examples=100)
@given(st.integers(1, 3000), st.integers(1, 4000), seeds, st.integers(0, 2**31))
def test_in_blocks_too(count, block, seed, epoch):
    assert torch.equal(in_blocks(count, block, epoch, seed).sort().values, torch.arange(count))


@pytest.mark.parametrize("block", [1, 1000, 999_999_999])
@pytest.mark.parametrize("count", [BILLION, 2**40 + 1])
def test_a_billion_of_them_are_addressed_one_by_one(count, block, rng):
    far = torch.randint(count, (20_000,), generator=rng).unique()
    for places in (far, torch.arange(20_000), torch.arange(count - 20_000, count)):
        found = permuted_in_blocks(places, count, block, seed=1, number=torch.full_like(places, 3))
        assert len(found.unique()) == len(places)
        assert int(found.min()) >= 0
        assert int(found.max()) < count
        few = permuted_in_blocks(places[7:9], count, block, seed=1, number=torch.full((2,), 3))
        assert torch.equal(few, found[7:9])  # a place alone is what it is among others


# It is random


@pytest.mark.parametrize(("count", "epochs"), [(2, 20_000), (3, 12_000), (4, 10_000), (5, 10_000)])
def test_all_orders_of_a_few_are_equally_frequent(count, epochs):
    places = torch.arange(count).expand(epochs, count)
    numbers = torch.arange(epochs)[:, None].expand_as(places)
    found = permuted(places, count, seed=5, number=numbers)
    _, seen = (found * count ** torch.arange(count)).sum(1).unique(return_counts=True)
    assert len(seen) == math.factorial(count)
    assert stats.chisquare(seen).pvalue > LIKELY


@pytest.mark.parametrize("block", [1, 3, 5])
def test_every_image_comes_at_every_place(block):
    count, epochs = 17, 8000
    places = torch.arange(count).expand(epochs, count)
    found = permuted_in_blocks(
        places, count, block, seed=2, number=torch.arange(epochs)[:, None].expand_as(places)
    )
    table = torch.zeros(count, count).index_put_((places, found), torch.ones(()), accumulate=True)
    # Rows and columns both sum up to the epochs: (17 − 1)² numbers are free.
    surplus = ((table - epochs / count) ** 2 / (epochs / count)).sum().item()
    assert stats.chi2.sf(surplus, (count - 1) ** 2) > LIKELY


@pytest.mark.parametrize("count", [10**4, BILLION, 2**40])
def test_neighbours_fall_anywhere_and_apart(count):
    found = permuted(torch.arange(10**4), count, seed=3)
    for value in (found, (found[1:] - found[:-1]) % count, (found[7:] - found[:-7]) % count):
        seen = torch.bincount(value * 100 // count, minlength=100)
        assert stats.chisquare(seen).pvalue > LIKELY


@pytest.mark.parametrize(
    "other", [{"seed": 4}, {"seed": 3 + 2**32}, {"number": 1}, {"number": 2**32}], ids=str
)
def test_orders_of_other_seeds_and_epochs_are_independent(other):
    count = 10**5
    one, two = (permuted(torch.arange(count), count, **({"seed": 3} | more)).double() for more in ({}, other))
    assert abs(torch.corrcoef(torch.stack([one, two]))[0, 1]) < 5 / count**0.5  # five standard errors
    assert (one == two).sum() < 10  # on average one


# Blocks keep reads together


@pytest.mark.parametrize(("count", "block"), [(10_000, 100), (10_007, 64), (500, 100), (99, 100)])
def test_a_window_of_places_reads_few_blocks(count, block):
    for epoch in range(5):
        read = [part.unique() for part in (in_blocks(count, block, epoch) // block).split(WINDOW * block)]
        # Its own, one that it shares with the window before, one with that after, and the short one.
        assert max(map(len, read)) <= WINDOW + 3
        assert sum(map(len, read)) <= -(-count // block) + 2 * len(read) + 1


def test_blocks_come_in_an_order_of_their_own_each_epoch():
    first, second = (in_blocks(10_000, 10, epoch) for epoch in range(2))
    assert (first == second).sum() < 10
    centres = first.view(-1, WINDOW * 10).double().mean(1)
    assert (
        centres.std() > 10_000 / 12**0.5 / WINDOW**0.5 / 2
    )  # of a window of neighbours it would be that of all


# The order of a run


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("start", [0, 1, 5, 700, 999, 1000])
def test_a_run_resumes_with_the_batch_it_would_have_come_to(start, block):
    whole = Order(37, seed=1, steps=1000, batch_size=12, offset=6, share=6, block=block)
    resumed = Order(37, seed=1, steps=1000, batch_size=12, offset=6, share=6, start=start, block=block)
    assert list(resumed) == list(whole)[start:]
    assert len(resumed) == 1000 - start


@pytest.mark.parametrize("block", [1, 3])
def test_every_epoch_of_a_run_holds_every_image(block):
    order = Order(10, seed=0, steps=10, batch_size=7, offset=0, share=7, block=block)
    numbers = [number for batch in order for number in batch]
    epochs = [numbers[at : at + 10] for at in range(0, 70, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 7


def test_the_order_of_a_billion_images_is_there_at_once():
    order = Order(BILLION, seed=0, steps=10**9, batch_size=64, offset=0, share=64, start=10**8, block=1000)
    numbers = [number for batch in islice(order, 40) for number in batch]
    assert len(set(numbers)) == 40 * 64


# Arguments


@pytest.mark.parametrize(
    ("places", "count", "options", "named"),
    [
        (torch.tensor([0, 5]), 5, {}, "places"),
        (torch.tensor([-1]), 5, {}, "places"),
        (torch.tensor([0.0]), 5, {}, "places"),
        (torch.tensor([0]), 0, {}, "count"),
        (torch.tensor([0]), 2**62 + 1, {}, "count"),
        (torch.tensor([0]), 5, {"seed": -1}, "seed"),
        (torch.tensor([0]), 5, {"number": -1}, "first"),
    ],
)
def test_arguments_outside_their_ranges_are_named(places, count, options, named):
    check_error(lambda: permuted(places, count, **({"seed": 0} | options)), ConfigError, named)

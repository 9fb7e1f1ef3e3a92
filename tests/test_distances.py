"""Scores of two sets of vectors with known answers, against torch-fidelity, and their intervals."""

import math
from fractions import Fraction
from statistics import fmean, variance

import pytest
import scipy.linalg
import torch
from cases import check_error, normals
from fidelity import import_fidelity
from hypothesis import given, settings
from hypothesis import strategies as st

from alphabar.errors import ConfigError, ShapeError
from alphabar.evaluation import Interval, Moments, frechet_distance, kernel_distance, scores_of
from alphabar.evaluation.distances import frechet_without, kernel_without
from alphabar.evaluation.intervals import BLOCKS, interval_of, shuffled_blocks, wilson
from alphabar.evaluation.neighbours import nearest, neighbour_scores


def two_sets(n=120, m=90, size=6, seed=0):
    return normals(n, size, seed=seed), 1.3 * normals(m, size, seed=seed + 1) + 0.4


@pytest.fixture(scope="module")
def fidelity():
    import_fidelity()
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    return metric_fid, metric_kid, metric_prc


@pytest.mark.parametrize(("n", "m", "size"), [(120, 90, 6), (40, 30, 64)])
def test_the_frechet_distance_is_torch_fidelitys_and_scipys(fidelity, n, m, size):
    a, b = two_sets(n, m, size)
    statistics = [fidelity[0].fid_features_to_statistics(x.double()) for x in (a, b)]
    theirs = fidelity[0].fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-6)
    root = scipy.linalg.sqrtm(statistics[0]["sigma"] @ statistics[1]["sigma"]).real
    apart = ((statistics[0]["mu"] - statistics[1]["mu"]) ** 2).sum()
    within = sum(each["sigma"].trace() for each in statistics)
    assert frechet_distance(a, b) == pytest.approx(apart + within - 2 * root.trace(), rel=1e-6)


def test_the_kernel_distance_is_torch_fidelitys_over_all_vectors(fidelity):
    a, b = two_sets(80, 80)
    options = {"kid_subsets": 1, "kid_subset_size": 80, "kid_kernel": "poly", "verbose": False}
    theirs = fidelity[1].kid_features_to_metric(a.double(), b.double(), **options)
    assert kernel_distance(a, b) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


def test_precision_and_recall_are_torch_fidelitys(fidelity):
    a, b = two_sets()
    theirs = fidelity[2].calculate_precision_recall_full(a.double(), b.double(), neighborhood=3)
    ours = neighbour_scores(a, b)
    assert (ours["precision"](None, None), ours["recall"](None, None)) == pytest.approx(theirs, abs=1e-6)


def test_the_kernel_distance_is_its_formula_on_a_few_whole_numbers():
    a = torch.arange(20.0)[:, None] % 3
    b = torch.arange(21.0)[:, None] % 4 - 1

    def k(x, y):
        return (Fraction(int(x)) * Fraction(int(y)) + 1) ** 3

    def within(x):
        pairs = [k(p, q) for i, p in enumerate(x) for j, q in enumerate(x) if i != j]
        return sum(pairs) / len(pairs)

    across = sum(k(p, q) for p in a for q in b) / (len(a) * len(b))
    assert kernel_distance(a, b) == pytest.approx(float(within(a) + within(b) - 2 * across), rel=1e-12)


def test_the_kernel_distance_is_unbiased():
    found = [kernel_distance(normals(40, 3, seed=2 * i), normals(40, 3, seed=2 * i + 1)) for i in range(200)]
    assert abs(fmean(found)) < 3 * math.sqrt(variance(found) / len(found))
    assert min(found) < 0  # as an unbiased estimate of 0 must


def test_density_and_coverage_are_their_formulas():
    a, b = two_sets(40, 30, 3)
    between, own = torch.cdist(a.double(), b.double()), torch.cdist(b.double(), b.double())
    reach = own.sort(1).values[:, 5]
    scores = neighbour_scores(a, b)
    inside = between <= reach
    assert scores["density"](None, None) == pytest.approx(float(inside.sum()) / (5 * 40), rel=1e-12)
    assert scores["coverage"](None, None) == pytest.approx(float(inside.any(0).double().mean()), rel=1e-12)


def test_scores_by_neighbours_tell_missing_modes_from_bad_samples():
    real = torch.cat([normals(100, 2), normals(100, 2, seed=1) + 20])
    one_mode = normals(200, 2, seed=2)
    far = normals(200, 2, seed=3) + 100
    found = {name: score(None, None) for name, score in neighbour_scores(one_mode, real).items()}
    assert found["precision"] > 0.9
    assert found["recall"] < 0.55
    assert found["coverage"] < 0.55
    assert all(score(None, None) == 0 for score in neighbour_scores(far, real).values())


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    width=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
def test_moments_add_up_in_any_parts(sizes, width, seed):
    x = 3 * normals(sum(sizes), width, seed=seed) + 5
    together = Moments.together([Moments.of(part) for part in x.split(sizes)])
    centred = x.double() - x.double().mean(0)
    assert together.count == len(x)
    assert together.mean.tolist() == pytest.approx(x.double().mean(0).tolist(), rel=1e-12, abs=1e-12)
    scatter = together.root.T @ together.root
    bound = 1e-13 * float(x.double().square().sum())
    assert float((scatter - centred.T @ centred).abs().max()) <= bound


@pytest.mark.parametrize("made", [frechet_without, kernel_without])
def test_a_block_that_is_left_out_is_as_if_it_had_never_been_there(made):
    a, b = two_sets()
    score = made(a, b)
    plain = frechet_distance if made is frechet_without else kernel_distance
    for block in (0, BLOCKS - 1):
        rows = [torch.cat([p for i, p in enumerate(shuffled_blocks(len(x))) if i != block]) for x in (a, b)]
        assert score(block, None) == pytest.approx(plain(a[rows[0]], b), rel=1e-10)
        assert score(None, block) == pytest.approx(plain(a, b[rows[1]]), rel=1e-10)
    assert score(None, None) == pytest.approx(plain(a, b), rel=1e-10)


@pytest.fixture(scope="module")
def repeated():
    return [scores_of(*two_sets(60, 60, 2, seed=2 * i)) for i in range(80)]


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("frechet", 0.5, 1.6),  # the sample variance of 80 draws is within half of the true one
        ("kernel", 0.5, 1.6),
        (
            "precision",
            0.8,
            6,
        ),  # the distance to a neighbour is not smooth: the interval is up to twice as wide
        ("recall", 0.8, 6),
        ("density", 0.8, 6),
        ("coverage", 0.8, 6),
    ],
)
def test_the_standard_errors_are_those_of_repeated_draws(repeated, name, least, most):
    drawn = [each[name] for each in repeated]
    seen = variance([each.value for each in drawn])
    expected = fmean(each.samples_error**2 + each.reference_error**2 for each in drawn)
    assert least * seen < expected < most * seen


def test_the_interval_of_a_mean_is_students():
    # The kernel distance of one-dimensional data is no mean, but a score that is one has Student's interval.
    x = normals(BLOCKS, 1).double()

    def mean(block, _):
        return float(x[[i for i in range(BLOCKS) if i != block]].mean())

    found = interval_of(mean)
    assert found.samples_error == pytest.approx(float(x.std()) / math.sqrt(BLOCKS), rel=1e-12)
    assert found.reference_error == 0
    assert found.high - found.low == pytest.approx(2 * 2.2622 * found.samples_error, rel=1e-4)


def test_seeds_narrow_the_interval_unless_they_differ():
    same = Interval.over_seeds([Interval(2.0, 0.3, 0.1)] * 9)
    assert (same.value, same.samples_error, same.reference_error) == pytest.approx((2.0, 0.1, 0.1))
    apart = Interval.over_seeds([Interval(value, 0.3, 0.1) for value in (0.0, 2.0, 4.0)])
    assert apart.samples_error == pytest.approx(2 / math.sqrt(3))


def test_a_difference_within_the_noise_is_none():
    a, b = Interval(1.0, 0.1, 5.0), Interval(1.2, 0.1, 5.0)
    assert not a.differs_from(b, same_reference=True)
    assert a.differs_from(Interval(1.5, 0.1, 5.0), same_reference=True)
    assert not a.differs_from(Interval(1.5, 0.1, 5.0), same_reference=False)


@pytest.mark.parametrize(("count", "of"), [(0, 300), (3, 300), (150, 300), (300, 300)])
def test_the_ends_of_wilsons_interval_are_where_the_normal_test_begins_to_refuse(count, of):
    for end, p in zip("lh", wilson(count, of), strict=True):
        if 1e-9 < p < 1 - 1e-9:
            assert abs(count / of - p) == pytest.approx(1.96 * math.sqrt(p * (1 - p) / of), rel=1e-9), end
    low, high = wilson(count, of)
    assert low - 1e-12 <= count / of <= high + 1e-12


def test_the_nearest_vector_is_found():
    training = normals(3000, 4)
    picked = [5, 2999, 1500]
    distances, numbers = nearest(training[picked] + 1e-3, training)
    assert numbers.tolist() == picked
    assert distances.tolist() == pytest.approx([2e-3] * 3, rel=1e-3)


@pytest.mark.parametrize(
    ("a", "b", "error", "says"),
    [
        (torch.zeros(19, 3), torch.zeros(50, 3), ShapeError, "at least 20"),
        (torch.zeros(50, 3), torch.zeros(50, 4), ShapeError, "expected (N, D)"),
        (torch.full((30, 3), torch.nan), torch.zeros(30, 3), ConfigError, "NaN"),
    ],
)
def test_sets_without_scores_are_refused(a, b, error, says):
    check_error(lambda: scores_of(a, b), error, says)

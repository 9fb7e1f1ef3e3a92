"""Fréchet distances with known answers, and a score that tells digits from noise."""

import pytest
import scipy.linalg
import torch
from cases import check_error, normals

from alphabar.cli.demo import halves, score_digits
from alphabar.errors import ConfigError, ShapeError
from alphabar.evaluation import fit_classifier, frechet_distance
from alphabar.training.data import load_data, to_unit


def white(count: int, size: int, seed: int = 0) -> torch.Tensor:
    """Vectors whose sample mean is exactly 0 and whose sample covariance is exactly the identity."""
    x = normals(count, size, seed=seed)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T


def test_two_gaussians_with_commuting_covariances_have_the_textbook_distance():
    stds_a, stds_b, shift = torch.tensor([1.0, 2, 3]), torch.tensor([2.0, 2, 1]), torch.tensor([3.0, 0, 4])
    expected = float(shift.square().sum() + (stds_a - stds_b).square().sum())
    found = frechet_distance(white(50, 3) * stds_a, white(80, 3, seed=1) * stds_b + shift)
    assert found == pytest.approx(expected, rel=1e-12)


def test_general_covariances_agree_with_the_matrix_square_root():
    a, b = normals(40, 5) @ normals(5, 5, seed=1), normals(60, 5, seed=2) @ normals(5, 5, seed=3) + 1
    product = scipy.linalg.sqrtm((torch.cov(a.T) @ torch.cov(b.T)).numpy()).real
    trace = torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * product.trace()
    assert frechet_distance(a, b) == pytest.approx(
        float((a.mean(0) - b.mean(0)).square().sum() + trace), rel=1e-9
    )


def test_the_distance_is_symmetric_and_ignores_rotations():
    a, b = normals(30, 4), 2 * normals(30, 4, seed=1) + 1
    rotation = torch.linalg.qr(normals(4, 4, seed=2)).Q
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(frechet_distance(a, b), rel=1e-12)


@pytest.mark.parametrize(("count", "size"), [(30, 4), (64, 512), (512, 64), (2, 3), (5, 1)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_the_distance_of_a_set_to_itself_is_0_and_never_negative(count, size, scale):
    a = scale * normals(count, size)
    trace = float(a.var(0).sum())
    assert 0 <= frechet_distance(a, a) <= 1e-13 * trace
    assert 0 <= frechet_distance(a, a.flip(0)) <= 1e-13 * trace  # the same set
    shifted = frechet_distance(a, a + scale)
    assert shifted == pytest.approx(size * scale**2, rel=1e-12)


def test_fewer_vectors_than_dimensions_have_the_distance_of_their_singular_covariances():
    # Diagonal covariances of rank 3 in 9 dimensions, two of whose axes are shared.
    axes, stds_a, stds_b = torch.eye(9, dtype=torch.float64), [1.0, 2.0, 3.0], [5.0, 2.0, 1.0]
    a = white(4, 3) @ (torch.tensor(stds_a).double()[:, None] * axes[[0, 1, 2]])
    b = white(4, 3, seed=1) @ (torch.tensor(stds_b).double()[:, None] * axes[[1, 2, 3]])
    expected = 1 + (2 - 5) ** 2 + (3 - 2) ** 2 + 1
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "error", "says"),
    [
        (torch.zeros(1, 3), torch.zeros(5, 3), ShapeError, "at least 2"),
        (torch.zeros(5, 3), torch.zeros(5, 4), ShapeError, "one length"),
        (torch.full((5, 3), torch.nan), torch.zeros(5, 3), ConfigError, "NaN"),
        (torch.zeros(5, 3), torch.full((5, 3), 1e200, dtype=torch.float64), ConfigError, "overflow"),
    ],
)
def test_sets_without_a_distance_are_refused(a, b, error, says):
    check_error(lambda: frechet_distance(a, b), error, says)


def test_the_same_seed_gives_the_same_classifier_and_leaves_the_global_generator_alone():
    digits = load_data("digits")
    few = digits[range(128)]
    before = torch.random.get_rng_state()
    first, second = (fit_classifier(to_unit(few.images), few.labels, epochs=1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_halves_are_disjoint_even_and_hold_every_image():
    data = load_data("digits")
    a, b = halves(data)
    assert (len(a), len(b)) == (899, 898)
    assert (a.labels.bincount() - b.labels.bincount()).abs().max() <= 1
    together = torch.cat([a.images, b.images]).flatten(1).tolist()
    assert sorted(together) == sorted(data.images.flatten(1).tolist())


def test_the_score_tells_real_digits_from_wrong_labels_and_from_noise():
    training, held_out = halves(load_data("digits"))
    real = to_unit(training.images)
    perfect = score_digits(real, training.labels, training, held_out)
    # The same images in another order: only rounding differs.
    assert perfect.pixels == pytest.approx(perfect.pixels_real, rel=1e-6)
    assert perfect.read_right == perfect.read_right_real > 0.97
    noise = torch.randn(512, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    broken = score_digits(noise, torch.arange(512) % 10, training, held_out)
    assert broken.pixels > 30 * broken.pixels_real
    assert broken.features > 30 * broken.features_real
    assert broken.read_right < 0.2

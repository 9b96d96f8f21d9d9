import numpy as np
import pytest

from bitwright.quantization.project import l1_threshold, project_onto_l1_ball

ROWS = np.random.default_rng(0).standard_normal((3, 20, 9)) * 3
ROWS[0, 0] = 0
ROWS[0, 1] = 2  # ties everywhere


@pytest.mark.parametrize("radius", [0.5, 4.0, 20.0])
def test_no_other_point_of_the_ball_is_nearer(radius):
    """The conditions of optimality: kept magnitudes lose the same, the others would have lost more than they have."""
    projected, taken = project_onto_l1_ball(ROWS, radius), l1_threshold(ROWS, radius)[..., None]
    outside = np.abs(ROWS).sum(-1) > radius
    # norms of nine float64 numbers of magnitude about 3
    np.testing.assert_allclose(np.abs(projected).sum(-1)[outside], radius, rtol=1e-13)
    loss = np.abs(ROWS) - np.abs(projected)
    np.testing.assert_allclose(np.where(projected != 0, loss, taken), np.broadcast_to(taken, loss.shape), atol=1e-14)
    assert (loss <= taken + 1e-14).all()
    assert (projected * ROWS >= 0).all()


@pytest.mark.parametrize("radius", [30.0, 1e9])
def test_rows_inside_the_ball_stay_as_they_are(radius):
    inside = ROWS[np.abs(ROWS).sum(-1) <= radius]
    assert len(inside)
    np.testing.assert_array_equal(project_onto_l1_ball(inside, radius), inside)


def test_rows_have_radii_of_their_own():
    radii = np.linspace(0.1, 30, ROWS[0].shape[0])
    each = np.concatenate([project_onto_l1_ball(row[None], radius) for row, radius in zip(ROWS[0], radii)])
    np.testing.assert_array_equal(project_onto_l1_ball(ROWS[0], radii), each)


def test_a_ball_of_one_point_leaves_zeros():
    assert not project_onto_l1_ball(ROWS, 0.0).any()

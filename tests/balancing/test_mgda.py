import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.balancing import MGDA

GRADIENTS = np.float32([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
SCALES = [1e-10, 1e-5, 1.0, 1e5, 1e10]


def random_gradients(seed, num_tasks, num_params=6):
    gradients = np.random.default_rng(seed).normal(size=(num_tasks, num_params))
    return gradients - 0.9 * gradients.mean(axis=0)  # conflicting


def test_direction_and_weights_worked_by_hand():
    # The point of the segment from (-4, 1, 1) to (6, 1, 1) nearest to 0 is (0, 1, 1).
    gramian = GRADIENTS @ GRADIENTS.T
    np.testing.assert_allclose(MGDA()(GRADIENTS), [0.0, 1.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(MGDA().compute_weights(gramian), [0.6, 0.4], rtol=1e-6)


def test_a_gradient_that_points_along_the_shortest_one_gets_no_weight():
    gradients = [[1.0, 0.0, 0.0], [3.0, 1.0, 0.0]]
    np.testing.assert_array_equal(MGDA()(gradients), [1.0, 0.0, 0.0])


@pytest.mark.parametrize("num_tasks", [2, 3, 5, 8])
def test_no_task_is_harmed(num_tasks):
    for seed in range(8):
        gradients = random_gradients(seed, num_tasks)
        direction = np.asarray(MGDA()(gradients))
        gains = gradients @ direction
        # KKT: g_i . d >= |d|^2, with equality on the support; float64 rounding.
        np.testing.assert_array_less(direction @ direction - 1e-10, gains)
        weights = MGDA().compute_weights(gradients @ gradients.T).numpy()
        np.testing.assert_allclose(gains[weights > 0], direction @ direction, atol=1e-10)


def test_direction_is_the_shortest_convex_combination():
    gradients = random_gradients(0, 4)
    shortest = np.linalg.norm(MGDA()(gradients))
    others = np.random.default_rng(1).dirichlet(np.ones(4), size=2000) @ gradients
    assert shortest <= np.linalg.norm(others, axis=1).min()


@pytest.mark.parametrize("scale", SCALES)
def test_direction_is_scale_equivariant(scale):
    gradients = np.float32(random_gradients(3, 4))
    expected = scale * np.asarray(MGDA()(gradients), "float64")
    # Rounding of the Gramian in float32, over a direction an eighth as long as the gradients.
    tolerance = 1e-5 * np.linalg.norm(expected)
    np.testing.assert_allclose(MGDA()(np.float32(scale) * gradients), expected, atol=tolerance)


@pytest.mark.parametrize("first", SCALES)
@pytest.mark.parametrize("second", SCALES)
def test_gradients_of_any_two_lengths_give_a_finite_direction_without_conflict(first, second):
    gradients = np.float32([[1.0, -2.0, 0.5], [-0.5, 2.0, 1.0]]) * np.float32([[first], [second]])
    direction = np.asarray(MGDA()(gradients), "float64")
    assert np.isfinite(direction).all()
    bound = -1e-6 * np.linalg.norm(gradients, axis=1) * np.linalg.norm(direction)
    np.testing.assert_array_less(bound, gradients @ direction)


def test_a_loss_weight_acts_in_reverse_on_orthogonal_gradients():
    # As the docstring says: three times the loss, a third of the contribution, up to length.
    direction = np.asarray(MGDA()([[3.0, 0.0], [0.0, 1.0]]))
    assert direction[0] / direction[1] == pytest.approx(1 / 3, rel=1e-5)


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([[1.0, 2.0], [0.0, 0.0]], [0.0, 0.0]),
        ([[1.0, 2.0], [-2.0, -4.0]], [0.0, 0.0]),
        ([[1.0, 2.0], [1.0, 2.0]], [1.0, 2.0]),
        ([[1.0, 2.0]], [1.0, 2.0]),
        ([[1.0], [2.0], [3.0]], [1.0]),
    ],
    ids=["zero", "opposite", "duplicate", "one_task", "one_parameter"],
)
def test_degenerate_gradients(gradients, expected):
    np.testing.assert_allclose(MGDA()(gradients), expected, atol=1e-6)


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_an_absent_task_equals_leaving_it_out(absent):
    gradients = random_gradients(5, 3)
    active = np.arange(3) != absent
    direction = MGDA()(np.where(active[:, None], gradients, 0), active)
    np.testing.assert_allclose(direction, MGDA()(gradients[active]), rtol=1e-8)


def test_no_active_task_gives_no_direction():
    np.testing.assert_array_equal(MGDA()(GRADIENTS, [0.0, 0.0]), np.zeros(3))


def test_a_permutation_of_tasks_permutes_the_weights():
    gradients, order = random_gradients(7, 5), [3, 0, 4, 1, 2]
    gramian = gradients @ gradients.T
    weights = MGDA().compute_weights(gramian).numpy()
    permuted = MGDA().compute_weights(gramian[order][:, order])
    np.testing.assert_allclose(permuted, weights[order], atol=1e-10)


def test_compiled_by_xla_equals_not_compiled():
    balancing, gradients = MGDA(), tf.constant(random_gradients(9, 4))
    compiled = tf.function(balancing, jit_compile=True)
    np.testing.assert_allclose(compiled(gradients), balancing(gradients), rtol=1e-8)


ORTHOGONAL = np.diag([3.0, 0.5])


def shortest(first, second):
    """The shortest vector between first * e_1 and second * e_2."""
    return np.array([first * second**2, first**2 * second]) / (first**2 + second**2)


@pytest.mark.parametrize(
    ("normalize", "losses", "lengths"),
    [
        ("l2", None, (1.0, 1.0)),
        ("loss", [5.0, 0.625], (0.6, 0.8)),
        ("loss+", [4.0, 2.0], (0.25, 0.5)),
    ],
)
def test_normalized_gradients_worked_by_hand(normalize, losses, lengths):
    direction = MGDA(normalize)(ORTHOGONAL, losses=losses)
    np.testing.assert_allclose(direction, shortest(*lengths), rtol=1e-6)


def test_length_normalized_direction_ignores_lengths_and_loss_plus_the_loss_weighting_too():
    gradients = random_gradients(0, 3)
    scaled = np.array([[1e-5], [1.0], [1e5]]) * gradients
    np.testing.assert_allclose(MGDA("l2")(scaled), MGDA("l2")(gradients), rtol=1e-6)
    one, other = (MGDA("loss+")(rows, losses=[1.0, 2.0, 3.0]) for rows in (gradients, scaled))
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_losses_and_gradients_of_zero_divide_by_one():
    direction = MGDA("loss+")([[0.0, 2.0], [0.0, 0.0]], losses=[0.0, 1.0])
    np.testing.assert_array_equal(direction, [0.0, 0.0])
    with pytest.raises(ValueError, match="`normalize` must be one of"):
        MGDA("l1")
    with pytest.raises(ValueError, match="`losses` must have shape"):
        MGDA("loss")(GRADIENTS)

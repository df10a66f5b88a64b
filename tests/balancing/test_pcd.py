import numpy as np
import pytest

from keras_mtl.balancing import PCD
from keras_mtl.core.roles import TaskRole


def unit(vector):
    return np.asarray(vector) / np.linalg.norm(vector)


def test_closed_form_of_two_tasks_worked_by_hand():
    # Normalized: u_1 = (1, 0), u_2 = (-0.6, 0.8). u_1 . u_2 = -0.6 must rise to tau = 0.2, so
    # mu = 0.8 and d = (0.52, 0.64), with the length of the main gradient, 5.
    direction = PCD(tau=0.2, epsilon=1e-20)([[5.0, 0.0], [-3.0, 4.0]])
    np.testing.assert_allclose(direction, 5 * unit([0.52, 0.64]), rtol=1e-5)


def test_the_main_gradient_is_kept_where_it_is_enough():
    gradients = [[2.0, 0.0], [1.0, 1.0], [3.0, -1.0]]
    np.testing.assert_allclose(PCD(tau=0.02)(gradients), [2.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize("num_tasks", [2, 3, 5])
@pytest.mark.parametrize("tau", [0.0, 0.02, 0.5])
def test_every_auxiliary_task_gets_its_part_and_the_conditions_of_optimality_hold(num_tasks, tau):
    for seed in range(8):
        gradients = np.random.default_rng(seed).normal(size=(num_tasks, 12))
        pcd = PCD(tau=tau, epsilon=1e-30)
        weights = np.asarray(pcd.compute_weights(gradients @ gradients.T))
        normalized = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
        # In units in which the main gradient counts once.
        multipliers = weights * np.linalg.norm(gradients, axis=1)
        multipliers /= multipliers[0]
        slack = normalized[1:] @ (multipliers @ normalized) - tau
        assert multipliers.min() >= 0.0
        # Solved in float64 with a jitter of 1e-12.
        assert slack.min() > -1e-8
        np.testing.assert_allclose(multipliers[1:] * slack, 0.0, atol=1e-8)
        length = np.linalg.norm(weights @ gradients)
        assert length == pytest.approx(np.linalg.norm(gradients[0]), rel=1e-9)


def test_lengths_of_auxiliary_gradients_do_not_count():
    gradients = np.random.default_rng(1).normal(size=(3, 6))
    scaled = np.array([[1.0], [1e-5], [1e5]]) * gradients
    first, second = (PCD(tau=0.3, epsilon=1e-30)(rows) for rows in (gradients, scaled))
    np.testing.assert_allclose(first, second, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_direction_is_finite_and_as_long_as_the_main_gradient(scale):
    gradients = np.float32(scale * np.array([[1.0, 0.0], [-1.0, 1.0], [0.5, -1.0]]))
    direction = np.asarray(PCD()(gradients), "float64")
    assert np.linalg.norm(direction) == pytest.approx(scale, rel=1e-4)


def test_constraints_that_exclude_each_other_leave_the_main_gradient():
    gradients = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]]  # the last two are opposite
    for dtype in ("float32", "float64"):
        found = PCD(tau=0.5)(np.asarray(gradients, dtype))
        np.testing.assert_allclose(found, [1.0, 1.0], rtol=1e-6)


def test_a_main_gradient_of_zero_gives_no_direction_and_without_a_main_task_the_rest_is_summed():
    gradients = [[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]
    np.testing.assert_array_equal(PCD()(gradients), [0.0, 0.0])
    np.testing.assert_array_equal(PCD()(gradients, active=[0, 1, 1]), [1.0, 2.0])


def test_several_main_tasks_count_by_their_sum():
    roles = [TaskRole("a"), TaskRole("b"), TaskRole("c", auxiliary=True)]
    gradients = np.array([[3.0, 1.0], [2.0, -1.0], [-3.0, 4.0]])
    merged = PCD(tau=0.2)([gradients[:2].sum(axis=0), gradients[2]])
    np.testing.assert_allclose(PCD(tau=0.2).bind(roles)(gradients), merged, rtol=1e-6)


def test_averages_of_squared_lengths_smooth_the_normalization_and_rest_while_absent():
    pcd = PCD(beta=0.5)
    pcd.compute_weights(np.diag([1.0, 4.0]))
    pcd.compute_weights(np.diag([1.0, 16.0]))
    # 0.5 (0.5 * 0 + 0.5 * 4) + 0.5 * 16, over 1 - 0.25.
    np.testing.assert_allclose(np.asarray(pcd.squares) / np.asarray(pcd.filled), [1.0, 12.0])
    before = np.asarray(pcd.squares).copy()
    pcd.compute_weights(np.diag([9.0, 1.0]), active=[1, 0])
    assert np.asarray(pcd.squares)[1] == before[1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tau": 1.5}, ValueError, "`tau` must be a finite number >= 0 and <= 1"),
        ({"beta": 1.0}, ValueError, "`beta` must be below 1"),
        ({"epsilon": 0.0}, ValueError, "`epsilon` must be a finite number > 0"),
        ({"tau": "small"}, TypeError, "`tau` must be a finite number"),
    ],
    ids=str,
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        PCD(**arguments)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_tasks", [3, 5, 8])
def test_where_two_tasks_want_opposite_ways_the_main_gradient_is_followed(num_tasks, dtype):
    for seed in range(8):
        random = np.random.default_rng(seed)
        gradients = random.normal(size=(num_tasks, 2 * num_tasks))
        # Opposed up to their lengths: no direction makes both fall.
        gradients[2] = -random.uniform(0.5, 2.0) * gradients[1]
        direction = np.asarray(PCD(tau=0.5)(gradients.astype(dtype)))
        np.testing.assert_allclose(direction, gradients[0], rtol=1e-5, atol=1e-5)

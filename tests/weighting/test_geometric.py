import numpy as np
import pytest
from keras import ops

from keras_mtl.core.derivatives import value_and_gradient
from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting import Geometric

LOSSES = np.float32([1.0, 2.0, 4.0])
GRADIENTS = np.float64([[1.0, 2.0, 0.0], [-1.0, 3.0, 1.0], [0.5, -1.0, 2.0]])


def derivatives(losses, active=None, **kwargs):
    """The total and the weights, as arrays."""
    weighting = Geometric(**kwargs)
    losses = ops.convert_to_tensor(losses, dtype="float32")
    total, weights, _ = value_and_gradient(lambda point: weighting(point, active), losses)
    return np.asarray(total), np.asarray(weights)


def test_total_and_weights_worked_by_hand():
    total, weights = derivatives(LOSSES)
    assert total == pytest.approx(2.0, rel=1e-6)  # the third root of 8
    np.testing.assert_allclose(weights, 2 / (3 * LOSSES), rtol=1e-6)


def test_the_total_of_one_task_is_its_loss():
    total, weights = derivatives([7.0])
    assert total == pytest.approx(7.0, rel=1e-6)
    assert weights == pytest.approx([1.0], rel=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 1e2, 1e4])
def test_every_task_adds_the_same_whatever_the_scale_of_its_loss(scale):
    losses = LOSSES * np.float32([1.0, scale, 1.0])
    total, weights = derivatives(losses)
    # Epsilon is 5e-5 of the smallest loss.
    np.testing.assert_allclose(weights * losses, np.full(3, total / 3), rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1e2, 1e4])
def test_direction_of_the_step_does_not_depend_on_the_scale_of_a_loss(scale):
    scales = np.float32([1.0, scale, 1.0])
    plain = derivatives(LOSSES)[1] @ GRADIENTS
    # A loss in other units has its gradient in them too.
    scaled = derivatives(LOSSES * scales)[1] @ (scales[:, None] * GRADIENTS)
    np.testing.assert_allclose(scaled, scale ** (1 / 3) * plain, rtol=1e-3, atol=1e-6)


def test_total_is_homogeneous_of_degree_one():
    assert derivatives(100 * LOSSES)[0] == pytest.approx(200.0, rel=1e-5)
    np.testing.assert_allclose(derivatives(100 * LOSSES)[1], derivatives(LOSSES)[1], rtol=1e-5)


def test_weights_sum_to_one_for_equal_losses_and_to_more_for_others():
    np.testing.assert_allclose(derivatives([3.0, 3.0, 3.0])[1], [1 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    # The geometric mean over the harmonic one.
    assert np.sum(derivatives(LOSSES)[1]) == pytest.approx(2 * np.mean(1 / LOSSES), rel=1e-6)


def test_weights_equal_the_numerical_derivative():
    steps = np.diag(0.02 * LOSSES)
    slopes = [
        (derivatives(LOSSES + step)[0] - derivatives(LOSSES - step)[0]) / (2 * np.sum(step))
        for step in steps
    ]
    # The third derivative leaves 7e-5, float32 1e-5.
    np.testing.assert_allclose(derivatives(LOSSES)[1], slopes, rtol=2e-4)


@pytest.mark.parametrize("loss", [np.nan, 0.0, -3.0, 1e8])
def test_absent_tasks_leave_the_others_as_without_them(loss):
    total, weights = derivatives([1.0, loss, 4.0], [True, False, True])
    expected = derivatives([1.0, 4.0])
    assert total == expected[0] == pytest.approx(2.0, rel=1e-6)
    np.testing.assert_array_equal(weights, np.insert(expected[1], 1, 0.0))


def test_with_all_tasks_absent_everything_is_zero():
    total, weights = derivatives([1.0, np.nan], [False, False])
    assert total == 0.0
    np.testing.assert_array_equal(weights, [0.0, 0.0])


def test_permuting_tasks_permutes_weights():
    order = np.array([2, 0, 1])
    (total, weights), permuted = derivatives(LOSSES), derivatives(LOSSES[order])
    assert permuted[0] == pytest.approx(total, rel=1e-6)
    np.testing.assert_allclose(permuted[1], weights[order], rtol=1e-6)


@pytest.mark.parametrize(
    "losses", [[0.0, 1e-8, 1e8], [0.0, 0.0, 0.0], [0.0, 1e8, 1e8], [1e8] * 40, [1e-8] * 40]
)
def test_finite_at_extreme_losses_and_for_many_tasks(losses):
    total, weights = derivatives(losses)
    assert np.isfinite(total)
    assert np.all(np.isfinite(weights))
    assert np.all(weights > 0)


def test_epsilon_is_added_to_each_loss():
    total, weights = derivatives([0.0, 3.75], epsilon=0.25)
    assert total == pytest.approx(1.0, rel=1e-6)  # the root of 0.25 * 4
    np.testing.assert_allclose(weights, [2.0, 0.125], rtol=1e-6)


def test_a_negative_loss_is_refused_by_name():
    weighting = Geometric().bind([TaskRole("age"), TaskRole("sex")])
    message = "Geometric is undefined for negative losses: the loss of task 'sex' must be >= 0"
    with pytest.raises(ValueError, match=message):
        weighting([1.0, -2.0])
    with pytest.raises(ValueError, match="the loss at index 0 must be >= 0, received -1"):
        Geometric().compute_weights([-1.0, 2.0])


def test_config_round_trip():
    restored = Geometric.from_config(Geometric(epsilon=1e-6, name="mine").get_config())
    assert (restored.epsilon, restored.name) == (1e-6, "mine")


@pytest.mark.parametrize("epsilon", [0.0, -1e-8, 2.0, np.nan])
def test_an_epsilon_out_of_range_is_refused(epsilon):
    message = "`epsilon` must be a finite number >= 1e-12 and <= 1.0, received"
    with pytest.raises(ValueError, match=message):
        Geometric(epsilon=epsilon)


@pytest.mark.parametrize("epsilon", ["1e-8", None, True])
def test_an_epsilon_of_another_type_is_refused(epsilon):
    with pytest.raises(TypeError, match="`epsilon` must be a finite number"):
        Geometric(epsilon=epsilon)

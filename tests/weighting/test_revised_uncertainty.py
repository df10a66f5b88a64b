import keras
import numpy as np
import pytest
from keras import ops

from keras_mtl.core.derivatives import value_and_gradient
from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting import RevisedUncertainty, Uncertainty

LOSSES = np.float32([1.0, 2.0, 4.0])


def revised(log_variances):
    weighting = RevisedUncertainty()
    weighting.build_for(len(log_variances))
    weighting.log_variances.assign(log_variances)
    return weighting


def derivatives(weighting, losses, active=None):
    """The total, the weights, and the gradient of the log variances, as arrays."""
    total, weights, (log_variances,) = value_and_gradient(
        lambda point: weighting(point, active),
        ops.convert_to_tensor(losses, dtype="float32"),
        [weighting.log_variances],
    )
    return np.asarray(total), np.asarray(weights), np.asarray(log_variances)


def optimal_variances(losses):
    """Where the derivative vanishes: 0.5 L / v = v / (1 + v), a quadratic equation in v."""
    losses = np.float64(losses)
    return (losses + np.sqrt(losses**2 + 8 * losses)) / 4


def train(weighting, losses, steps, learning_rate):
    optimizer = keras.optimizers.SGD(learning_rate)
    for _ in range(steps):
        optimizer.apply([derivatives(weighting, losses)[2]], [weighting.log_variances])


def test_total_and_weights_at_unit_variance():
    # 0.5 * 7 + 3 log 2
    total, weights, _ = derivatives(revised([0.0, 0.0, 0.0]), LOSSES)
    assert total == pytest.approx(3.5 + 3 * np.log(2.0), rel=1e-6)
    np.testing.assert_array_equal(weights, [0.5, 0.5, 0.5])


def test_total_and_weights_at_other_variances():
    # Variances 1/3 and 3: 1.5 * 2 + log 4/3 + 1/6 * 6 + log 4
    weighting = revised([-np.log(3.0), np.log(3.0)])
    assert float(weighting([2.0, 6.0])) == pytest.approx(4.0 + np.log(16 / 3), rel=1e-6)
    np.testing.assert_allclose(weighting.compute_weights([2.0, 6.0]), [1.5, 1 / 6], rtol=1e-6)


def test_equals_the_formula_of_the_paper_in_its_own_parameter():
    deviations = np.float64([0.5, 1.0, 3.0])
    expected = np.sum(LOSSES / (2 * deviations**2) + np.log(1 + deviations**2))
    assert float(revised(np.log(deviations**2))(LOSSES)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("log_variance", [-20.0, -3.0, 0.0, 3.0, 20.0])
@pytest.mark.parametrize("loss", [0.0, 1e-8, 1e-3, 1.0, 1e8])
def test_total_is_never_negative(log_variance, loss):
    assert float(revised([log_variance])([loss])) > 0


def test_total_of_small_losses_is_positive_where_that_of_uncertainty_is_not():
    losses = np.float32([1e-3, 1e-3])
    uncertainty = Uncertainty()
    uncertainty.build_for(2)
    uncertainty.log_variances.assign(np.log(losses))  # its optimum
    assert float(uncertainty(losses)) < -5
    assert float(revised(np.log(optimal_variances(losses)))(losses)) > 0


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0, 1e2, 1e6])
def test_total_is_least_at_the_root_of_the_quadratic_equation(scale):
    optimum = np.log(optimal_variances(scale * LOSSES))
    least, _, gradient = derivatives(revised(optimum), scale * LOSSES)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-5)
    for step in (-0.5, 0.5):
        assert float(revised(optimum + step)(scale * LOSSES)) > least


@pytest.mark.parametrize(
    ("loss", "weight"), [(1e6, 1e-6), (1.0, 0.5), (1e-6, 707.107), (1e-10, 70710.7)]
)
def test_best_weight_is_one_over_large_losses_and_over_the_root_of_small_ones(loss, weight):
    weights = revised(np.log(optimal_variances([loss]))).compute_weights([loss])
    # Relative distance from 1 / sqrt(2 L) for small losses: sqrt(L / 8).
    np.testing.assert_allclose(weights, [weight], rtol=2e-3)


def test_training_on_constant_losses_reaches_the_optimum():
    weighting = revised([0.0, 0.0, 0.0])
    train(weighting, LOSSES, steps=60, learning_rate=0.5)
    np.testing.assert_allclose(
        weighting.log_variances, np.log(optimal_variances(LOSSES)), atol=1e-4
    )


@pytest.mark.parametrize(("loss", "steps", "log_variance"), [(0.0, 5, -20.0), (1e8, 1, 20.0)])
def test_training_stays_within_the_bound_and_comes_back(loss, steps, log_variance):
    weighting = revised([0.0])
    train(weighting, [loss], steps, learning_rate=1e5)
    np.testing.assert_array_equal(weighting.log_variances, [log_variance])
    train(weighting, [1.0], steps=1, learning_rate=1.0)
    assert float(weighting.log_variances[0]) != log_variance


@pytest.mark.parametrize("log_variance", [-20.0, 0.0, 20.0])
def test_finite_at_extreme_losses(log_variance):
    values = derivatives(revised([log_variance] * 3), [0.0, 1e-8, 1e8])
    assert all(np.all(np.isfinite(value)) for value in values)
    assert np.isfinite(np.sum(np.square(values[2])))  # as clipping and Adam need


def test_initial_log_variance_is_where_s_starts():
    weighting = RevisedUncertainty(initial_log_variance=np.log(4.0))
    np.testing.assert_allclose(weighting.compute_weights([4.0, 1.0]), [0.125, 0.125], rtol=1e-6)


def test_classification_has_the_same_form():
    roles = [TaskRole("age"), TaskRole("sex", likelihood="classification")]
    weights = RevisedUncertainty().bind(roles).compute_weights([4.0, 1.0])
    np.testing.assert_array_equal(weights, [0.5, 0.5])


def test_weights_equal_the_numerical_derivative():
    weighting = revised([0.3, -1.0, 0.5])
    steps = 0.5 * np.eye(3, dtype="float32")  # the total is linear in the losses
    slopes = [float(weighting(LOSSES + step) - weighting(LOSSES - step)) for step in steps]
    np.testing.assert_allclose(weighting.compute_weights(LOSSES), slopes, rtol=1e-5)


def test_absent_tasks_leave_the_others_as_without_them():
    with_absent = revised([0.3, 9.0, -1.0])
    values = derivatives(with_absent, [1.0, np.nan, 4.0], [True, False, True])
    expected = derivatives(revised([0.3, -1.0]), [1.0, 4.0])
    np.testing.assert_allclose(values[0], expected[0], rtol=1e-6)
    np.testing.assert_array_equal(values[1], np.insert(expected[1], 1, 0.0))
    np.testing.assert_array_equal(values[2], np.insert(expected[2], 1, 0.0))


def test_with_all_tasks_absent_everything_is_zero():
    for value in derivatives(revised([0.3, 9.0]), [1.0, np.nan], [False, False]):
        np.testing.assert_array_equal(value, np.zeros_like(value))


def test_permuting_tasks_permutes_weights_and_gradients():
    order, log_variances = np.array([2, 0, 1]), np.float32([0.3, -1.0, 0.5])
    total, weights, gradient = derivatives(revised(log_variances), LOSSES)
    permuted = derivatives(revised(log_variances[order]), LOSSES[order])
    np.testing.assert_allclose(permuted[0], total, rtol=1e-6)
    np.testing.assert_array_equal(permuted[1], weights[order])
    np.testing.assert_array_equal(permuted[2], gradient[order])


def test_a_negative_loss_is_refused_by_name():
    weighting = RevisedUncertainty().bind([TaskRole("age"), TaskRole("sex")])
    message = "RevisedUncertainty is undefined for negative losses: the loss of task 'sex' must"
    with pytest.raises(ValueError, match=message):
        weighting([1.0, -2.0])


def test_config_round_trip():
    config = RevisedUncertainty(initial_log_variance=-1.5, name="mine").get_config()
    restored = RevisedUncertainty.from_config(config)
    assert (restored.initial_log_variance, restored.name) == (-1.5, "mine")


@pytest.mark.parametrize("value", [np.nan, np.inf, -21.0, 20.5])
def test_a_log_variance_out_of_range_is_refused(value):
    message = r"`initial_log_variance` must be a finite number >= -20.0 and <= 20.0, received"
    with pytest.raises(ValueError, match=message):
        RevisedUncertainty(initial_log_variance=value)


@pytest.mark.parametrize("value", ["0", None, [0.0, 0.0]])
def test_a_log_variance_of_another_type_is_refused(value):
    with pytest.raises(TypeError, match="`initial_log_variance` must be a finite number"):
        RevisedUncertainty(initial_log_variance=value)

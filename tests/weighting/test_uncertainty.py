import keras
import numpy as np
import pytest
from keras import ops

from keras_mtl.core.derivatives import value_and_gradient
from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting import Uncertainty

LOSSES = np.float32([1.0, 2.0, 4.0])
ROLES = [TaskRole("age"), TaskRole("sex", likelihood="classification")]


def uncertainty(log_variances, **kwargs):
    weighting = Uncertainty(**kwargs)
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


@pytest.mark.parametrize(
    ("form", "total"), [("auto", 3.5), ("regression", 3.5), ("classification", 7)]
)
def test_total_at_unit_variance(form, total):
    assert float(Uncertainty(form=form)(LOSSES)) == total


def test_weights_at_unit_variance():
    np.testing.assert_array_equal(Uncertainty().compute_weights([4.0, 1.0]), [0.5, 0.5])


def test_total_and_weights_at_other_variances():
    # 0.5 * 2 * 1 + 0.5 * 0.25 * 4 + 0.5 * (-log 2 + log 4)
    weighting = uncertainty([-np.log(2.0), np.log(4.0)])
    assert float(weighting([1.0, 4.0])) == pytest.approx(1.5 + 0.5 * np.log(2.0), rel=1e-6)
    np.testing.assert_allclose(weighting.compute_weights([1.0, 4.0]), [1.0, 0.125], rtol=1e-6)


def test_initial_log_variance_is_where_s_starts():
    weighting = Uncertainty(initial_log_variance=np.log(4.0))
    np.testing.assert_allclose(weighting.compute_weights([4.0, 1.0]), [0.125, 0.125], rtol=1e-6)


def test_auto_takes_the_form_of_each_role():
    weights = Uncertainty().bind(ROLES).compute_weights([4.0, 1.0])
    np.testing.assert_array_equal(weights, [0.5, 1.0])


@pytest.mark.parametrize(("form", "weight"), [("regression", 0.5), ("classification", 1.0)])
def test_a_forced_form_overrides_the_roles(form, weight):
    weights = Uncertainty(form=form).bind(ROLES).compute_weights([4.0, 1.0])
    np.testing.assert_array_equal(weights, [weight, weight])


@pytest.mark.parametrize(("form", "factor"), [("regression", 1.0), ("classification", 2.0)])
def test_optimum_is_the_log_of_the_loss(form, factor):
    optimum = np.log(factor * LOSSES)
    at_optimum = derivatives(uncertainty(optimum, form=form), LOSSES)[2]
    np.testing.assert_allclose(at_optimum, 0.0, atol=1e-6)
    above = derivatives(uncertainty(optimum + 1, form=form), LOSSES)[2]
    np.testing.assert_allclose(above, 0.5 - 0.5 / np.e, rtol=1e-5)


def test_training_on_constant_losses_reaches_the_optimum():
    weighting, optimizer = uncertainty([0.0, 0.0, 0.0]), keras.optimizers.SGD(0.5)
    for _ in range(40):
        optimizer.apply([derivatives(weighting, LOSSES)[2]], [weighting.log_variances])
    np.testing.assert_allclose(weighting.log_variances, np.log(LOSSES), atol=1e-4)


@pytest.mark.parametrize(("loss", "log_variance"), [(0.0, -20.0), (1e8, 20.0)])
def test_training_stays_within_the_bound_and_comes_back(loss, log_variance):
    weighting, optimizer = uncertainty([0.0]), keras.optimizers.SGD(10.0)
    for _ in range(5):
        optimizer.apply([derivatives(weighting, [loss])[2]], [weighting.log_variances])
    np.testing.assert_array_equal(weighting.log_variances, [log_variance])
    optimizer.apply([derivatives(weighting, [1.0])[2]], [weighting.log_variances])
    assert float(weighting.log_variances[0]) != log_variance


@pytest.mark.parametrize("log_variance", [-20.0, 0.0, 20.0])
def test_finite_at_extreme_losses(log_variance):
    values = derivatives(uncertainty([log_variance] * 3), [0.0, 1e-8, 1e8])
    assert all(np.all(np.isfinite(value)) for value in values)
    assert np.isfinite(np.sum(np.square(values[2])))  # as clipping and Adam need


def test_weights_equal_the_numerical_derivative():
    weighting = uncertainty([0.3, -1.0, 0.5])
    steps = 0.5 * np.eye(3, dtype="float32")  # the total is linear in the losses
    slopes = [float(weighting(LOSSES + step) - weighting(LOSSES - step)) for step in steps]
    np.testing.assert_allclose(weighting.compute_weights(LOSSES), slopes, rtol=1e-5)


def test_absent_tasks_leave_the_others_as_without_them():
    with_absent = uncertainty([0.3, 9.0, -1.0])
    values = derivatives(with_absent, [1.0, np.nan, 4.0], [True, False, True])
    expected = derivatives(uncertainty([0.3, -1.0]), [1.0, 4.0])
    np.testing.assert_allclose(values[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(values[1], np.insert(expected[1], 1, 0.0), rtol=1e-6)
    np.testing.assert_allclose(values[2], np.insert(expected[2], 1, 0.0), rtol=1e-6)


def test_permuting_tasks_permutes_weights_and_gradients():
    order, log_variances = np.array([2, 0, 1]), np.float32([0.3, -1.0, 0.5])
    total, weights, gradient = derivatives(uncertainty(log_variances), LOSSES)
    permuted = derivatives(uncertainty(log_variances[order]), LOSSES[order])
    np.testing.assert_allclose(permuted[0], total, rtol=1e-6)
    np.testing.assert_array_equal(permuted[1], weights[order])
    np.testing.assert_array_equal(permuted[2], gradient[order])


def test_config_round_trip():
    weighting = Uncertainty(initial_log_variance=-1.5, form="classification", name="mine")
    restored = Uncertainty.from_config(weighting.get_config())
    assert restored.get_config() == weighting.get_config()
    assert (restored.initial_log_variance, restored.form) == (-1.5, "classification")


@pytest.mark.parametrize("value", [np.nan, np.inf, -21.0, 20.5])
def test_a_log_variance_out_of_range_is_refused(value):
    message = r"`initial_log_variance` must be a finite number >= -20.0 and <= 20.0, received"
    with pytest.raises(ValueError, match=message):
        Uncertainty(initial_log_variance=value)


@pytest.mark.parametrize("value", ["0", None, [0.0, 0.0]])
def test_a_log_variance_of_another_type_is_refused(value):
    with pytest.raises(TypeError, match="`initial_log_variance` must be a finite number"):
        Uncertainty(initial_log_variance=value)


def test_an_unknown_form_is_refused_with_the_nearest():
    message = r"`form` must be one of \['auto', .*'regresion'.* Did you mean 'regression'"
    with pytest.raises(ValueError, match=message):
        Uncertainty(form="regresion")


def test_a_negative_loss_is_refused():
    with pytest.raises(ValueError, match=r"Uncertainty is undefined for negative .* index 1"):
        Uncertainty()([1.0, -2.0])

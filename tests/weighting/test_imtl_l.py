import keras
import numpy as np
import pytest
from keras import ops

import keras_mtl
from keras_mtl.core.derivatives import value_and_gradient
from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting import IMTLL, ScaleInvariant, Uncertainty

LOSSES = np.float32([1.0, 2.0, 4.0])


def imtl_l(log_scales):
    weighting = IMTLL()
    weighting.build_for(len(log_scales))
    weighting.log_scales.assign(log_scales)
    return weighting


def derivatives(weighting, losses, active=None):
    """The total, the weights, and the gradient of the log scales, as arrays."""
    total, weights, (log_scales,) = value_and_gradient(
        lambda point: weighting(point, active),
        ops.convert_to_tensor(losses, dtype="float32"),
        [weighting.log_scales],
    )
    return np.asarray(total), np.asarray(weights), np.asarray(log_scales)


def train(weighting, losses, steps, learning_rate):
    optimizer = keras.optimizers.SGD(learning_rate)
    for _ in range(steps):
        optimizer.apply([derivatives(weighting, losses)[2]], [weighting.log_scales])


@pytest.mark.parametrize("name", ["imtl_l", "IMTL_L", "IMTLL"])
def test_its_name_is_imtl_l(name):
    assert type(keras_mtl.weighting.get(name)) is IMTLL


def test_starts_as_the_plain_sum():
    assert float(IMTLL()(LOSSES)) == 7.0
    np.testing.assert_array_equal(IMTLL().compute_weights(LOSSES), [1.0, 1.0, 1.0])


def test_total_and_weights_at_other_scales():
    # 2 * 1 - log 2 + 0.25 * 4 + log 4
    weighting = imtl_l([np.log(2.0), -np.log(4.0)])
    assert float(weighting([1.0, 4.0])) == pytest.approx(3.0 + np.log(2.0), rel=1e-6)
    np.testing.assert_allclose(weighting.compute_weights([1.0, 4.0]), [2.0, 0.25], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 1e3, 1e8])
def test_scaled_losses_are_one_at_the_optimum_whatever_the_units(scale):
    losses = scale * LOSSES
    values = derivatives(imtl_l(-np.log(losses)), losses)
    # float32 keeps 1e-6 of a logarithm near 20, so 2e-6 of what it is the logarithm of.
    np.testing.assert_allclose(values[1] * losses, np.ones(3), rtol=4e-6)
    np.testing.assert_allclose(values[2], np.zeros(3), atol=4e-6)


@pytest.mark.parametrize("step", [-1.0, 1.0])
def test_total_is_least_at_minus_the_log_of_the_loss(step):
    optimum = -np.log(LOSSES)
    # exp(1) - 1 and exp(-1) + 1 a task instead of 1.
    above = float(imtl_l(optimum + step)(LOSSES)) - float(imtl_l(optimum)(LOSSES))
    assert above == pytest.approx(3 * (np.exp(step) - step - 1), rel=1e-5)


def test_at_the_optimum_it_is_scale_invariant_weighting():
    weighting = imtl_l(-np.log(LOSSES))
    assert float(weighting(LOSSES)) == pytest.approx(3 + float(ScaleInvariant()(LOSSES)), rel=1e-6)
    expected = ScaleInvariant().compute_weights(LOSSES)
    np.testing.assert_allclose(weighting.compute_weights(LOSSES), expected, rtol=1e-6)


def test_it_is_twice_uncertainty_with_the_opposite_sign_of_s():
    log_scales = np.float32([0.3, -1.0, 0.5])
    uncertainty = Uncertainty(form="regression")
    uncertainty.build_for(3)
    uncertainty.log_variances.assign(-log_scales)
    total, weights, _ = derivatives(imtl_l(log_scales), LOSSES)
    assert total == pytest.approx(2 * float(uncertainty(LOSSES)), rel=1e-6)
    np.testing.assert_allclose(weights, 2 * uncertainty.compute_weights(LOSSES), rtol=1e-6)


def test_training_on_constant_losses_reaches_the_optimum():
    weighting = imtl_l([0.0, 0.0, 0.0])
    train(weighting, LOSSES, steps=60, learning_rate=0.3)
    np.testing.assert_allclose(weighting.log_scales, -np.log(LOSSES), atol=1e-4)


@pytest.mark.parametrize(("loss", "steps", "log_scale"), [(0.0, 5, 20.0), (1e8, 1, -20.0)])
def test_training_stays_within_the_bound_and_comes_back(loss, steps, log_scale):
    weighting = imtl_l([0.0])
    train(weighting, [loss], steps, learning_rate=10.0)
    np.testing.assert_array_equal(weighting.log_scales, [log_scale])
    train(weighting, [1.0], steps=1, learning_rate=1.0)
    assert float(weighting.log_scales[0]) != log_scale


@pytest.mark.parametrize("log_scale", [-20.0, 0.0, 20.0])
def test_finite_at_extreme_losses(log_scale):
    values = derivatives(imtl_l([log_scale] * 3), [0.0, 1e-8, 1e8])
    assert all(np.all(np.isfinite(value)) for value in values)
    assert np.isfinite(np.sum(np.square(values[2])))  # as clipping and Adam need


def test_weights_equal_the_numerical_derivative():
    weighting = imtl_l([0.3, -1.0, 0.5])
    steps = 0.5 * np.eye(3, dtype="float32")  # the total is linear in the losses
    slopes = [float(weighting(LOSSES + step) - weighting(LOSSES - step)) for step in steps]
    np.testing.assert_allclose(weighting.compute_weights(LOSSES), slopes, rtol=1e-5)


def test_absent_tasks_leave_the_others_as_without_them():
    with_absent = imtl_l([0.3, 9.0, -1.0])
    values = derivatives(with_absent, [1.0, np.nan, 4.0], [True, False, True])
    expected = derivatives(imtl_l([0.3, -1.0]), [1.0, 4.0])
    np.testing.assert_allclose(values[0], expected[0], rtol=1e-6)
    np.testing.assert_array_equal(values[1], np.insert(expected[1], 1, 0.0))
    np.testing.assert_array_equal(values[2], np.insert(expected[2], 1, 0.0))


def test_with_all_tasks_absent_everything_is_zero():
    for value in derivatives(imtl_l([0.3, 9.0]), [1.0, np.nan], [False, False]):
        np.testing.assert_array_equal(value, np.zeros_like(value))


def test_permuting_tasks_permutes_weights_and_gradients():
    order, log_scales = np.array([2, 0, 1]), np.float32([0.3, -1.0, 0.5])
    total, weights, gradient = derivatives(imtl_l(log_scales), LOSSES)
    permuted = derivatives(imtl_l(log_scales[order]), LOSSES[order])
    np.testing.assert_allclose(permuted[0], total, rtol=1e-6)
    np.testing.assert_array_equal(permuted[1], weights[order])
    np.testing.assert_array_equal(permuted[2], gradient[order])


def test_a_negative_loss_is_refused_by_name():
    weighting = IMTLL().bind([TaskRole("age"), TaskRole("sex")])
    message = "IMTLL is undefined for negative losses: the loss of task 'sex' must be >= 0"
    with pytest.raises(ValueError, match=message):
        weighting([1.0, -2.0])


def test_config_round_trip():
    assert IMTLL.from_config(IMTLL(name="mine").get_config()).name == "mine"

import keras
import numpy as np
import pytest
from keras import ops

from keras_mtl.core.derivatives import value_and_gradient
from keras_mtl.weighting import Learned

LOSSES = np.float32([1.0, 2.0, 4.0])


def learned(logits, **kwargs):
    weighting = Learned(**kwargs)
    weighting.build_for(len(logits))
    weighting.logits.assign(logits)
    return weighting


def derivatives(weighting, losses, active=None):
    """The total, the weights, and the gradient of the logits, as arrays."""
    total, weights, (logits,) = value_and_gradient(
        lambda point: weighting(point, active),
        ops.convert_to_tensor(losses, dtype="float32"),
        [weighting.logits],
    )
    return np.asarray(total), np.asarray(weights), np.asarray(logits)


def optimal_weights(losses, strength):
    """w_i = strength / (L_i - mu), with mu < min L found by bisection on sum w = m."""
    low, high = np.min(losses) - 1e6, np.min(losses)
    for _ in range(200):
        mu = (low + high) / 2
        too_much = np.sum(strength / (losses - mu)) > len(losses)
        low, high = (low, mu) if too_much else (mu, high)
    return strength / (losses - mu)


def train(weighting, losses, steps, learning_rate):
    optimizer = keras.optimizers.SGD(learning_rate)
    for _ in range(steps):
        optimizer.apply([derivatives(weighting, losses)[2]], [weighting.logits])


def test_starts_as_the_plain_sum():
    weighting = Learned()
    assert float(weighting(LOSSES)) == pytest.approx(7.0)
    np.testing.assert_allclose(weighting.compute_weights(LOSSES), [1.0, 1.0, 1.0], rtol=1e-6)


def test_total_of_unequal_weights():
    # softmax = (1/4, 3/4), w = (0.5, 1.5); 0.5 * 4 + 1.5 * 1 - 2 (log 0.5 + log 1.5)
    weighting = learned([0.0, np.log(3.0)], strength=2.0)
    assert float(weighting([4.0, 1.0])) == pytest.approx(3.5 - 2 * np.log(0.75), rel=1e-6)
    np.testing.assert_allclose(weighting.compute_weights([4.0, 1.0]), [0.5, 1.5], rtol=1e-6)


@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0])
def test_total_is_stationary_at_strength_over_loss_minus_mu(strength):
    weights = optimal_weights(LOSSES.astype("float64"), strength)
    gradient = derivatives(learned(np.log(weights), strength=strength), LOSSES)[2]
    np.testing.assert_allclose(gradient, 0.0, atol=1e-5 * max(1.0, strength))
    elsewhere = derivatives(learned(np.log(weights[::-1]), strength=strength), LOSSES)[2]
    assert np.max(np.abs(elsewhere)) > 1e-2


def test_training_on_constant_losses_reaches_the_optimum():
    weighting = learned([0.0, 0.0, 0.0], strength=0.5)
    train(weighting, LOSSES, steps=60, learning_rate=0.6)
    weights = weighting.compute_weights(LOSSES)
    np.testing.assert_allclose(weights, optimal_weights(LOSSES, 0.5), rtol=1e-3)


def test_training_on_a_huge_loss_leaves_its_weight_positive():
    weighting = learned([0.0, 0.0])
    train(weighting, [1.0, 1e8], steps=3, learning_rate=1.0)
    assert np.min(weighting.compute_weights([1.0, 1e8])) > 0


def test_barrier_grows_by_strength_for_every_factor_of_e():
    # Far out w_2 = 2 exp(-s), so the total grows by strength for each unit of s.
    totals = [float(learned([s, 0.0], strength=3.0)([0.0, 0.0])) for s in (15.0, 16.0)]
    assert totals[1] - totals[0] == pytest.approx(3.0, rel=1e-5)


def test_equal_losses_leave_equal_weights_in_place():
    gradient = derivatives(learned([0.0, 0.0, 0.0]), [3.0, 3.0, 3.0])[2]
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_weights_sum_to_the_number_of_active_tasks():
    weighting = learned([0.3, -2.0, 5.0])
    assert np.sum(weighting.compute_weights(LOSSES)) == pytest.approx(3.0)
    weights = weighting.compute_weights(LOSSES, [True, True, False])
    assert np.sum(weights) == pytest.approx(2.0)


def test_weights_equal_the_numerical_derivative():
    weighting = learned([0.3, -1.0, 0.5])
    steps = 0.5 * np.eye(3, dtype="float32")  # the total is linear in the losses
    slopes = [float(weighting(LOSSES + step) - weighting(LOSSES - step)) for step in steps]
    np.testing.assert_allclose(weighting.compute_weights(LOSSES), slopes, rtol=1e-5)


def test_logit_gradient_equals_the_numerical_derivative():
    logits = np.float32([0.3, -1.0, 0.5])
    steps = 0.01 * np.eye(3, dtype="float32")
    slopes = [
        float(learned(logits + step)(LOSSES) - learned(logits - step)(LOSSES)) / 0.02
        for step in steps
    ]
    gradient = derivatives(learned(logits), LOSSES)[2]
    np.testing.assert_allclose(gradient, slopes, atol=1e-3)  # float32 differences of ~10 / 0.02


def test_absent_tasks_leave_the_others_as_without_them():
    with_absent = learned([0.3, 9.0, -1.0])
    total, weights, logits = derivatives(with_absent, [1.0, np.nan, 4.0], [True, False, True])
    expected = derivatives(learned([0.3, -1.0]), [1.0, 4.0])
    np.testing.assert_allclose(total, expected[0], rtol=1e-6)
    np.testing.assert_allclose(weights, np.insert(expected[1], 1, 0.0), rtol=1e-6)
    np.testing.assert_allclose(logits, np.insert(expected[2], 1, 0.0), rtol=1e-6)


def test_with_all_tasks_absent_everything_is_zero():
    for value in derivatives(learned([0.3, 9.0]), [1.0, 4.0], [False, False]):
        np.testing.assert_array_equal(value, np.zeros_like(value))


def test_permuting_tasks_permutes_weights_and_gradients():
    order, logits = np.array([2, 0, 1]), np.float32([0.3, -1.0, 0.5])
    total, weights, gradient = derivatives(learned(logits), LOSSES)
    permuted = derivatives(learned(logits[order]), LOSSES[order])
    np.testing.assert_allclose(permuted[0], total, rtol=1e-6)
    np.testing.assert_allclose(permuted[1], weights[order], rtol=1e-6)
    np.testing.assert_allclose(permuted[2], gradient[order], rtol=1e-5)


@pytest.mark.parametrize("logits", [[0.0, 0.0, 0.0], [-20.0, 20.0, 0.0], [20.0, 20.0, -20.0]])
def test_finite_at_extreme_losses(logits):
    for value in derivatives(learned(logits), [0.0, 1e-8, 1e8]):
        assert np.all(np.isfinite(value))


def test_config_round_trip():
    restored = Learned.from_config(Learned(strength=0.25, name="mine").get_config())
    assert (restored.strength, restored.name) == (0.25, "mine")


@pytest.mark.parametrize("strength", [0.0, -1.0, np.inf, np.nan])
def test_a_strength_that_is_no_positive_number_is_refused(strength):
    with pytest.raises(ValueError, match="`strength` must be a finite number > 0, received"):
        Learned(strength=strength)


@pytest.mark.parametrize("strength", ["1", None, True])
def test_a_strength_of_another_type_is_refused(strength):
    with pytest.raises(TypeError, match="`strength` must be a finite number > 0, received"):
        Learned(strength=strength)

import keras
import numpy as np
import pytest
from keras import ops

import keras_mtl
from keras_mtl.core.derivatives import value_and_gradient
from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting import ScaleInvariant

LOSSES = np.float32([1.0, 2.0, 4.0])


def derivatives(losses, active=None, **kwargs):
    """The total and the weights, as arrays."""
    weighting = ScaleInvariant(**kwargs)
    losses = ops.convert_to_tensor(losses, dtype="float32")
    total, weights, _ = value_and_gradient(lambda point: weighting(point, active), losses)
    return np.asarray(total), np.asarray(weights)


def fitted_weights(loss_weighting, scale):
    """The weights of a model of two tasks after a few steps, the loss of one in other units."""
    keras.utils.set_random_seed(1)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(16, 3)), random.normal(size=(2, 16, 1))
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, "tanh")(inputs)
    outputs = {task: keras.layers.Dense(1, name=task)(hidden) for task in ("a", "b")}
    model = keras_mtl.MultiTaskModel(inputs, outputs)

    def scaled(y_true, y_pred):
        return scale * ops.mean(ops.square(y_true - y_pred), axis=-1)

    loss = {"a": "mse", "b": scaled}
    model.compile(keras.optimizers.SGD(0.05), loss, loss_weighting=loss_weighting)
    model.fit(x, {"a": y[0], "b": y[1]}, batch_size=8, epochs=3, shuffle=False, verbose=0)
    return np.concatenate([np.ravel(weight) for weight in model.get_weights()])


def test_total_and_weights_worked_by_hand():
    total, weights = derivatives(LOSSES)
    assert total == pytest.approx(np.log(8.0), rel=1e-6)
    np.testing.assert_allclose(weights, [1.0, 0.5, 0.25], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 1e2, 1e4])
def test_every_task_adds_one_whatever_the_scale_of_its_loss(scale):
    losses = LOSSES * np.float32([1.0, scale, 1.0])
    # Epsilon is 5e-5 of the smallest loss.
    np.testing.assert_allclose(derivatives(losses)[1] * losses, np.ones(3), rtol=1e-4)


def test_a_scale_moves_the_total_by_its_logarithm():
    scaled = derivatives(LOSSES * np.float32([1.0, 100.0, 1.0]))[0]
    assert scaled - derivatives(LOSSES)[0] == pytest.approx(np.log(100.0), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_training_is_the_same_with_a_loss_in_other_units(scale):
    expected = fitted_weights("scale_invariant", 1.0)
    # Epsilon is about 1e-5 of the smallest loss, a thousandth of 1.
    np.testing.assert_allclose(fitted_weights("scale_invariant", scale), expected, atol=1e-4)
    assert np.max(np.abs(fitted_weights("fixed", scale) - fitted_weights("fixed", 1.0))) > 1e-2


def test_weights_equal_the_numerical_derivative():
    steps = np.diag(0.02 * LOSSES)
    slopes = [
        (derivatives(LOSSES + step)[0] - derivatives(LOSSES - step)[0]) / (2 * np.sum(step))
        for step in steps
    ]
    # The third derivative leaves 1.3e-4, float32 1e-5.
    np.testing.assert_allclose(derivatives(LOSSES)[1], slopes, rtol=3e-4)


@pytest.mark.parametrize("loss", [np.nan, 0.0, -3.0, 1e8])
def test_absent_tasks_leave_the_others_as_without_them(loss):
    total, weights = derivatives([1.0, loss, 4.0], [True, False, True])
    expected = derivatives([1.0, 4.0])
    assert total == expected[0] == pytest.approx(np.log(4.0), rel=1e-6)
    np.testing.assert_array_equal(weights, np.insert(expected[1], 1, 0.0))


def test_with_all_tasks_absent_everything_is_zero():
    total, weights = derivatives([5.0, np.nan], [False, False])
    assert total == 0.0
    np.testing.assert_array_equal(weights, [0.0, 0.0])


def test_permuting_tasks_permutes_weights():
    order = np.array([2, 0, 1])
    (total, weights), permuted = derivatives(LOSSES), derivatives(LOSSES[order])
    assert permuted[0] == pytest.approx(total, rel=1e-6)
    np.testing.assert_array_equal(permuted[1], weights[order])


@pytest.mark.parametrize("losses", [[0.0, 1e-8, 1e8], [0.0, 0.0, 0.0], [1e8, 1e8, 1e8]])
def test_finite_at_extreme_losses(losses):
    total, weights = derivatives(losses)
    assert np.isfinite(total)
    # 1 / epsilon at most, and that can still be squared in float32.
    np.testing.assert_allclose(weights, 1 / (np.float64(losses) + 1e-8), rtol=1e-6)


def test_epsilon_is_added_to_each_loss():
    total, weights = derivatives([0.0, 3.75], epsilon=0.25)
    assert total == pytest.approx(0.0, abs=1e-6)  # log 0.25 + log 4
    np.testing.assert_allclose(weights, [4.0, 0.25], rtol=1e-6)


def test_a_negative_loss_is_refused_by_name():
    weighting = ScaleInvariant().bind([TaskRole("age"), TaskRole("sex")])
    message = "ScaleInvariant is undefined for negative losses: the loss of task 'sex' must be >= 0"
    with pytest.raises(ValueError, match=message):
        weighting([1.0, -2.0])
    with pytest.raises(ValueError, match="the loss at index 0 must be >= 0, received -1"):
        ScaleInvariant().compute_weights([-1.0, 2.0])


def test_config_round_trip():
    restored = ScaleInvariant.from_config(ScaleInvariant(epsilon=1e-6, name="mine").get_config())
    assert (restored.epsilon, restored.name) == (1e-6, "mine")


@pytest.mark.parametrize("epsilon", [0.0, -1e-8, 2.0, np.nan])
def test_an_epsilon_out_of_range_is_refused(epsilon):
    message = "`epsilon` must be a finite number >= 1e-12 and <= 1.0, received"
    with pytest.raises(ValueError, match=message):
        ScaleInvariant(epsilon=epsilon)


@pytest.mark.parametrize("epsilon", ["1e-8", None, True])
def test_an_epsilon_of_another_type_is_refused(epsilon):
    with pytest.raises(TypeError, match="`epsilon` must be a finite number"):
        ScaleInvariant(epsilon=epsilon)

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_mtl.core.derivatives import value_and_gradient
from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting import LossBalanced

FIRST, NOW = np.float32([4.0, 1.0, 2.0]), np.float32([1.0, 9.0, 2.0])


def after(*steps, **kwargs):
    """A weighting after the first steps of an epoch; NaN is a loss without labels."""
    weighting = LossBalanced(**kwargs)
    weighting.on_epoch_begin()
    for losses in steps:
        weighting.update_state(losses, np.float32(~np.isnan(losses)))
    return weighting


def derivatives(weighting, losses, active=None):
    """The total and the weights, as arrays."""
    losses = ops.convert_to_tensor(losses, dtype="float32")
    total, weights, _ = value_and_gradient(lambda point: weighting(point, active), losses)
    return np.asarray(total), np.asarray(weights)


def test_total_and_weights_worked_by_hand():
    total, weights = derivatives(after(FIRST), NOW)
    np.testing.assert_allclose(weights, [0.5, 3.0, 1.0], rtol=1e-6)  # roots of 1/4, 9 and 1
    assert total == pytest.approx(0.5 * 1 + 3 * 9 + 1 * 2, rel=1e-6)


def test_weights_are_one_in_the_first_step_of_an_epoch():
    total, weights = derivatives(after(), NOW)
    assert total == pytest.approx(12.0, rel=1e-6)
    np.testing.assert_array_equal(weights, [1.0, 1.0, 1.0])


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 1.0, 2.0])
def test_weights_are_powers_of_the_ratio(alpha):
    weights = derivatives(after(FIRST, alpha=alpha), NOW)[1]
    np.testing.assert_allclose(weights, (NOW / FIRST) ** alpha, rtol=1e-5)


def test_only_the_first_step_of_the_epoch_counts():
    weights = derivatives(after(FIRST, [9.0, 9.0, 9.0], [0.1, 0.1, 0.1]), NOW)[1]
    np.testing.assert_allclose(weights, [0.5, 3.0, 1.0], rtol=1e-6)


def test_a_new_epoch_starts_from_its_own_first_step():
    weighting = after(FIRST)
    weighting.on_epoch_begin()
    np.testing.assert_array_equal(derivatives(weighting, NOW)[1], [1.0, 1.0, 1.0])
    weighting.update_state(NOW, [1.0, 1.0, 1.0])
    np.testing.assert_allclose(derivatives(weighting, 4 * NOW)[1], [2.0, 2.0, 2.0], rtol=1e-6)


def test_normalized_weights_sum_to_the_number_of_active_tasks():
    weighting = after(FIRST, normalize=True)
    total, weights = derivatives(weighting, NOW)
    np.testing.assert_allclose(weights, 3 * np.array([0.5, 3.0, 1.0]) / 4.5, rtol=1e-5)
    assert total == pytest.approx(np.dot(weights, NOW), rel=1e-6)
    weights = derivatives(weighting, NOW, [True, False, True])[1]
    np.testing.assert_allclose(weights, 2 * np.array([0.5, 0.0, 1.0]) / 1.5, rtol=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_units_of_a_loss_do_not_matter_to_the_weights(normalize):
    units = np.float32([1.0, 1e3, 1e-3])
    plain = derivatives(after(FIRST, normalize=normalize), NOW)[1]
    scaled = derivatives(after(FIRST * units, normalize=normalize), NOW * units)[1]
    np.testing.assert_allclose(scaled, plain, rtol=1e-5)


def test_a_task_that_is_absent_first_starts_at_its_own_first_step():
    weighting = after([4.0, np.nan])
    np.testing.assert_allclose(derivatives(weighting, [1.0, 7.0])[1], [0.5, 1.0], rtol=1e-6)
    weighting.update_state([1.0, 7.0], [1.0, 1.0])
    np.testing.assert_allclose(derivatives(weighting, [1.0, 28.0])[1], [0.5, 2.0], rtol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
def test_weights_equal_the_derivative_of_the_total_at_weights_held_fixed(normalize):
    weighting = after(FIRST, normalize=normalize)
    total, weights = derivatives(weighting, NOW)
    assert total == pytest.approx(np.dot(weights, NOW), rel=1e-6)
    ratios = np.sqrt(NOW / FIRST)
    expected = 3 * ratios / np.sum(ratios) if normalize else ratios
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_with_alpha_zero_weights_equal_the_numerical_derivative():
    weighting, steps = after(FIRST, alpha=0.0), 0.5 * np.eye(3)  # linear
    slopes = [float(weighting(NOW + step) - weighting(NOW - step)) for step in steps]
    np.testing.assert_allclose(derivatives(weighting, NOW)[1], slopes, rtol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("loss", [np.nan, 0.0, -3.0, 1e8])
def test_absent_tasks_leave_the_others_as_without_them(loss, normalize):
    weighting = after([4.0, 5.0, 1.0], normalize=normalize)
    total, weights = derivatives(weighting, [1.0, loss, 9.0], [True, False, True])
    expected = derivatives(after([4.0, 1.0], normalize=normalize), [1.0, 9.0])
    assert total == pytest.approx(expected[0], rel=1e-6)
    np.testing.assert_allclose(weights, np.insert(expected[1], 1, 0.0), rtol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
def test_with_all_tasks_absent_everything_is_zero(normalize):
    for steps in ([], [[1.0, 2.0]]):
        weighting = after(*steps, normalize=normalize)
        total, weights = derivatives(weighting, [1.0, np.nan], [False, False])
        assert total == 0.0
        np.testing.assert_array_equal(weights, [0.0, 0.0])


def test_permuting_tasks_permutes_weights():
    order = np.array([2, 0, 1])
    weights = derivatives(after(FIRST), NOW)[1]
    np.testing.assert_array_equal(derivatives(after(FIRST[order]), NOW[order])[1], weights[order])


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 10.0])
@pytest.mark.parametrize("now", [[0.0, 1e-8, 1e8], [0.0, 0.0, 0.0], [1e8, 1e8, 1e8]])
def test_finite_at_extreme_losses(now, alpha, normalize):
    for first in ([1e8, 0.0, 1e-8], [1e8, 1e8, 1e8], [0.0, 0.0, 0.0]):
        total, weights = derivatives(after(first, alpha=alpha, normalize=normalize), now)
        assert np.isfinite(total)
        assert np.all(np.isfinite(weights))
        assert np.max(weights) <= 1.001e10
        assert not normalize or np.sum(weights) == pytest.approx(3.0, rel=1e-6)


def test_small_losses_count_as_1e_8_in_the_ratio():
    weights = derivatives(after([0.0, 1.0]), [4e-8, 0.0])[1]
    np.testing.assert_allclose(weights, [2.0, 1e-4], rtol=1e-5)


def test_a_negative_loss_is_refused_by_name():
    weighting = LossBalanced().bind([TaskRole("age"), TaskRole("sex")])
    message = "LossBalanced is undefined for negative losses: the loss of task 'sex' must be >= 0"
    with pytest.raises(ValueError, match=message):
        weighting([1.0, -2.0])
    with pytest.raises(ValueError, match="the loss at index 0 must be >= 0, received -1"):
        LossBalanced().compute_weights([-1.0, 2.0])


def test_all_state_is_one_entry_a_task_and_not_trainable():
    weighting = after(FIRST)
    assert [variable.shape for variable in weighting.variables] == [(3,)]
    assert len(weighting.task_variables) == 1
    assert weighting.trainable_variables == []


def test_state_moves_in_the_graph_and_under_replicas(strategy):
    with strategy.scope():
        weighting = LossBalanced()
        weighting.build_for(2)

    @tf.function
    def step(losses, active):
        strategy.run(weighting.update_state, args=(losses, active))

    for losses, active in (([4.0, 0.0], [1.0, 0.0]), ([1.0, 9.0], [1.0, 1.0])):
        step(tf.constant(losses), tf.constant(active))
    np.testing.assert_array_equal(weighting.first_losses, [4.0, 9.0])
    weighting.on_epoch_begin()
    np.testing.assert_array_equal(weighting.first_losses, [-1.0, -1.0])


def test_copied_state_resumes_in_mid_epoch():
    weighting = after(FIRST)
    restored = LossBalanced.from_config(weighting.get_config())
    restored.build_for(3)
    restored.set_weights(weighting.get_weights())
    np.testing.assert_allclose(derivatives(restored, NOW)[1], [0.5, 3.0, 1.0], rtol=1e-6)


def test_config_round_trip():
    config = LossBalanced(alpha=0.1, normalize=True, name="mine").get_config()
    restored = LossBalanced.from_config(config)
    assert (restored.alpha, restored.normalize, restored.name) == (0.1, True, "mine")


@pytest.mark.parametrize("alpha", [-0.1, 10.1, np.inf, np.nan])
def test_an_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(ValueError, match="`alpha` must be a finite number >= 0 and <= 10, recei"):
        LossBalanced(alpha=alpha)


def test_arguments_of_another_type_are_refused():
    with pytest.raises(TypeError, match="`alpha` must be a finite number"):
        LossBalanced(alpha="0.5")
    with pytest.raises(ValueError, match=r"`normalize` must be one of \[False, True\], received"):
        LossBalanced(normalize="sum")

import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.weighting import DynamicWeightAverage


def after(*epochs, active=None, **kwargs):
    """A weighting at the start of the epoch that follows `epochs`, each a list of steps."""
    weighting = DynamicWeightAverage(**kwargs)
    for steps in epochs:
        weighting.on_epoch_begin()
        for losses in steps:
            present = np.float32(~np.isnan(losses)) if active is None else active
            weighting.update_state(losses, present)
    weighting.on_epoch_begin()
    return weighting


def weights_of(weighting, active=None):
    num_tasks = weighting.num_tasks or 2
    return np.asarray(weighting.compute_weights(np.ones(num_tasks), active))


def expected(ratios, temperature=2.0):
    exponentials = np.exp(np.divide(ratios, temperature))
    return len(ratios) * exponentials / np.sum(exponentials)


def test_worked_value():
    weighting = after([[1.0, 1.0]], [[1.0, 4.0]], temperature=2.0)
    np.testing.assert_allclose(weights_of(weighting), expected([1.0, 4.0]), rtol=1e-6)
    np.testing.assert_allclose(weights_of(weighting), [0.364851, 1.635149], rtol=1e-5)


@pytest.mark.parametrize("epochs", [[], [[[3.0, 0.1]]]])
def test_weights_are_equal_in_the_first_two_epochs(epochs):
    np.testing.assert_array_equal(weights_of(after(*epochs)), [1.0, 1.0])


def test_total_is_the_weighted_sum():
    weighting = after([[1.0, 1.0]], [[1.0, 4.0]])
    total = float(weighting([10.0, 100.0]))
    assert total == pytest.approx(np.dot(expected([1.0, 4.0]), [10.0, 100.0]), rel=1e-6)


def test_ratios_are_of_epoch_means():
    weighting = after([[1.0, 4.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    np.testing.assert_allclose(weights_of(weighting), expected([0.5, 0.5]), rtol=1e-6)
    weighting = after([[1.0, 4.0], [3.0, 4.0]], [[4.0, 1.0], [4.0, 3.0]])
    np.testing.assert_allclose(weights_of(weighting), expected([2.0, 0.5]), rtol=1e-6)


def test_only_the_last_two_epochs_count():
    weighting = after([[9.0, 7.0]], [[2.0, 2.0]], [[1.0, 4.0]])
    np.testing.assert_allclose(weights_of(weighting), expected([0.5, 2.0]), rtol=1e-6)


def test_weights_do_not_move_within_an_epoch():
    weighting = after([[1.0, 1.0]], [[1.0, 4.0]])
    before = weights_of(weighting)
    weighting.update_state([50.0, 0.1], [1.0, 1.0])
    np.testing.assert_array_equal(weights_of(weighting), before)


def test_weights_sum_to_the_number_of_active_tasks():
    weighting = after([[1.0, 1.0, 1.0]], [[1.0, 4.0, 0.5]])
    assert np.sum(weights_of(weighting)) == pytest.approx(3.0)
    assert np.sum(weights_of(weighting, [True, False, True])) == pytest.approx(2.0)


def test_a_high_temperature_gives_equal_weights():
    weighting = after([[1.0, 1.0]], [[1.0, 4.0]], temperature=1e6)
    np.testing.assert_allclose(weights_of(weighting), [1.0, 1.0], rtol=1e-5)


def test_a_second_rollover_without_steps_changes_nothing():
    weighting = after([[1.0, 1.0]], [[1.0, 4.0]])
    before = weighting.get_weights()
    weighting.on_epoch_begin()
    for left, right in zip(weighting.get_weights(), before, strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_task_without_labels_in_an_epoch_keeps_its_ratio():
    weighting = after([[1.0, 1.0]], [[1.0, 4.0]], [[3.0, np.nan]])
    np.testing.assert_allclose(weights_of(weighting), expected([3.0, 4.0]), rtol=1e-6)


def test_a_task_that_comes_late_starts_with_ratio_one():
    weighting = after([[1.0, np.nan]], [[4.0, np.nan]], [[4.0, 7.0]])
    np.testing.assert_allclose(weights_of(weighting), expected([1.0, 1.0]), rtol=1e-6)
    weighting.update_state([4.0, 14.0], [1.0, 1.0])
    weighting.on_epoch_begin()
    np.testing.assert_allclose(weights_of(weighting), expected([1.0, 2.0]), rtol=1e-6)


def test_steps_without_a_task_do_not_enter_its_mean():
    weighting = after([[1.0, 1.0]], [[1.0, 4.0], [1.0, np.nan], [1.0, np.nan]])
    np.testing.assert_allclose(weights_of(weighting), expected([1.0, 4.0]), rtol=1e-6)


def test_absent_tasks_leave_the_others_as_without_them():
    weighting = after([[1.0, 1.0, 1.0]], [[1.0, 9.0, 4.0]])
    without = after([[1.0, 1.0]], [[1.0, 4.0]])
    active = [True, False, True]
    expected_weights = np.insert(weights_of(without), 1, 0.0)
    np.testing.assert_allclose(weights_of(weighting, active), expected_weights, rtol=1e-6)
    total = float(weighting([2.0, np.nan, 3.0], active))
    assert total == pytest.approx(float(without([2.0, 3.0])), rel=1e-6)


def test_with_all_tasks_absent_the_total_is_zero():
    weighting = after([[1.0, 1.0]], [[1.0, 4.0]])
    assert float(weighting([1.0, 1.0], [False, False])) == 0.0
    np.testing.assert_array_equal(weights_of(weighting, [False, False]), [0.0, 0.0])


def test_permuting_tasks_permutes_the_weights():
    order, before, last = np.array([2, 0, 1]), np.float32([1, 2, 4]), np.float32([3, 1, 4])
    weights = weights_of(after([before], [last]))
    permuted = weights_of(after([before[order]], [last[order]]))
    np.testing.assert_allclose(permuted, weights[order], rtol=1e-6)


def test_a_ratio_to_zero_is_one():
    weighting = after([[0.0, 1.0]], [[5.0, 4.0]])
    np.testing.assert_allclose(weights_of(weighting), expected([1.0, 4.0]), rtol=1e-6)


@pytest.mark.parametrize("temperature", [1e-3, 2.0])
@pytest.mark.parametrize("last", [[0.0, 1e-8, 1e8], [1e8, 1e8, 1e8], [1e8, 1e-8, 0.0]])
def test_weights_are_finite_at_extreme_losses(last, temperature):
    weights = weights_of(after([[1e-37, 1e-8, 1e8]], [last], temperature=temperature))
    assert np.all(np.isfinite(weights))
    assert np.sum(weights) == pytest.approx(3.0)


def test_weights_equal_the_numerical_derivative():
    weighting = after([[1.0, 1.0]], [[1.0, 4.0]])
    steps = 0.5 * np.eye(2)  # the total is linear in the losses
    slopes = [float(weighting(2.0 + step) - weighting(2.0 - step)) for step in steps]
    np.testing.assert_allclose(weights_of(weighting), slopes, rtol=1e-5)


def test_all_state_is_one_entry_a_task_and_not_trainable():
    weighting = after([[1.0, 1.0]])
    assert {id(variable) for variable in weighting.task_variables} == {
        id(variable) for variable in weighting.variables
    }
    assert weighting.trainable_variables == []


def test_state_moves_in_the_graph_and_under_replicas(strategy):
    with strategy.scope():
        weighting = DynamicWeightAverage()
        weighting.build_for(2)

    @tf.function
    def step(losses):
        strategy.run(weighting.update_state, args=(losses, tf.ones(2)))

    for losses in ([1.0, 1.0], [1.0, 4.0]):
        step(tf.constant(losses))
        np.testing.assert_array_equal(weighting.num_steps, [1.0, 1.0])
        weighting.on_epoch_begin()
    np.testing.assert_allclose(weights_of(weighting), expected([1.0, 4.0]), rtol=1e-6)


def test_copied_state_resumes_in_mid_epoch():
    weighting = after([[1.0, 1.0]])
    weighting.update_state([1.0, 4.0], [1.0, 1.0])
    restored = DynamicWeightAverage.from_config(weighting.get_config())
    restored.build_for(2)
    restored.set_weights(weighting.get_weights())
    restored.on_epoch_begin()
    np.testing.assert_allclose(weights_of(restored), expected([1.0, 4.0]), rtol=1e-6)


def test_config_round_trip():
    config = DynamicWeightAverage(temperature=0.5, name="mine").get_config()
    restored = DynamicWeightAverage.from_config(config)
    assert (restored.temperature, restored.name) == (0.5, "mine")


@pytest.mark.parametrize("temperature", [0.0, -2.0, np.inf, np.nan])
def test_a_temperature_that_is_no_positive_number_is_refused(temperature):
    with pytest.raises(ValueError, match="`temperature` must be a finite number > 0, received"):
        DynamicWeightAverage(temperature=temperature)


@pytest.mark.parametrize("temperature", ["2", None, True])
def test_a_temperature_of_another_type_is_refused(temperature):
    with pytest.raises(TypeError, match="`temperature` must be a finite number > 0, received"):
        DynamicWeightAverage(temperature=temperature)

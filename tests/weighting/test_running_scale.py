import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting import RunningScale


def after(*steps, num_tasks=2, **kwargs):
    """A weighting that has seen `steps`, lists of losses; NaN is an absent task."""
    weighting = RunningScale(**kwargs)
    weighting.build_for(num_tasks)
    for losses in steps:
        weighting.update_state(losses, np.float32(~np.isnan(losses)))
    return weighting


def weights_of(weighting, losses, active=None):
    return np.asarray(weighting.compute_weights(losses, active))


def test_worked_value():
    weighting = after([4.0, 1.0], [2.0, 1.0], momentum=0.5)
    # (4 / 4 + 2 / 2 + 1) / (1 / 4 + 1 / 2 + 1) = 12 / 7
    np.testing.assert_allclose(weights_of(weighting, [1.0, 1.0]), [7 / 12, 1.0], rtol=1e-6)
    assert float(weighting([1.0, 1.0])) == pytest.approx(7 / 12 + 1, rel=1e-6)


def test_in_the_first_step_every_scaled_loss_is_one():
    assert float(after(num_tasks=3)([1e-3, 1.0, 1e3])) == pytest.approx(3.0, rel=1e-6)


def test_mean_is_the_corrected_exponential_moving_average():
    steps = np.random.default_rng(0).uniform(0.5, 2.0, size=(30, 1)).astype("float32")
    average, momentum = 0.0, 0.9
    for loss in steps[:, 0]:
        average = momentum * average + (1 - momentum) * loss
    corrected = average / (1 - momentum**30)
    weighting = after(*steps[:-1], num_tasks=1, momentum=momentum)
    np.testing.assert_allclose(weights_of(weighting, steps[-1]), [1 / corrected], rtol=1e-5)


def test_momentum_zero_divides_each_loss_by_itself():
    weighting = after([9.0, 9.0], momentum=0.0)
    np.testing.assert_allclose(weights_of(weighting, [4.0, 0.5]), [0.25, 2.0], rtol=1e-6)


def test_momentum_one_divides_by_the_mean_of_all_steps():
    weighting = after([1.0, 4.0], [2.0, 4.0], momentum=1.0)
    np.testing.assert_allclose(weights_of(weighting, [6.0, 4.0]), [1 / 3, 0.25], rtol=1e-6)


def test_total_is_the_weighted_sum_with_constant_weights():
    weighting, losses = after([4.0, 1.0], [2.0, 1.0]), np.float32([3.0, 0.2])
    expected = np.dot(weights_of(weighting, losses), losses)
    assert float(weighting(losses)) == pytest.approx(expected, rel=1e-6)


def test_total_does_not_depend_on_the_units_of_the_losses():
    scale, last = np.float32([1e-4, 1e3]), np.float32([3.0, 0.2])
    steps = np.float32([[4.0, 1.0], [2.0, 1.5]])
    total, scaled = after(*steps)(last), after(*(steps * scale))(last * scale)
    assert float(scaled) == pytest.approx(float(total), rel=1e-5)


@pytest.mark.parametrize("momentum", [0.5, 0.99])
def test_a_jump_is_bounded_by_the_length_of_the_mean(momentum):
    weighting = after(*[[1e-3]] * 500, num_tasks=1, momentum=momentum)
    scaled = float(weighting([1e8]))
    assert scaled == pytest.approx((1 - momentum**501) / (1 - momentum), rel=1e-3)


def test_weights_do_not_move_the_state():
    weighting = after([4.0, 1.0])
    before = weights_of(weighting, [1.0, 1.0])
    weighting([50.0, 50.0])
    np.testing.assert_array_equal(weights_of(weighting, [1.0, 1.0]), before)


def test_steps_without_a_task_do_not_enter_its_mean():
    weighting = after([4.0, 1.0], [np.nan, 1.0], [np.nan, 1.0])
    expected = weights_of(after([4.0, 1.0]), [2.0, 1.0])[0]
    assert weights_of(weighting, [2.0, 1.0])[0] == expected


def test_absent_tasks_leave_the_others_as_without_them():
    weighting = after([1.0, 9.0, 4.0], num_tasks=3)
    without, active = after([1.0, 4.0]), [True, False, True]
    expected = np.insert(weights_of(without, [2.0, 3.0]), 1, 0.0)
    np.testing.assert_array_equal(weights_of(weighting, [2.0, np.nan, 3.0], active), expected)
    assert float(weighting([2.0, np.nan, 3.0], active)) == float(without([2.0, 3.0]))


def test_with_all_tasks_absent_everything_is_zero():
    weighting = after([1.0, 4.0])
    assert float(weighting([1.0, np.nan], [False, False])) == 0.0
    np.testing.assert_array_equal(weights_of(weighting, [1.0, 1.0], [False, False]), [0.0, 0.0])


def test_permuting_tasks_permutes_the_weights():
    order, step, last = np.array([2, 0, 1]), np.float32([1, 2, 4]), np.float32([3, 1, 4])
    weights = weights_of(after(step, num_tasks=3), last)
    permuted = weights_of(after(step[order], num_tasks=3), last[order])
    np.testing.assert_array_equal(permuted, weights[order])


@pytest.mark.parametrize("momentum", [0.0, 0.99, 1.0])
def test_finite_at_extreme_losses(momentum):
    losses = [0.0, 1e-8, 1e8]
    weighting = after(losses, losses, num_tasks=3, momentum=momentum)
    np.testing.assert_allclose(weights_of(weighting, losses), [1e8, 1e8, 1e-8], rtol=1e-6)
    assert float(weighting(losses)) == pytest.approx(2.0, rel=1e-6)
    assert np.all(np.isfinite(weights_of(weighting, losses[::-1])))


def test_a_negative_loss_is_refused_by_name():
    weighting = RunningScale().bind([TaskRole("age"), TaskRole("sex")])
    with pytest.raises(
        ValueError, match=r"RunningScale is undefined .* of task 'sex' must be >= 0"
    ):
        weighting([1.0, -0.5])
    assert float(weighting([1.0, -0.5], [True, False])) == 1.0


def test_all_state_is_one_entry_a_task_and_not_trainable():
    weighting = after([1.0, 1.0])
    assert {id(variable) for variable in weighting.task_variables} == {
        id(variable) for variable in weighting.variables
    }
    assert weighting.trainable_variables == []


def test_state_moves_in_the_graph_and_under_replicas(strategy):
    with strategy.scope():
        weighting = after(momentum=0.5)

    @tf.function
    def step(losses, active):
        strategy.run(weighting.update_state, args=(losses, active))

    step(tf.constant([4.0, 1.0]), tf.ones(2))
    step(tf.constant([2.0, np.nan]), tf.constant([1.0, 0.0]))
    np.testing.assert_allclose(weighting.loss_sum, [4.0, 1.0])
    np.testing.assert_allclose(weighting.num_steps, [1.5, 1.0])


def test_config_round_trip():
    restored = RunningScale.from_config(RunningScale(momentum=0.5, name="mine").get_config())
    assert (restored.momentum, restored.name) == (0.5, "mine")


@pytest.mark.parametrize("momentum", [-0.1, 1.1, np.nan])
def test_a_momentum_out_of_range_is_refused(momentum):
    message = r"`momentum` must be a finite number >= 0.0 and <= 1.0, received"
    with pytest.raises(ValueError, match=message):
        RunningScale(momentum=momentum)


@pytest.mark.parametrize("momentum", ["0.9", None, True])
def test_a_momentum_of_another_type_is_refused(momentum):
    with pytest.raises(TypeError, match="`momentum` must be a finite number"):
        RunningScale(momentum=momentum)

import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting import GO4Align

LOSSES = np.float32([1.0, 2.0, 4.0])


def after(*steps, num_tasks=3, **kwargs):
    """A weighting that has seen `steps`, lists of losses; NaN is an absent task."""
    weighting = GO4Align(**kwargs)
    weighting.build_for(num_tasks)
    for losses in steps:
        weighting.update_state(losses, np.float32(~np.isnan(losses)))
    return weighting


def weights_of(weighting, losses=LOSSES, active=None):
    return np.asarray(weighting.compute_weights(losses, active))


def indicators(steps, step_size):
    """The indicators of the paper in the last of the steps, with the authors' scale."""
    shares = np.ones(len(steps[0])) / len(steps[0])
    for losses in np.float64(steps):
        shares = shares * np.exp(-step_size * losses)
        shares = shares / np.sum(shares)
    return np.sum(losses) / losses * shares


def test_worked_value():
    # gamma = 7/3, 7/6, 7/12: the best two groups are {7/3} and {7/6, 7/12}
    weights = weights_of(after(num_groups=2, step_size=0.0))
    np.testing.assert_allclose(weights, [7 / 3, 7 / 8, 7 / 8], rtol=1e-6)


def test_without_grouping_the_weights_are_the_indicators_of_the_paper():
    steps = np.random.default_rng(0).uniform(0.5, 4.0, size=(20, 3)).astype("float32")
    weighting = after(*steps[:-1], num_groups=3, step_size=0.1)
    weights = weights_of(weighting, steps[-1])
    np.testing.assert_allclose(weights, indicators(steps, 0.1), rtol=1e-5)


def test_without_grouping_each_task_contributes_its_share_of_the_sum():
    weighting = after([3.0, 1.0, 2.0], num_groups=3, step_size=0.2)
    contributions = weights_of(weighting) * LOSSES
    # Losses seen so far, this step included: 4, 3, 6
    exponentials = np.exp(-0.2 * np.array([4.0, 3.0, 6.0]))
    expected = 7.0 * exponentials / np.sum(exponentials)
    np.testing.assert_allclose(contributions, expected, rtol=1e-5)
    assert float(weighting(LOSSES)) == pytest.approx(7.0, rel=1e-6)


def test_grouping_keeps_the_sum_of_the_weights():
    steps = [[3.0, 1.0, 2.0], LOSSES]
    expected = np.sum(indicators(steps, 0.2))
    for num_groups in (1, 2, 3):
        weights = weights_of(after(steps[0], num_groups=num_groups, step_size=0.2))
        assert np.sum(weights) == pytest.approx(expected, rel=1e-5)
        assert len(np.unique(weights)) == num_groups


def test_equal_losses_have_weights_of_one():
    weighting = after([5.0, 5.0, 5.0], num_groups=2, step_size=0.1)
    np.testing.assert_allclose(weights_of(weighting, [3.0, 3.0, 3.0]), 1.0, rtol=1e-6)


def test_one_group_gives_all_tasks_the_mean_indicator():
    weights = weights_of(after(num_groups=1, step_size=0.0))
    np.testing.assert_allclose(weights, (7 / 3 + 7 / 6 + 7 / 12) / 3, rtol=1e-6)


def test_weights_do_not_depend_on_the_unit_of_the_losses():
    weighting = after([3.0, 1.0, 2.0], step_size=0.2)
    scaled = after([300.0, 100.0, 200.0], step_size=0.002)
    np.testing.assert_allclose(weights_of(scaled, 100 * LOSSES), weights_of(weighting), rtol=1e-5)


def test_total_is_the_weighted_sum_with_constant_weights():
    weighting = after([3.0, 1.0, 2.0], step_size=0.2)
    expected = np.dot(weights_of(weighting), LOSSES)
    assert float(weighting(LOSSES)) == pytest.approx(expected, rel=1e-6)


def test_weights_do_not_move_the_state():
    weighting = after([3.0, 1.0, 2.0], step_size=0.2)
    before = weighting.log_shares.numpy()
    weighting([50.0, 0.1, 1.0])
    np.testing.assert_array_equal(weighting.log_shares, before)


def test_absent_tasks_leave_the_others_as_without_them():
    weighting = after([3.0, np.nan, 2.0], [1.0, np.nan, 5.0], step_size=0.2, num_groups=2)
    without = after([3.0, 2.0], [1.0, 5.0], num_tasks=2, step_size=0.2, num_groups=2)
    active = [True, False, True]
    expected = np.insert(weights_of(without, [1.0, 4.0]), 1, 0.0)
    np.testing.assert_allclose(weights_of(weighting, [1.0, np.nan, 4.0], active), expected, 1e-6)
    total = float(weighting([1.0, np.nan, 4.0], active))
    assert total == pytest.approx(float(without([1.0, 4.0])), rel=1e-6)


def test_an_absent_task_keeps_its_share_and_the_others_divide_theirs():
    weighting = after([3.0, 1.0, 2.0], step_size=0.2)
    before = np.exp(weighting.log_shares.numpy())
    weighting.update_state([8.0, np.nan, 1.0], [1.0, 0.0, 1.0])
    shares = np.exp(weighting.log_shares.numpy())
    assert shares[1] == before[1]
    assert np.sum(shares) == pytest.approx(np.sum(before), rel=1e-6)
    assert shares[0] / shares[2] == pytest.approx(before[0] / before[2] * np.exp(-1.4), rel=1e-5)


def test_with_fewer_active_tasks_than_groups_each_is_a_group():
    weighting = after(num_groups=3, step_size=0.0)
    weights = weights_of(weighting, [1.0, np.nan, 4.0], [True, False, True])
    np.testing.assert_allclose(weights, [2.5, 0.0, 0.625], rtol=1e-6)


def test_with_all_tasks_absent_everything_is_zero_and_stays():
    weighting = after([3.0, 1.0, 2.0], step_size=0.2)
    before = weighting.log_shares.numpy()
    weighting.update_state([np.nan, 1.0, 1.0], [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(weighting.log_shares, before)
    assert float(weighting([np.nan, 1.0, 1.0], [False] * 3)) == 0.0
    np.testing.assert_array_equal(weights_of(weighting, active=[False] * 3), [0.0, 0.0, 0.0])


def test_permuting_tasks_permutes_the_weights():
    order, step = np.array([2, 0, 1]), np.float32([3.0, 1.0, 2.0])
    weights = weights_of(after(step, step_size=0.2))
    permuted = weights_of(after(step[order], step_size=0.2), LOSSES[order])
    np.testing.assert_allclose(permuted, weights[order], rtol=1e-6)


@pytest.mark.parametrize("num_groups", [1, 2, 3])
@pytest.mark.parametrize("losses", [[0.0, 1e-8, 1e8], [0.0, 1.0, 2.0], [1e8, 1e8, 1e8]])
def test_finite_and_clipped_at_extreme_losses(losses, num_groups):
    weighting = after(losses, losses, num_groups=num_groups, step_size=1.0)
    weights = weights_of(weighting, losses)
    assert np.all(weights >= 1e-6)
    assert np.all(weights <= 1e6)
    assert np.isfinite(float(weighting(losses)))


def test_losses_of_zero_count_as_equal():
    np.testing.assert_allclose(weights_of(after(), [0.0, 0.0, 0.0]), 1.0, rtol=1e-6)


def test_a_negative_loss_is_refused_by_name():
    weighting = GO4Align().bind([TaskRole("age"), TaskRole("sex")])
    with pytest.raises(ValueError, match=r"GO4Align is undefined .* of task 'sex' must be >= 0"):
        weighting([1.0, -0.5])
    assert float(weighting([1.0, -0.5], [True, False])) == 1.0


def test_all_state_is_one_entry_a_task_and_not_trainable():
    weighting = after()
    assert [variable is weighting.log_shares for variable in weighting.variables] == [True]
    assert len(weighting.task_variables) == 1
    assert weighting.trainable_variables == []


@pytest.mark.parametrize("jit_compile", [False, True])
def test_weights_and_state_in_the_graph_equal_those_outside(jit_compile):
    eager, inside = after(step_size=0.2), after(step_size=0.2)

    @tf.function(jit_compile=jit_compile)
    def step(losses, active):
        weights = inside.compute_weights(losses, active)
        inside.update_state(losses, active)
        return weights

    for losses in ([3.0, 1.0, 2.0], [2.0, np.nan, 4.0], [1.0, 1.0, 9.0]):
        active = np.float32(~np.isnan(losses))
        expected = weights_of(eager, losses, active)
        eager.update_state(losses, active)
        np.testing.assert_allclose(step(tf.constant(losses), active), expected, rtol=1e-5)
    np.testing.assert_allclose(inside.log_shares, eager.log_shares, rtol=1e-5)


def test_config_round_trip():
    config = GO4Align(num_groups=5, step_size=0.01, name="mine").get_config()
    restored = GO4Align.from_config(config)
    assert (restored.num_groups, restored.step_size, restored.name) == (5, 0.01, "mine")


def test_a_number_of_groups_below_one_is_refused():
    with pytest.raises(ValueError, match="`num_groups` must be an integer >= 1, received 0"):
        GO4Align(num_groups=0)


@pytest.mark.parametrize("num_groups", [2.0, "2", None, True])
def test_a_number_of_groups_of_another_type_is_refused(num_groups):
    with pytest.raises(TypeError, match="`num_groups` must be an integer >= 1, received"):
        GO4Align(num_groups=num_groups)


@pytest.mark.parametrize("step_size", [-1e-4, np.inf, np.nan])
def test_a_step_size_out_of_range_is_refused(step_size):
    with pytest.raises(ValueError, match=r"`step_size` must be a finite number >= 0.0, received"):
        GO4Align(step_size=step_size)


@pytest.mark.parametrize("step_size", ["1", None, True])
def test_a_step_size_of_another_type_is_refused(step_size):
    with pytest.raises(TypeError, match="`step_size` must be a finite number"):
        GO4Align(step_size=step_size)

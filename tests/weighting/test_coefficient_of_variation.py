import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_mtl.core.derivatives import value_and_gradient
from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting import CoefficientOfVariation

RANDOM = np.random.default_rng(0)
STEPS = np.float32(RANDOM.exponential(size=(30, 3)) * [1.0, 0.1, 5.0] + [0.5, 0.1, 9.0])
LOSSES = np.float32([3.0, 0.5, 2.0])


def after(steps, **kwargs):
    """A weighting after steps; NaN is a loss without labels."""
    weighting = CoefficientOfVariation(**kwargs)
    for losses in steps:
        weighting.update_state(losses, np.float32(~np.isnan(losses)))
    return weighting


def derivatives(weighting, losses, active=None):
    """The total and the weights, as arrays."""
    losses = ops.convert_to_tensor(losses, dtype="float32")
    total, weights, _ = value_and_gradient(lambda point: weighting(point, active), losses)
    return np.asarray(total), np.asarray(weights)


def variations(steps):
    """Standard deviation over mean of the ratios of each loss to the mean of those before."""
    losses = np.asarray(steps, "float64")
    ratios = np.ones_like(losses)
    for step in range(1, len(losses)):
        ratios[step] = losses[step] / np.mean(losses[:step], axis=0)
    return np.sqrt(np.var(ratios, axis=0) + 1e-8) / np.mean(ratios, axis=0)


def test_total_and_weights_worked_by_hand():
    # Ratios (1, 1/2) and (1, 6/5): variations of 1/3 and 1/11.
    total, weights = derivatives(after([[4.0, 1.0], [2.0, 1.2]]), [10.0, 100.0])
    np.testing.assert_allclose(weights, [11 / 14, 3 / 14], rtol=1e-5)
    assert total == pytest.approx((110 + 300) / 14, rel=1e-5)


@pytest.mark.parametrize("num_steps", [2, 3, 10, 30])
def test_running_statistics_equal_those_of_all_steps(num_steps):
    expected = variations(STEPS[:num_steps])
    weights = derivatives(after(STEPS[:num_steps]), LOSSES)[1]
    np.testing.assert_allclose(weights, expected / np.sum(expected), rtol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 1.0])
def test_a_decay_is_the_share_of_the_old_means(decay):
    mean_loss, mean_ratio, squares = STEPS[0].astype("float64"), np.ones(3), np.zeros(3)
    for losses in STEPS[1:]:
        ratios, before = losses / mean_loss, mean_ratio
        mean_ratio = decay * before + (1 - decay) * ratios
        squares += (ratios - before) * (ratios - mean_ratio)
        mean_loss = decay * mean_loss + (1 - decay) * losses
    expected = np.sqrt(squares / len(STEPS) + 1e-8) / mean_ratio
    weights = derivatives(after(STEPS, decay=decay), LOSSES)[1]
    np.testing.assert_allclose(weights, expected / np.sum(expected), rtol=1e-5)


@pytest.mark.parametrize("num_steps", [0, 1])
def test_weights_are_equal_in_the_first_two_steps(num_steps):
    weights = derivatives(after(STEPS[:num_steps]), LOSSES)[1]
    np.testing.assert_allclose(weights, [1 / 3, 1 / 3, 1 / 3], rtol=1e-6)


def test_weights_sum_to_one():
    weighting = after(STEPS)
    assert np.sum(derivatives(weighting, LOSSES)[1]) == pytest.approx(1.0, rel=1e-6)
    weights = derivatives(weighting, LOSSES, [True, False, True])[1]
    assert np.sum(weights) == pytest.approx(1.0, rel=1e-6)


def test_equal_tasks_have_equal_weights():
    weights = derivatives(after(np.repeat(STEPS[:, :1], 4, axis=1)), np.ones(4))[1]
    np.testing.assert_array_equal(weights, [0.25, 0.25, 0.25, 0.25])


def test_a_loss_that_has_settled_makes_way():
    steps = np.stack([np.full(20, 3.0), np.linspace(3.0, 1.0, 20)], axis=1)
    weights = derivatives(after(steps), [3.0, 1.0])[1]
    assert weights[0] < 1e-3
    # All have settled: none has a variation, and they share evenly.
    np.testing.assert_allclose(derivatives(after(np.ones((5, 2))), [1.0, 1.0])[1], [0.5, 0.5])


def test_units_of_a_loss_do_not_matter_to_the_weights():
    units = np.float32([1.0, 1e4, 1e-4])
    weights = derivatives(after(STEPS * units), LOSSES * units)[1]
    np.testing.assert_allclose(weights, derivatives(after(STEPS), LOSSES)[1], rtol=1e-4)


def test_the_loss_of_the_step_does_not_move_its_weights():
    weighting = after(STEPS)
    weights = derivatives(weighting, LOSSES)[1]
    np.testing.assert_array_equal(derivatives(weighting, 1e3 * LOSSES)[1], weights)


def test_weights_equal_the_numerical_derivative():
    weighting, steps = after(STEPS), 0.25 * np.eye(3)  # linear within a step
    slopes = [2 * float(weighting(LOSSES + step) - weighting(LOSSES - step)) for step in steps]
    np.testing.assert_allclose(derivatives(weighting, LOSSES)[1], slopes, rtol=1e-4)


def test_steps_without_a_task_do_not_enter_its_statistics():
    sparse = STEPS.copy()
    sparse[::2, 1] = np.nan
    expected = variations(STEPS)
    expected[1] = variations(STEPS[1::2])[1]
    weights = derivatives(after(sparse), LOSSES)[1]
    np.testing.assert_allclose(weights, expected / np.sum(expected), rtol=1e-5)


def test_a_late_task_has_an_even_part_in_its_first_two_steps():
    late = STEPS.copy()
    late[:-1, 2] = np.nan  # one step of its own
    expected = variations(STEPS[:, :2])
    weights = derivatives(after(late), LOSSES)[1]
    np.testing.assert_allclose(weights[:2], 2 / 3 * expected / np.sum(expected), rtol=1e-5)
    assert weights[2] == pytest.approx(1 / 3, rel=1e-6)


@pytest.mark.parametrize("num_steps", [0, 1, 30])
@pytest.mark.parametrize("loss", [np.nan, 0.0, -3.0, 1e8])
def test_absent_tasks_leave_the_others_as_without_them(loss, num_steps):
    weighting = after(STEPS[:num_steps])
    total, weights = derivatives(weighting, [3.0, loss, 2.0], [True, False, True])
    expected = derivatives(after(STEPS[:num_steps, [0, 2]]), [3.0, 2.0])
    assert total == pytest.approx(expected[0], rel=1e-6)
    np.testing.assert_allclose(weights, np.insert(expected[1], 1, 0.0), rtol=1e-6)


@pytest.mark.parametrize("loss", [np.nan, 1e8])
def test_the_loss_of_an_absent_task_does_not_reach_its_statistics(loss):
    weighting = after(STEPS)
    before = weighting.get_weights()
    weighting.update_state([1.0, loss, 1.0], [1.0, 0.0, 1.0])
    for now, then in zip(weighting.get_weights(), before, strict=True):
        assert now[1] == then[1]
        assert now[0] != then[0]


@pytest.mark.parametrize("num_steps", [0, 5])
def test_with_all_tasks_absent_everything_is_zero(num_steps):
    total, weights = derivatives(after(STEPS[:num_steps, :2]), [1.0, np.nan], [False, False])
    assert total == 0.0
    np.testing.assert_array_equal(weights, [0.0, 0.0])


def test_permuting_tasks_permutes_weights():
    order = np.array([2, 0, 1])
    weights = derivatives(after(STEPS), LOSSES)[1]
    permuted = derivatives(after(STEPS[:, order]), LOSSES[order])[1]
    np.testing.assert_allclose(permuted, weights[order], rtol=1e-6)


@pytest.mark.parametrize("decay", [None, 0.0, 0.9, 1.0])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_finite_at_extreme_losses(order, decay):
    extremes = np.float32([0.0, 1e-8, 1e8])
    # One task stays at each extreme, one jumps between them.
    steps = [[0.0, 1e8, extremes[order[step % 3]]] for step in range(9)]
    for num_steps in range(9):
        total, weights = derivatives(after(steps[:num_steps], decay=decay), steps[num_steps])
        assert np.isfinite(total)
        assert np.all(weights > 0)
        assert np.sum(weights) == pytest.approx(1.0, rel=1e-6)


def test_ratios_are_at_most_1e6_and_small_losses_count_as_1e_8():
    weighting = after([[1e-8, 0.0], [1e8, 1e-8]])
    np.testing.assert_allclose(weighting.mean_ratios, [(1 + 1e6) / 2, 1.0], rtol=1e-6)


def test_a_negative_loss_is_refused_by_name():
    weighting = CoefficientOfVariation().bind([TaskRole("age"), TaskRole("sex")])
    message = "CoefficientOfVariation is undefined for negative losses: the loss of task 'sex' must"
    with pytest.raises(ValueError, match=message):
        weighting([1.0, -2.0])
    with pytest.raises(ValueError, match="the loss at index 0 must be >= 0, received -1"):
        CoefficientOfVariation().compute_weights([-1.0, 2.0])


def test_all_state_is_one_entry_a_task_and_not_trainable():
    weighting = after(STEPS)
    assert [variable.shape for variable in weighting.variables] == [(3,)] * 4
    assert len(weighting.task_variables) == 4
    assert weighting.trainable_variables == []


def test_state_moves_in_the_graph_and_under_replicas(strategy):
    with strategy.scope():
        weighting = CoefficientOfVariation()
        weighting.build_for(3)

    @tf.function
    def step(losses):
        strategy.run(weighting.update_state, args=(losses, tf.ones(3)))

    for losses in STEPS[:5]:
        step(tf.constant(losses))
    np.testing.assert_array_equal(weighting.num_steps, [5.0, 5.0, 5.0])
    expected = derivatives(after(STEPS[:5]), LOSSES)[1]
    np.testing.assert_allclose(weighting.compute_weights(LOSSES), expected, rtol=1e-6)


def test_copied_state_resumes():
    weighting = after(STEPS[:10])
    restored = CoefficientOfVariation.from_config(weighting.get_config())
    restored.build_for(3)
    restored.set_weights(weighting.get_weights())
    restored.update_state(STEPS[10], np.ones(3))
    expected = derivatives(after(STEPS[:11]), LOSSES)[1]
    np.testing.assert_array_equal(derivatives(restored, LOSSES)[1], expected)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_config_round_trip(decay):
    config = CoefficientOfVariation(decay=decay, name="mine").get_config()
    restored = CoefficientOfVariation.from_config(config)
    assert (restored.decay, restored.name) == (decay, "mine")


@pytest.mark.parametrize("decay", [-0.1, 1.1, np.inf, np.nan])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="`decay` must be a finite number >= 0 and <= 1, received"):
        CoefficientOfVariation(decay=decay)


def test_a_decay_of_another_type_is_refused():
    with pytest.raises(TypeError, match="`decay` must be a finite number >= 0 and <= 1, received"):
        CoefficientOfVariation(decay="full")

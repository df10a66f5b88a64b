import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.balancing import DBMTL

GRADIENTS = np.float32([[6.0, 0.0], [0.0, 1.0]])
LOSSES = np.float32([2.0, 1.0])


def random_gradients(seed, num_tasks, num_params=6):
    return np.float32(np.random.default_rng(seed).normal(size=(num_tasks, num_params)))


def random_losses(seed, num_tasks):
    return np.float32(np.random.default_rng(seed).uniform(0.5, 2.0, size=num_tasks))


def test_two_steps_worked_by_hand():
    # Of the log losses: (3, 0), (0, 1), half of which is kept: 1.5 and 0.5 long.
    balancing = DBMTL(beta=0.5)
    np.testing.assert_allclose(balancing(GRADIENTS, losses=LOSSES), [1.5, 1.5], rtol=1e-6)
    # Averages (0.75, 1) and (0.5, 0.25): lengths 1.25 and sqrt(5) / 4, in the ratio sqrt(5).
    found = balancing([[0.0, 4.0], [1.0, 0.0]], losses=LOSSES)
    expected = [0.75 + 0.5 * np.sqrt(5), 1.0 + 0.25 * np.sqrt(5)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# In float32 the last of these is 1.
@pytest.mark.parametrize("beta", [0.9, 1 - 1e-6, 1 - 1e-8])
def test_averages_follow_the_formula(beta):
    balancing, average = DBMTL(beta=beta), np.zeros((3, 6))
    for step in range(4):
        gradients, losses = random_gradients(step, 3), random_losses(step, 3)
        average = beta * average + (1 - beta) * gradients / losses[:, None]
        lengths = np.linalg.norm(average, axis=1)
        expected = (lengths.max() / lengths) @ average
        found = balancing(gradients, losses=losses)
        # State is kept in float32.
        np.testing.assert_allclose(found / (1 - beta), expected / (1 - beta), rtol=1e-5, atol=1e-5)


def test_all_rows_are_as_long_as_the_longest_average():
    balancing = DBMTL()
    for seed in range(3):
        balancing(random_gradients(seed, 4), losses=random_losses(seed, 4))
    rows = balancing.tracked[0][0].numpy()
    weights = balancing.solve(tf.constant(rows @ rows.T), tf.ones(4), losses=None).numpy()
    lengths = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(weights * lengths, np.full(4, lengths.max()), rtol=1e-6)


def test_the_scale_of_a_loss_makes_no_difference():
    plain, scaled = DBMTL(), DBMTL()
    factors = np.float32([100.0, 0.01, 1.0])
    for seed in range(4):
        gradients, losses = random_gradients(seed, 3), random_losses(seed, 3)
        expected = plain(gradients, losses=losses)
        found = scaled(gradients * factors[:, None], losses=losses * factors)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_loss_weight_of_constant_gradients_keeps_the_direction():
    # As the docstring says: the raw losses do not show it.
    weighted = np.asarray(DBMTL()(GRADIENTS * [[50.0], [1.0]], losses=LOSSES))
    assert weighted[0] == pytest.approx(weighted[1], rel=1e-6)


def test_heads_learn_from_log_losses():
    heads = DBMTL().head_weights(None, tf.constant([1.0, 1.0, 0.0]), losses=[4.0, 0.0, 1.0])
    np.testing.assert_allclose(heads, [0.25, 1e8, 0.0], rtol=1e-6)


def test_the_part_that_is_kept_falls_with_the_steps():
    balancing = DBMTL(beta=0.5, decay=1.0)
    for _ in range(2):
        balancing(np.zeros((2, 2)), losses=[1.0, 1.0])
    balancing(GRADIENTS, losses=[1.0, 1.0])  # the third step keeps a sixth of 0
    np.testing.assert_allclose(balancing.tracked[0][0], 5 / 6 * GRADIENTS, rtol=1e-6)


def test_an_absent_task_equals_leaving_it_out_and_its_state_does_not_move():
    both, alone = DBMTL(decay=0.5), DBMTL(decay=0.5)
    active = np.array([1.0, 0.0, 1.0])
    for seed in range(4):
        gradients, losses = random_gradients(seed, 3), random_losses(seed, 3)
        expected = alone(gradients[[0, 2]], losses=losses[[0, 2]])
        np.testing.assert_allclose(both(gradients, active, losses=losses), expected, rtol=1e-5)
    assert all((variable.numpy()[1] == 0).all() for variable in both.task_variables)


def test_no_active_task_gives_no_direction_and_moves_nothing():
    balancing = DBMTL()
    balancing(GRADIENTS, losses=LOSSES)
    before = [variable.numpy() for variable in balancing.variables]
    found = balancing(GRADIENTS, [0.0, 0.0], losses=LOSSES)
    np.testing.assert_array_equal(found, [0.0, 0.0])
    for variable, value in zip(balancing.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_zero_gradient_is_treated_like_an_absent_task():
    found = DBMTL(beta=0.0)([[6.0, 0.0], [0.0, 0.0]], losses=LOSSES)
    np.testing.assert_allclose(found, [3.0, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(DBMTL()(np.zeros((2, 2)), losses=LOSSES), [0.0, 0.0])


def test_a_permutation_of_tasks_permutes_nothing():
    plain, permuted, order = DBMTL(), DBMTL(), [2, 0, 1]
    for seed in range(3):
        gradients, losses = random_gradients(seed, 3), random_losses(seed, 3)
        expected = plain(gradients, losses=losses)
        found = permuted(gradients[order], losses=losses[order])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scales", [[1e-10, 1e10], [1e10, 1e10], [1e-10, 1e-10]], ids=str)
@pytest.mark.parametrize("losses", [[0.0, 1e8], [1e-8, 1e-8], [1e8, -1.0]], ids=str)
def test_gradients_and_losses_of_any_scale_give_finite_directions(scales, losses):
    balancing = DBMTL()
    for step in range(3):
        gradients = random_gradients(step, 2) * np.float32(scales)[:, None]
        assert np.isfinite(balancing(gradients, losses=losses)).all()


def test_compiled_by_xla_equals_not_compiled_and_parts_equal_the_whole():
    plain, compiled, apart = DBMTL(decay=0.5), DBMTL(decay=0.5), DBMTL(decay=0.5)
    compiled.build_for(2)
    compiled.build_for_parts([6])
    apart.build_for(2)
    apart.build_for_parts([2, 4])
    step = tf.function(lambda rows: compiled(rows, losses=LOSSES), jit_compile=True)
    for seed in range(3):
        gradients = tf.constant(random_gradients(seed, 2))
        expected = plain(gradients, losses=LOSSES)
        # Sums in another order.
        np.testing.assert_allclose(step(gradients), expected, rtol=1e-5, atol=1e-6)
        pair = tf.split(gradients, [2, 4], axis=1)
        parts = apart.combine(pair, None, tf.ones(2), losses=tf.constant(LOSSES))
        np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-5, atol=1e-6)


def test_options_are_in_the_config():
    balancing = DBMTL(beta=0.8, decay=0.5, epsilon=1e-6)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(balancing))
    assert (copy.beta, copy.decay, copy.epsilon) == (0.8, 0.5, 1e-6)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"`beta` must be below 1, received 1: no average"):
        DBMTL(beta=1.0)
    with pytest.raises(ValueError, match=r"`decay` must be a finite number >= 0"):
        DBMTL(decay=-1.0)
    with pytest.raises(ValueError, match=r"`epsilon` must be a finite number > 0"):
        DBMTL(epsilon=0.0)
    with pytest.raises(ValueError, match=r"received 'features': it keeps numbers for each"):
        DBMTL(scope="features")
    with pytest.raises(ValueError, match=r"`losses` must have shape \(2,\) for DBMTL"):
        DBMTL()(GRADIENTS)

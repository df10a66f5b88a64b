import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.balancing import ExcessMTL

EYE = np.eye(2, dtype="float32")


def random_gradients(seed, num_tasks, num_params=6):
    return np.float32(np.random.default_rng(seed).normal(size=(num_tasks, num_params)))


def test_two_steps_worked_by_hand():
    # The first step leaves the weights at 1 and notes the risks 1/sqrt(1) of both. In the second
    # they are 1/sqrt(2) and 0.5^2/sqrt(1.25), so that the weights are 2 softmax of these.
    excess = ExcessMTL(learning_rate=1.0, epsilon=1e-12)
    np.testing.assert_allclose(excess(EYE), [1.0, 1.0], rtol=1e-6)
    found = excess(EYE * [[1.0], [0.5]])
    risks = np.array([1 / np.sqrt(2), 0.25 / np.sqrt(1.25)])
    expected = 2 * np.exp(risks) / np.exp(risks).sum() * [1.0, 0.5]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_equal_tasks_keep_equal_weights():
    excess = ExcessMTL(learning_rate=0.5)
    for seed in range(5):
        gradient = random_gradients(seed, 1)[0]
        direction = excess(np.stack([gradient] * 3))
        np.testing.assert_allclose(direction, 3 * gradient, rtol=1e-5)


def test_a_larger_excess_risk_gains_weight():
    excess = ExcessMTL(learning_rate=0.1)
    weights = [1.0]
    for step in range(6):
        weights.append(float(excess(EYE * [[1.0], [0.5**step]])[0]))
    assert weights[1] == pytest.approx(1.0, rel=1e-6)
    assert (np.diff(weights[1:]) > 0).all()


def test_constant_factors_of_the_losses_do_not_move_the_weights():
    plain, scaled = ExcessMTL(0.5, epsilon=1e-20), ExcessMTL(0.5, epsilon=1e-20)
    for seed in range(5):
        gradients = random_gradients(seed, 2)
        plain(gradients)
        scaled(gradients * np.float32([[100.0], [0.01]]))
    np.testing.assert_allclose(scaled.logits, plain.logits, rtol=1e-4, atol=1e-6)


def test_heads_learn_with_the_same_weights():
    excess = ExcessMTL(learning_rate=1.0)
    excess(EYE)
    direction = np.asarray(excess(EYE * [[1.0], [0.1]]))
    heads = np.asarray(excess.head_weights(None, tf.ones(2)))
    np.testing.assert_allclose(heads, direction / [1.0, 0.1], rtol=1e-5)
    assert heads.sum() == pytest.approx(2.0, rel=1e-6)


def test_an_absent_task_equals_leaving_it_out_and_its_state_does_not_move():
    both, alone = ExcessMTL(0.5), ExcessMTL(0.5)
    active = np.array([1.0, 0.0, 1.0])
    for seed in range(4):
        gradients = random_gradients(seed, 3)
        expected = alone(gradients[[0, 2]])
        np.testing.assert_allclose(both(gradients, active), expected, rtol=1e-4, atol=1e-5)
    assert all((variable.numpy()[1] == 0).all() for variable in both.task_variables)


def test_a_task_that_comes_late_begins_without_a_move():
    excess = ExcessMTL(1.0)
    for _ in range(3):
        excess(EYE * [[1.0], [0.5]], [1.0, 0.0])
    excess(EYE * [[1.0], [0.5]])
    np.testing.assert_allclose(excess.logits, [0.0, 0.0], atol=1e-6)  # one alone keeps its sum
    assert excess.initial_risks.numpy()[1] == pytest.approx(0.5, rel=1e-5)  # 0.25 / sqrt(0.25)


def test_no_active_task_gives_no_direction_and_moves_nothing():
    excess = ExcessMTL(1.0)
    for scale in (1.0, 0.5):
        excess(EYE * [[1.0], [scale]])
    before = [variable.numpy() for variable in excess.variables]
    np.testing.assert_array_equal(excess(EYE, [0.0, 0.0]), [0.0, 0.0])
    for variable, value in zip(excess.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_permutation_of_tasks_permutes_the_weights():
    plain, permuted, order = ExcessMTL(1.0), ExcessMTL(1.0), [2, 0, 1]
    for seed in range(4):
        gradients = random_gradients(seed, 3)
        plain(gradients)
        permuted(gradients[order])
    np.testing.assert_allclose(permuted.logits, plain.logits.numpy()[order], rtol=1e-5)


@pytest.mark.parametrize("scales", [[1e-10, 1e10], [1e10, 1e10], [1e-10, 1e-10], [0.0, 1.0]])
def test_gradients_of_any_scale_give_finite_directions(scales):
    excess = ExcessMTL()
    for step in range(4):
        # Up and down, so that the ratio of risks is both very large and very small.
        sizes = np.float32(scales if step % 2 else scales[::-1])
        direction = excess(random_gradients(step, 2) * sizes[:, None])
        assert np.isfinite(direction).all()
    assert all(np.isfinite(variable).all() for variable in excess.variables)


def test_compiled_by_xla_equals_not_compiled_and_parts_equal_the_whole():
    plain, compiled, apart = ExcessMTL(1.0), ExcessMTL(1.0), ExcessMTL(1.0)
    compiled.build_for(2)
    compiled.build_for_parts([6])
    apart.build_for(2)
    apart.build_for_parts([2, 4])
    step = tf.function(compiled, jit_compile=True)
    for seed in range(3):
        gradients = tf.constant(random_gradients(seed, 2))
        expected = plain(gradients)
        # Sums in another order.
        np.testing.assert_allclose(step(gradients), expected, rtol=1e-5, atol=1e-6)
        parts = apart.combine(tf.split(gradients, [2, 4], axis=1), None, tf.ones(2))
        np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-5, atol=1e-6)


def test_options_are_in_the_config():
    excess = ExcessMTL(learning_rate=0.2, epsilon=1e-5)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(excess))
    assert (copy.learning_rate, copy.epsilon) == (0.2, 1e-5)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"`learning_rate` must be a finite number >= 0"):
        ExcessMTL(learning_rate=-1.0)
    with pytest.raises(ValueError, match=r"`epsilon` must be a finite number > 0"):
        ExcessMTL(epsilon=0.0)
    with pytest.raises(ValueError, match=r"received 'features': it keeps numbers for each"):
        ExcessMTL(scope="features")

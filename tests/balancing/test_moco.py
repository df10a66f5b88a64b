import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.balancing import MGDA, MoCo

GRADIENTS = np.float32([[3.0, 0.0], [0.0, 1.0]])


def random_gradients(seed, num_tasks, num_params=6):
    return np.float32(np.random.default_rng(seed).normal(size=(num_tasks, num_params)))


def test_two_steps_worked_by_hand():
    # y = (1.5, 0), (0, 0.5); w = (0.5 - 0.1 * 1.125, 0.5 - 0.1 * 0.125) + 0.0625 each.
    moco = MoCo(beta=0.5, decay=0.0)
    np.testing.assert_allclose(moco(GRADIENTS), [1.5 * 0.45, 0.5 * 0.55], rtol=1e-6)
    # y = (2.25, 0), (0, 0.75); slopes 0.45 * 5.0625 = 2.278125 and 0.55 * 0.5625 = 0.309375,
    # half of whose difference, 0.984375, times 0.1 goes over from the first to the second.
    expected = [2.25 * (0.45 - 0.0984375), 0.75 * (0.55 + 0.0984375)]
    np.testing.assert_allclose(moco(GRADIENTS), expected, rtol=1e-5)


def test_both_rates_fall_with_the_steps():
    moco = MoCo(beta=1.0, decay=0.5, learning_rate=0.1)
    moco(GRADIENTS)
    found = moco(np.zeros((2, 2)))
    left = (1 - 1 / np.sqrt(2)) * GRADIENTS  # y after the second step
    w = np.array([0.1 + 0.2, 0.5 + 0.2])
    over = 0.1 / np.sqrt(2) * (left[0, 0] ** 2 * w[0] - left[1, 1] ** 2 * w[1]) / 2
    np.testing.assert_allclose(found, (w + np.array([-over, over])) @ left, rtol=1e-5)


def test_with_the_gradients_themselves_it_tends_to_mgda():
    gradients = random_gradients(1, 4)
    moco = MoCo(beta=1.0, decay=0.0, learning_rate=0.05)
    moco.build_for(4)
    moco.build_for_parts([6])
    step = tf.function(lambda: moco(gradients))
    for _ in range(400):
        found = step()
    np.testing.assert_allclose(found, MGDA()(gradients), atol=1e-5)


def test_noise_of_the_gradients_is_averaged_out():
    random, moco, spread = np.random.default_rng(0), MoCo(beta=0.5), []
    for _ in range(200):
        moco(GRADIENTS + np.float32(random.normal(size=(2, 2))))
        spread.append(np.abs(moco.tracked[0][0].numpy() - GRADIENTS).max())
    # Rates of 0.5 / sqrt(t) leave sqrt(b / 2) of the noise: 0.13 at the end, 0.5 at first.
    assert np.mean(spread[-50:]) < 0.5 * np.mean(spread[:5])


def test_a_large_rho_keeps_weights_equal():
    gradients = random_gradients(2, 3)
    moco = MoCo(beta=1.0, decay=0.0, rho=1e3, learning_rate=1e-3)
    for _ in range(20):
        found = moco(gradients)
    # Off by the slopes, up to 10, over rho.
    np.testing.assert_allclose(found, gradients.mean(axis=0), atol=0.05)


def test_an_absent_task_equals_leaving_it_out_and_its_state_does_not_move():
    both, alone = MoCo(), MoCo()
    active = np.array([1.0, 0.0, 1.0])
    for seed in range(5):
        gradients = random_gradients(seed, 3)
        expected = alone(gradients[[0, 2]])
        np.testing.assert_allclose(both(gradients, active), expected, rtol=1e-5, atol=1e-6)
    assert both.task_weights.numpy()[1] == 1.0
    assert both.steps.numpy()[1] == 0.0
    assert (both.tracked[0][0].numpy()[1] == 0).all()


def test_no_active_task_gives_no_direction_and_moves_nothing():
    moco = MoCo()
    moco(GRADIENTS)
    before = [variable.numpy() for variable in moco.variables]
    np.testing.assert_array_equal(moco(GRADIENTS, [0.0, 0.0]), [0.0, 0.0])
    for variable, value in zip(moco.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_permutation_of_tasks_permutes_the_weights():
    plain, permuted, order = MoCo(), MoCo(), [2, 0, 1]
    for seed in range(4):
        gradients = random_gradients(seed, 3)
        plain(gradients)
        permuted(gradients[order])
    expected = plain.task_weights.numpy()[order]
    np.testing.assert_allclose(permuted.task_weights, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scales", [[1e-10, 1e10], [1e10, 1e10], [1e-10, 1e-10], [0.0, 1.0]])
def test_gradients_of_any_scale_give_weights_that_sum_to_one(scales):
    moco = MoCo()
    for step in range(4):
        sizes = np.float32(scales if step % 2 else scales[::-1])
        assert np.isfinite(moco(random_gradients(step, 2) * sizes[:, None])).all()
        assert moco.task_weights.numpy().sum() == pytest.approx(2.0, rel=1e-5)


def test_compiled_by_xla_equals_not_compiled_and_parts_equal_the_whole():
    plain, compiled, apart = MoCo(), MoCo(), MoCo()
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
    moco = MoCo(beta=0.8, learning_rate=0.2, rho=0.1, decay=0.0)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(moco))
    assert (copy.beta, copy.learning_rate, copy.rho, copy.decay) == (0.8, 0.2, 0.1, 0.0)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"`beta` must be above 0, received 0: no gradient"):
        MoCo(beta=0.0)
    with pytest.raises(ValueError, match=r"`learning_rate` must be a finite number > 0"):
        MoCo(learning_rate=0.0)
    with pytest.raises(ValueError, match=r"`rho` must be a finite number >= 0"):
        MoCo(rho=-1.0)
    with pytest.raises(ValueError, match=r"`decay` must be a finite number >= 0"):
        MoCo(decay=-1.0)
    with pytest.raises(ValueError, match=r"received 'features': it keeps numbers for each"):
        MoCo(scope="features")

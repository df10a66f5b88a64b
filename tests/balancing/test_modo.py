import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.balancing import MGDA, MoDo

GRAMIAN = np.diag([9.0, 1.0])


def random_gradients(seed, num_tasks, num_params=6):
    return np.random.default_rng(seed).normal(size=(num_tasks, num_params))


def random_gramian(seed, num_tasks):
    gradients = random_gradients(seed, num_tasks)
    return gradients @ gradients.T


def test_steps_worked_by_hand():
    # Slopes 9 / 2 + 1 / 2 = 5 and 1 / 2 + 1 / 2 = 1: half of the difference, times 0.1.
    modo = MoDo(learning_rate=0.1, rho=1.0)
    np.testing.assert_allclose(modo.compute_weights(GRAMIAN), [0.3, 0.7], rtol=1e-6)
    # Rows are the first half's: C w = (2 * 0.7, 0), and rho w = (0.3, 0.7).
    found = modo.compute_weights(GRAMIAN, cross_gramian=[[0.0, 2.0], [0.0, 0.0]])
    np.testing.assert_allclose(found, [0.25, 0.75], rtol=1e-6)


def test_weights_stay_on_the_simplex():
    modo = MoDo(learning_rate=1.0, rho=0.0)
    np.testing.assert_allclose(modo.compute_weights(GRAMIAN), [0.0, 1.0], atol=1e-7)


def test_with_the_gramian_itself_it_tends_to_mgda():
    modo, gramian = MoDo(learning_rate=0.05, rho=0.0), random_gramian(1, 4)
    modo.build_for(4)
    step = tf.function(lambda: modo.compute_weights(gramian))
    for _ in range(400):
        found = step()
    np.testing.assert_allclose(found, MGDA().compute_weights(gramian), atol=1e-5)


def test_the_noise_of_two_halves_cancels_in_the_mean():
    # A gradient of mean 0 and large variance looks long in its own Gramian, so it would get next
    # to no weight; its cross products are 0 in the mean.
    random, own, cross = np.random.default_rng(0), MoDo(1e-2, rho=0.0), MoDo(1e-2, rho=0.0)
    for balancing in (own, cross):
        balancing.build_for(2)
    step = tf.function(lambda balancing, gramian: balancing.compute_weights(gramian))
    for _ in range(300):
        first, second = (np.array([3.0 * random.normal(), 0.5]) for _ in range(2))
        step(own, tf.constant(np.diag(first**2)))
        step(cross, tf.constant(np.diag(first * second)))
    assert own.task_weights.numpy()[0] < 0.4  # of 2 in all
    assert cross.task_weights.numpy()[0] > 1.0


def test_a_large_rho_keeps_weights_equal():
    modo = MoDo(learning_rate=1e-4, rho=1e4)
    for _ in range(5):
        found = modo.compute_weights(GRAMIAN)
    np.testing.assert_allclose(found, [0.5, 0.5], atol=1e-3)


def test_an_absent_task_equals_leaving_it_out_and_its_state_does_not_move():
    both, alone = MoDo(0.02), MoDo(0.02)
    for seed in range(4):
        gramian = random_gramian(seed, 3)
        expected = alone.compute_weights(gramian[::2, ::2])
        found = both.compute_weights(gramian, [1.0, 0.0, 1.0]).numpy()
        np.testing.assert_allclose(found[::2], expected, rtol=1e-6, atol=1e-7)
        assert found[1] == 0.0
    assert both.task_weights.numpy()[1] == 1.0


def test_no_active_task_gives_no_direction_and_moves_nothing():
    modo = MoDo(0.02)
    modo.compute_weights(GRAMIAN)
    before = modo.task_weights.numpy()
    np.testing.assert_array_equal(modo.compute_weights(GRAMIAN, [0.0, 0.0]), [0.0, 0.0])
    np.testing.assert_array_equal(modo.task_weights, before)


def test_a_permutation_of_tasks_permutes_the_weights():
    plain, permuted, order = MoDo(0.02), MoDo(0.02), [2, 0, 1]
    for seed in range(4):
        gramian = random_gramian(seed, 3)
        expected = plain.compute_weights(gramian).numpy()[order]
        found = permuted.compute_weights(gramian[order][:, order])
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scales", [[1e-10, 1e10], [1e10, 1e10], [1e-10, 1e-10], [0.0, 1.0]])
def test_gradients_of_any_scale_give_weights_that_sum_to_one(scales):
    modo = MoDo()
    for step in range(4):
        sizes = np.float32(scales if step % 2 else scales[::-1])
        gradients = np.float32(random_gradients(step, 2)) * sizes[:, None]
        weights = modo.compute_weights(gradients @ gradients.T).numpy()
        assert weights.sum() == pytest.approx(1.0, rel=1e-6)
        assert weights.min() >= 0


def test_compiled_by_xla_equals_not_compiled():
    plain, compiled = MoDo(0.02), MoDo(0.02)
    compiled.build_for(3)
    step = tf.function(compiled, jit_compile=True)
    for seed in range(3):
        gradients = tf.constant(random_gradients(seed, 3))
        np.testing.assert_allclose(step(gradients), plain(gradients), rtol=1e-6, atol=1e-7)


def test_options_are_in_the_config():
    modo = MoDo(learning_rate=0.2, rho=0.3, refresh_every=2)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(modo))
    assert (copy.learning_rate, copy.rho, copy.refresh_every) == (0.2, 0.3, 2)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"`learning_rate` must be a finite number > 0"):
        MoDo(learning_rate=0.0)
    with pytest.raises(ValueError, match=r"`rho` must be a finite number >= 0"):
        MoDo(rho=-1.0)
    with pytest.raises(ValueError, match=r"received 'features': the two halves of a batch"):
        MoDo(scope="features")


def test_one_long_gradient_does_not_swamp_the_others():
    gradients = random_gradients(0, 4, 30) * np.array([[1.0], [2.0], [0.5], [1e3]])
    found, exact = (MoDo(learning_rate=1e-4) for _ in range(2))
    found(gradients.astype("float32"))
    exact(gradients)
    weights = exact.task_weights.numpy()
    assert len(set(weights[:3])) == 3
    np.testing.assert_allclose(found.task_weights, weights, rtol=1e-6)

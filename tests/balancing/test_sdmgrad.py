import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.balancing import MGDA, SDMGrad

GRAMIAN = np.diag([3.0, 1.0])


def random_gradients(seed, num_tasks, num_params=6):
    return np.random.default_rng(seed).normal(size=(num_tasks, num_params))


def random_gramian(seed, num_tasks):
    gradients = random_gradients(seed, num_tasks)
    return gradients @ gradients.T


def in_a_graph(balancing, gramian):
    """Many moves, which one by one would take long."""
    balancing.build_for(len(gramian))
    return tf.function(lambda: balancing.compute_weights(gramian))().numpy()


def test_moves_worked_by_hand():
    # In units of 3, C w = (0.5, 1 / 6): a sixth goes over, then (1 / 3, 2 / 9): an eighteenth.
    one, two = SDMGrad(0.0, num_inner=1), SDMGrad(0.0, num_inner=2)
    np.testing.assert_allclose(one.compute_weights(GRAMIAN), [2 / 6, 4 / 6], rtol=1e-6)
    np.testing.assert_allclose(two.compute_weights(GRAMIAN), [5 / 18, 13 / 18], rtol=1e-6)
    # With a pull of 0.2 slopes are 1.2 times as large, and w counts for 1 / 1.2 of the direction.
    pulled = SDMGrad(0.2, num_inner=1).compute_weights(GRAMIAN)
    np.testing.assert_allclose(pulled, [0.4 / 1.2, 0.8 / 1.2], rtol=1e-6)


def test_the_rows_of_the_cross_gramian_are_the_first_half():
    # In units of 2, C w = (0.5, 0): a quarter goes over.
    found = SDMGrad(0.0, num_inner=1).compute_weights(
        GRAMIAN, cross_gramian=[[0.0, 2.0], [0.0, 0.0]]
    )
    np.testing.assert_allclose(found, [0.25, 0.75], rtol=1e-6)


@pytest.mark.parametrize("num_tasks", [2, 4])
def test_without_regularization_it_tends_to_mgda(num_tasks):
    gramian = random_gramian(1, num_tasks)
    found = in_a_graph(SDMGrad(0.0, num_inner=2000), gramian)
    np.testing.assert_allclose(found, MGDA().compute_weights(gramian), atol=1e-6)


def test_many_steps_equal_many_moves():
    gramian = random_gramian(2, 4)
    steps, moves = SDMGrad(0.0, num_inner=10), SDMGrad(0.0, num_inner=50)
    for _ in range(5):
        found = steps.compute_weights(gramian)
    # State is kept in float32.
    np.testing.assert_allclose(found, moves.compute_weights(gramian), atol=1e-6)


def test_a_large_regularization_gives_the_mean():
    found = SDMGrad(1e6).compute_weights(random_gramian(3, 4))
    np.testing.assert_allclose(found, np.full(4, 0.25), atol=2e-6)


@pytest.mark.parametrize("regularization", [0.1, 0.5, 2.0])
def test_no_other_weights_give_a_shorter_direction(regularization):
    gramian = random_gramian(4, 4)
    found = in_a_graph(SDMGrad(regularization, num_inner=2000), gramian)
    others = np.random.default_rng(1).dirichlet(np.ones(4), size=500)
    others = (others + regularization / 4) / (1 + regularization)
    squares = np.einsum("ni,ij,nj->n", others, gramian, others)
    assert found @ gramian @ found <= squares.min() + 1e-10


def test_the_scale_of_all_gradients_makes_no_difference():
    gramian = random_gramian(5, 3)
    expected = SDMGrad().compute_weights(gramian)
    for scale in (1e-20, 1e20):
        found = SDMGrad().compute_weights(np.float32(scale * gramian))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_an_absent_task_equals_leaving_it_out_and_its_state_does_not_move():
    both, alone = SDMGrad(num_inner=3), SDMGrad(num_inner=3)
    for seed in range(4):
        gramian = random_gramian(seed, 3)
        expected = alone.compute_weights(gramian[::2, ::2])
        found = both.compute_weights(gramian, [1.0, 0.0, 1.0]).numpy()
        np.testing.assert_allclose(found[::2], expected, rtol=1e-6, atol=1e-7)
        assert found[1] == 0.0
    assert both.task_weights.numpy()[1] == 1.0


def test_no_active_task_gives_no_direction_and_moves_nothing():
    balancing = SDMGrad()
    balancing.compute_weights(GRAMIAN)
    before = balancing.task_weights.numpy()
    np.testing.assert_array_equal(balancing.compute_weights(GRAMIAN, [0.0, 0.0]), [0.0, 0.0])
    np.testing.assert_array_equal(balancing.task_weights, before)


def test_a_permutation_of_tasks_permutes_the_weights():
    gramian, order = random_gramian(6, 3), [2, 0, 1]
    expected = SDMGrad().compute_weights(gramian).numpy()[order]
    found = SDMGrad().compute_weights(gramian[order][:, order])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scales", [[1e-10, 1e10], [1e10, 1e10], [1e-10, 1e-10], [0.0, 1.0]])
def test_gradients_of_any_scale_give_weights_that_sum_to_one(scales):
    balancing = SDMGrad()
    for step in range(4):
        sizes = np.float32(scales if step % 2 else scales[::-1])
        gradients = np.float32(random_gradients(step, 2)) * sizes[:, None]
        weights = balancing.compute_weights(gradients @ gradients.T).numpy()
        assert weights.sum() == pytest.approx(1.0, rel=1e-6)
        assert weights.min() >= 0


@pytest.mark.parametrize("cross", [[[-1.0, 0.0], [0.0, -2.0]], [[0.0, 0.0], [0.0, 0.0]]])
def test_noise_that_hides_the_gradients_gives_weights_all_the_same(cross):
    weights = SDMGrad().compute_weights(GRAMIAN, cross_gramian=cross).numpy()
    assert weights.sum() == pytest.approx(1.0, rel=1e-6)
    assert weights.min() >= 0


def test_compiled_by_xla_equals_not_compiled():
    plain, compiled = SDMGrad(), SDMGrad()
    compiled.build_for(3)
    step = tf.function(compiled, jit_compile=True)
    for seed in range(3):
        gradients = tf.constant(random_gradients(seed, 3))
        np.testing.assert_allclose(step(gradients), plain(gradients), rtol=1e-6, atol=1e-7)


def test_options_are_in_the_config():
    balancing = SDMGrad(regularization=0.2, num_inner=5, learning_rate=0.5)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(balancing))
    assert (copy.regularization, copy.num_inner, copy.learning_rate) == (0.2, 5, 0.5)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"`regularization` must be a finite number >= 0"):
        SDMGrad(regularization=-1.0)
    with pytest.raises(ValueError, match=r"`num_inner` must be an integer >= 1"):
        SDMGrad(num_inner=0)
    with pytest.raises(ValueError, match=r"`learning_rate` must be a finite number > 0"):
        SDMGrad(learning_rate=0.0)
    with pytest.raises(ValueError, match=r"`learning_rate` must be a finite number <= 2"):
        SDMGrad(learning_rate=3.0)
    with pytest.raises(ValueError, match=r"received 'features': the two halves of a batch"):
        SDMGrad(scope="features")

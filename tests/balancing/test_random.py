import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.balancing import Random
from keras_mtl.core import random_shares

GRADIENTS = np.float32([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0], [1.0, 1.0, 1.0]])


def drawn(balancing, count, active=(1.0, 1.0, 1.0)):
    balancing.build_for(3)
    gramian = tf.constant(GRADIENTS @ GRADIENTS.T)
    draw = tf.function(lambda: balancing.compute_weights(gramian, active))
    return np.stack([draw() for _ in range(count)])


def test_normal_weights_are_the_softmax_of_the_draws(monkeypatch):
    numbers = np.log(np.float32([1.0, 2.0, 5.0]))
    monkeypatch.setattr(random_shares, "normal", lambda *_: tf.constant(numbers))
    # [1, 0, 2] / 8 + [0, 3, 1] / 4 + 5 [1, 1, 1] / 8
    np.testing.assert_allclose(Random()(GRADIENTS), [0.75, 1.375, 1.125], rtol=1e-6)


@pytest.mark.parametrize("distribution", ["normal", "dirichlet"])
def test_weights_are_positive_sum_to_one_and_change_with_every_draw(distribution):
    weights = drawn(Random(distribution, seed=0), 40)
    assert np.all(weights > 0)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)
    assert len(np.unique(weights, axis=0)) == 40


def test_mean_of_the_directions_is_the_mean_of_the_gradients():
    weights = drawn(Random(seed=1), 2000)
    # The deviation of a weight is about 0.23, so that of its mean 0.005.
    np.testing.assert_allclose(weights.mean(axis=0), np.full(3, 1 / 3), atol=0.02)


def test_absent_tasks_get_nothing_and_the_others_what_they_get_without_them():
    weights = drawn(Random(seed=2), 5, active=(1.0, 0.0, 1.0))
    two = Random(seed=2)
    expected = [np.asarray(two.compute_weights(np.eye(2))) for _ in range(5)]
    np.testing.assert_array_equal(weights[:, 1], 0.0)
    np.testing.assert_allclose(weights[:, [0, 2]], expected, rtol=1e-6)


def test_compiled_by_xla_draws_the_same():
    weights = drawn(Random(seed=4), 3)
    balancing = Random(seed=4)
    balancing.build_for(3)
    draw = tf.function(lambda: balancing.compute_weights(tf.eye(3)), jit_compile=True)
    np.testing.assert_allclose(np.stack([draw() for _ in range(3)]), weights, rtol=1e-5)


def test_a_seed_fixes_the_draws():
    np.testing.assert_array_equal(drawn(Random(seed=3), 3), drawn(Random(seed=3), 3))


def test_errors():
    with pytest.raises(ValueError, match="`distribution` must be one of"):
        Random("uniform")
    with pytest.raises(TypeError, match="`seed` must be None or an integer"):
        Random(seed=0.5)

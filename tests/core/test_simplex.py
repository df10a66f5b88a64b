import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.core import simplex

ALL = np.ones(3)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        ([1.0, 1.0, 1.0], [1 / 3, 1 / 3, 1 / 3]),
        ([2.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        # Without the third: 0.8 + 0.6 is 0.4 too much, 0.2 off each.
        ([0.8, 0.6, 0.1], [0.6, 0.4, 0.0]),
        ([-5.0, -5.5, -9.0], [0.75, 0.25, 0.0]),
    ],
)
def test_projection_worked_by_hand(point, expected):
    np.testing.assert_allclose(simplex.project(np.array(point), ALL), expected, atol=1e-15)


def test_projection_is_the_nearest_point():
    # It is, if (v - p) . (q - p) <= 0 for every corner q of the simplex.
    random = np.random.default_rng(0)
    for num_tasks in (1, 2, 5, 32):
        for scale in (0.1, 1.0, 10.0):
            point = scale * random.normal(size=num_tasks)
            found = simplex.project(point, np.ones(num_tasks)).numpy()
            assert found.min() >= 0
            assert found.sum() == pytest.approx(1.0, abs=1e-12)
            products = (point - found)[None] @ (np.eye(num_tasks) - found).T
            assert products.max() <= 1e-12 * scale


@pytest.mark.parametrize("offset", [-1e30, -1e5, 1e5, 1e30])
def test_large_numbers_give_weights_that_sum_to_one(offset):
    for dtype in (np.float32, np.float64):
        found = simplex.project(np.array([offset, 0.0, -offset], dtype), ALL).numpy()
        np.testing.assert_array_equal(found, np.float64([offset > 0, 0.0, offset < 0]))


def test_absent_tasks_are_left_out():
    point = np.array([0.8, 9.0, 0.6])
    found = simplex.project(point, [1.0, 0.0, 1.0]).numpy()
    np.testing.assert_allclose(found, [0.6, 0.0, 0.4], atol=1e-15)
    np.testing.assert_array_equal(simplex.project(point, np.zeros(3)), np.zeros(3))


def test_compiled_by_xla_equals_not_compiled():
    compiled = tf.function(simplex.project, jit_compile=True)
    point = tf.constant([0.8, 9.0, 0.6, -1.0])
    active = tf.constant([1.0, 0.0, 1.0, 1.0])
    np.testing.assert_allclose(compiled(point, active), simplex.project(point, active), atol=1e-7)


def test_active_tasks_share_what_they_had():
    weights, active = tf.constant([1.0, 2.0, 3.0]), tf.constant([1.0, 1.0, 0.0])
    among = simplex.among(weights, active)
    np.testing.assert_allclose(among, [1 / 3, 2 / 3, 0.0], rtol=1e-6)
    back = simplex.put_back(weights, tf.constant([0.5, 0.5, 0.0]), active)
    np.testing.assert_allclose(back, [1.5, 1.5, 3.0], rtol=1e-6)


def test_active_tasks_that_had_nothing_begin_anew():
    weights, active = tf.constant([0.0, 0.0, 3.0]), tf.constant([1.0, 1.0, 0.0])
    np.testing.assert_array_equal(simplex.among(weights, active), [0.5, 0.5, 0.0])
    back = simplex.put_back(weights, tf.constant([0.5, 0.5, 0.0]), active)
    np.testing.assert_array_equal(back, [1.0, 1.0, 3.0])
    np.testing.assert_array_equal(simplex.among(weights, tf.zeros(3)), np.zeros(3))
    np.testing.assert_array_equal(simplex.put_back(weights, tf.zeros(3), tf.zeros(3)), weights)


def test_descent_ends_at_the_minimum():
    # Of 0.5 w'Cw + b'w with C = diag(3, 1): 3 w_1 + 0.5 = w_2 where w_1 + w_2 = 1.
    matrix, linear = tf.constant(np.diag([3.0, 1.0, 0.0])), tf.constant([0.5, 0.0, 0.0], "float64")
    start, active = tf.constant([0.0, 1.0, 0.0], "float64"), tf.constant([1.0, 1.0, 0.0])
    found = simplex.descend(start, matrix, linear, active, rate=1.0, steps=60)
    np.testing.assert_allclose(found, [0.125, 0.875, 0.0], atol=1e-12)
    one = simplex.descend(start, matrix, linear, active, rate=1.0, steps=1)
    # Slopes 1 / 6 and 1 / 3: half of the difference goes over.
    np.testing.assert_allclose(one, [1 / 12, 11 / 12, 0.0], atol=1e-12)


def test_descent_without_slopes_stays():
    start, zeros = tf.constant([0.2, 0.8]), tf.zeros((2, 2))
    found = simplex.descend(start, zeros, zeros[0], tf.ones(2), rate=1.0, steps=3)
    np.testing.assert_allclose(found, start, rtol=1e-6)

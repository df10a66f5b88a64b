"""Inner products of task gradients are the same, however many rows are multiplied at once."""

import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.core import balanced

LONG, SHORT = balanced.LONG_ROW, 5
# Sums of some 4000 products of float32, in other orders: errors of 1e-3 beside squares of 4000.
CLOSE = {"rtol": 1e-5, "atol": 1e-2}


def rows(num_tasks, size, seed=0):
    return np.random.default_rng(seed).normal(size=(num_tasks, size)).astype("float32")


@pytest.mark.parametrize("num_tasks", [1, 2, 6, 7, 12, 13, 32])
def test_gramian_is_every_inner_product_over_all_parts(num_tasks):
    parts = [rows(num_tasks, LONG), rows(num_tasks, SHORT, seed=1)]
    whole = np.concatenate(parts, axis=1).astype("float64")
    found = balanced.gramian_of([tf.constant(part) for part in parts])
    np.testing.assert_allclose(found, whole @ whole.T, **CLOSE)
    # On some machines a product of few columns is not the same both ways to the last bit.
    np.testing.assert_allclose(found, np.transpose(found), rtol=1e-6)


@pytest.mark.parametrize("num_tasks", [2, 7, 13])
def test_products_with_other_rows_are_not_mirrored(num_tasks):
    first, second = rows(num_tasks, LONG), rows(num_tasks, LONG, seed=1)
    found = balanced.gramian_of([tf.constant(first)], [tf.constant(second)])
    expected = first.astype("float64") @ second.astype("float64").T
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_rows_of_open_length_are_multiplied_alike():
    part = rows(13, LONG)
    signature = [tf.TensorSpec([13, None], tf.float32)]
    found = tf.function(lambda part: balanced.gramian_of([part]), input_signature=signature)(part)
    np.testing.assert_array_equal(found, balanced.gramian_of([tf.constant(part)]))
    np.testing.assert_allclose(found, part @ part.T, **CLOSE)


def test_gradient_that_is_not_finite_is_seen_by_its_own_products_alone():
    part = rows(13, LONG)
    part[3, 100] = np.nan
    found = np.isnan(balanced.gramian_of([tf.constant(part)]))
    expected = np.zeros((13, 13), bool)
    expected[3] = expected[:, 3] = True
    np.testing.assert_array_equal(found, expected)

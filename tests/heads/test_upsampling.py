"""Predictions finer than the features: `upsampling` of the heads of one dense layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.heads import BinaryClassification, Classification, Regression
from keras_mtl.heads._upsampling import upsample

IMAGES = np.random.default_rng(0).normal(size=(2, 3, 5, 2)).astype("float32")


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_images_are_interpolated_as_by_bilinear_resize(factor):
    expected = tf.image.resize(IMAGES, (3 * factor, 5 * factor), "bilinear")
    # Both take two weighted means of float32 numbers of size 1, in another order.
    np.testing.assert_allclose(upsample(IMAGES, factor), expected, atol=1e-6)


def test_a_single_pixel_fills_its_patch():
    np.testing.assert_array_equal(upsample(IMAGES[:, :1, :1], 2), IMAGES[:, [0, 0]][:, :, [0, 0]])


def test_volumes_are_interpolated_along_each_axis():
    ramp = np.broadcast_to(np.arange(3.0)[None, None, None, :, None], (1, 2, 2, 3, 1))
    finer = upsample(ramp, 2)
    assert finer.shape == (1, 4, 4, 6, 1)
    np.testing.assert_allclose(finer[0, 3, 1, :, 0], [0.0, 0.25, 0.75, 1.25, 1.75, 2.0])


def test_padding_does_not_reach_its_neighbours():
    steps = np.array([[[1.0], [3.0], [np.nan]]], "float32")
    mask = np.array([[True, True, False]])
    alone = upsample(steps[:, :2], 2)
    np.testing.assert_array_equal(upsample(steps, 2, mask)[:, :4], alone)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_sizes_may_be_unknown(jit_compile):
    signature = [tf.TensorSpec((None, None, None, 2))]
    graph = tf.function(
        lambda x: upsample(x, 2), input_signature=signature, jit_compile=jit_compile
    )
    np.testing.assert_allclose(graph(IMAGES), upsample(IMAGES, 2), atol=1e-6)


HEADS = [Classification(4, pooling=None, upsampling=2), Regression(pooling=None, upsampling=2)]
HEADS.append(BinaryClassification(pooling=None, upsampling=2))


@pytest.mark.parametrize("head", HEADS)
def test_every_dense_head_predicts_as_finely_as_it_says(head):
    head = type(head).from_config(head.get_config())
    shape = (2, 6, 10, head.dense.units)
    assert head(IMAGES).shape == head.compute_output_shape(IMAGES.shape) == shape
    assert head(keras.Input((None, None, 2))).shape == (None, None, None, head.dense.units)


def test_logits_are_interpolated_and_not_probabilities():
    head = BinaryClassification(pooling=None, upsampling=2, kernel_initializer="identity")
    logits = np.array([[[0.0], [4.0]]], "float32")
    np.testing.assert_allclose(
        head(logits)[0, :, 0], 1 / (1 + np.exp([-0.0, -1.0, -3.0, -4.0])), rtol=1e-6
    )


def test_the_mask_is_as_fine_as_the_predictions():
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 3, mask_zero=True)(tokens)
    model = keras.Model(tokens, Regression(pooling=None, upsampling=2)(x))
    predictions = model(np.array([[5, 7, 0]]))
    np.testing.assert_array_equal(predictions._keras_mask, [[True] * 4 + [False] * 2])
    np.testing.assert_array_equal(predictions[:, :4], model(np.array([[5, 7]])))


def test_pooled_heads_have_nothing_to_refine():
    with pytest.raises(ValueError, match=r"`upsampling` needs axes that are kept.* `pooling=None`"):
        Regression(upsampling=2)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (1.5, TypeError)])
def test_upsampling_must_be_a_positive_integer(value, error):
    with pytest.raises(error, match="`upsampling` must be an integer >= 1"):
        Regression(pooling=None, upsampling=value)

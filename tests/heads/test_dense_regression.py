"""Regression of each pixel, such as depth: `Regression(pooling=None)` on images."""

import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl.heads import Regression

random = np.random.default_rng(0)
X = random.normal(size=(5, 6, 4, 2)).astype("float32")
DEPTH = random.uniform(1.0, 3.0, size=(5, 6, 4)).astype("float32")
DEPTH[random.uniform(size=DEPTH.shape) < 0.4] = np.nan
DEPTH[2] = np.nan  # an image without labels
THERE = ~np.isnan(DEPTH)


def build(units=1, stride=1, optimizer=None, **compile_arguments):
    trunk = keras.layers.Conv2D(3, stride, stride, activation="tanh", name="trunk")
    inputs = keras.Input((6, 4, 2), name="image")
    head = Regression(units, pooling=None, upsampling=stride)
    model = keras_mtl.architectures.hard_sharing(inputs, trunk, {"depth": head})
    model.compile(optimizer or keras.optimizers.SGD(0.0), **compile_arguments)
    return model


@pytest.mark.parametrize(("stride", "axis"), [(1, (None,)), (2, ())])
def test_missing_pixels_reach_neither_loss_nor_metrics(stride, axis):
    rmse = keras.metrics.RootMeanSquaredError(name="rmse")
    model = build(stride=stride, metrics={"depth": ["mae", rmse]})
    labels = {"depth": DEPTH[(..., *axis)]}

    history = model.fit(X, labels, batch_size=3, shuffle=False, verbose=0).history

    errors = (model.predict(X, verbose=0)["depth"][..., 0] - DEPTH)[THERE]
    np.testing.assert_allclose(history["depth_loss"], np.mean(errors**2), rtol=1e-5)
    np.testing.assert_allclose(history["depth_mae"], np.abs(errors).mean(), rtol=1e-5)
    np.testing.assert_allclose(history["depth_rmse"], np.sqrt(np.mean(errors**2)), rtol=1e-5)


def test_missing_pixels_reach_no_gradient():
    model = build(optimizer=keras.optimizers.SGD(0.5))
    before = model.get_layer("depth").dense.kernel.numpy()
    features = keras.Model(model.input, model.get_layer("trunk").output)(X).numpy()
    errors = model.predict(X, verbose=0)["depth"] - DEPTH[..., None]

    model.train_on_batch(X, {"depth": DEPTH})

    moved = before - 0.5 * features[THERE].T @ (2 * errors[THERE]) / THERE.sum()
    np.testing.assert_allclose(model.get_layer("depth").dense.kernel, moved, atol=1e-6)


def test_each_number_of_a_pixel_may_be_missing():
    normals = random.normal(size=(5, 6, 4, 3)).astype("float32")
    normals[random.uniform(size=normals.shape) < 0.4] = np.nan
    model = build(units=3)

    logs = model.evaluate(X, {"depth": normals}, return_dict=True, verbose=0)

    errors = (model.predict(X, verbose=0)["depth"] - normals)[~np.isnan(normals)]
    np.testing.assert_allclose(logs["depth_loss"], np.mean(errors**2), rtol=1e-5)
    np.testing.assert_allclose(logs["depth_mae"], np.abs(errors).mean(), rtol=1e-5)


def test_weights_of_images_and_of_pixels_multiply_the_errors():
    model = build()
    of_images = random.uniform(size=5).astype("float32")
    of_pixels = random.uniform(size=DEPTH.shape).astype("float32")
    errors = np.square(model.predict(X, verbose=0)["depth"][..., 0] - DEPTH)
    for weights in (of_images, of_pixels):
        model.compile(keras.optimizers.SGD(0.0))
        logs = model.evaluate(
            X, {"depth": DEPTH}, sample_weight={"depth": weights}, return_dict=True, verbose=0
        )
        spread = np.broadcast_to(weights.reshape(5, *weights.shape[1:] or (1, 1)), DEPTH.shape)
        np.testing.assert_allclose(logs["depth_loss"], (errors * spread)[THERE].mean(), rtol=1e-5)


def test_labels_finer_than_the_predictions_ask_for_upsampling():
    finer = np.repeat(np.repeat(DEPTH, 2, 1), 2, 2)
    message = r"shape \('batch', 6, 4, 1\) or .* `upsampling=2`"
    with pytest.raises(ValueError, match=message):
        build().fit(X, {"depth": finer}, verbose=0)

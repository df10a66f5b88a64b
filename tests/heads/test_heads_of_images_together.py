"""Counts, classes, grades and depths of one image: saved, served, spread, in half precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl.heads import Counting, Ordinal, Regression, Segmentation

ROWS = 8
random = np.random.default_rng(0)
X = random.normal(size=(ROWS, 8, 8, 1)).astype("float32")
BRIGHT = X[..., 0] > 0.5
Y = {
    "cells": BRIGHT.sum(axis=(1, 2)).astype("float32"),
    "mask": BRIGHT.astype("uint8"),
    "grade": np.minimum(BRIGHT.sum(axis=(1, 2)) // 8, 3),
    "depth": 2 * X[..., 0] + 1,
}
# Of the first batch of 4, the second replica has the labels of no cells and of few pixels.
Y["cells"][2:4] = np.nan
Y["grade"][[0, 5]] = -1
Y["mask"][2:4, 1:] = 255
Y["depth"][2:4, :, 1:] = np.nan


def build(optimizer="adam", dtype="float32", **compile_arguments):
    keras.utils.set_random_seed(0)
    tasks = {
        "cells": Counting(dtype=dtype),
        "mask": Segmentation(2, upsampling=2, dtype=dtype),
        "grade": Ordinal(4, dtype=dtype),
        "depth": Regression(pooling=None, upsampling=2, dtype=dtype),
    }
    trunk = keras.layers.Conv2D(6, 2, 2, activation="relu", name="trunk", dtype=dtype)
    model = keras_mtl.architectures.hard_sharing(keras.Input((8, 8, 1), name="x"), trunk, tasks)
    model.compile(optimizer, **compile_arguments)
    return model


LOGS = ["cells_mae", "mask_mean_iou", "mask_accuracy", "grade_mae", "depth_mae"]


@pytest.fixture(scope="module")
def trained():
    model = build()
    history = model.fit(X, Y, batch_size=4, epochs=2, verbose=0).history
    return model, history


def test_fit_takes_losses_and_metrics_from_the_heads(trained):
    history = trained[1]
    assert set(LOGS) | {f"{task}_loss" for task in Y} <= set(history)
    assert np.isfinite([history[name] for name in history]).all()


def test_a_saved_model_predicts_and_measures_the_same(trained, tmp_path):
    model = trained[0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    one, other = (m.evaluate(X, Y, return_dict=True, verbose=0) for m in (model, again))
    assert set(LOGS) <= set(one)
    assert one == other


def test_a_clone_has_the_same_heads(trained):
    model = trained[0]
    clone = model.clone()
    clone.set_weights(model.get_weights())
    for task, predictions in clone.predict(X, verbose=0).items():
        np.testing.assert_array_equal(predictions, model.predict(X, verbose=0)[task])


def test_an_exported_model_serves_what_the_heads_decode(trained, tmp_path):
    model = trained[0]
    model.export(tmp_path / "served", verbose=False)
    serve = tf.saved_model.load(tmp_path / "served").signatures["serving_default"]
    served, predictions = serve(x=tf.constant(X)), model.predict(X, verbose=0)
    for task in ("cells", "mask", "depth"):
        np.testing.assert_allclose(served[task], predictions[task], atol=1e-6)
    np.testing.assert_array_equal(served["grade"], Ordinal(4).decode(predictions["grade"]))
    assert served["grade"].dtype == tf.int32


def test_half_precision_keeps_losses_and_predictions_in_float32():
    model, single = build("sgd", "mixed_float16"), build("sgd")
    logs = model.train_on_batch(X, Y, return_dict=True)
    expected = single.test_on_batch(X, Y, return_dict=True)
    for task in Y:
        # Features and kernels have 11 bits in float16; sums over pixels and rows have 24.
        np.testing.assert_allclose(logs[f"{task}_loss"], expected[f"{task}_loss"], rtol=2e-3)
    assert {x.dtype for x in model.predict(X, verbose=0).values()} == {np.dtype("float32")}


def test_two_replicas_equal_one_device(strategy):
    histories, models = [], []
    for place in (keras.name_scope("one"), strategy.scope()):
        with place:
            models.append(build(keras.optimizers.SGD(0.01)))
        fit = models[-1].fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        histories.append(fit.history)
    for name, values in histories[0].items():
        # Sums in another order; float32 keeps 1e-7, a few steps multiply it.
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-5, err_msg=name)
    for one, other in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)


@pytest.mark.slow  # the compilation
def test_compiled_by_xla_the_step_is_the_same():
    one, other = (build(keras.optimizers.SGD(0.01), jit_compile=jit) for jit in (False, True))
    logs = [model.train_on_batch(X, Y, return_dict=True) for model in (one, other)]
    for name, value in logs[0].items():
        np.testing.assert_allclose(logs[1][name], value, rtol=1e-5, err_msg=name)
    for left, right in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)


def test_weightings_that_take_no_negative_loss_take_all_of_these(trained):
    roles = trained[0]._training_state.loss_weighting.roles
    assert [role.name for role in roles if role.nonnegative] == list(Y)

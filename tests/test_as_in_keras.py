"""What a plain Keras model takes without a word, a multi-task model takes too."""

import keras
import numpy as np
import pytest

import keras_mtl

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = {"age": X[:, :1] * 2.0, "job": (X[:, 0] > 0).astype("int32")}


def build():
    inputs = keras.Input((3,), name="x")
    features = keras.layers.Dense(4)(inputs)
    outputs = {
        "age": keras.layers.Dense(1)(features),
        "job": keras.layers.Dense(2, activation="softmax")(features),
    }
    return keras_mtl.MultiTaskModel(inputs, outputs)


def _squared(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


@pytest.mark.parametrize("metric", ["accuracy", "acc", "sparse_categorical_accuracy"])
def test_callbacks_take_accuracy_by_name_to_be_better_where_higher(metric):
    model = build()
    model.compile("sgd", loss={"age": "mse", "job": "ce"}, metrics={"job": metric})
    callback = keras.callbacks.EarlyStopping(f"val_job_{metric}")
    callback.set_model(model)
    callback._set_monitor_op()
    assert bool(callback.monitor_op(1.0, 0.0))


def test_callbacks_ask_for_the_mode_of_a_metric_without_direction():
    model = build()
    model.compile("sgd", loss={"age": "mse", "job": "ce"}, metrics={"age": _squared})
    callback = keras.callbacks.EarlyStopping("val_age__squared")
    callback.set_model(model)
    with pytest.raises(ValueError, match="Pass `mode='max'`"):
        callback._set_monitor_op()
    with pytest.raises(ValueError, match="known direction"):
        model.compile(
            "sgd",
            loss={"age": "mse", "job": "ce"},
            metrics={"age": _squared},
            baselines={"age__squared": 1.0},
        )

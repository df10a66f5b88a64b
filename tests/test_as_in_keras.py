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


LOSSES = {"lambda": lambda y, p: keras.ops.square(y - p), "_name": _squared}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_function_may_have_any_name(loss):
    model = build()
    model.compile("sgd", loss={"age": loss, "job": "sparse_categorical_crossentropy"})
    model.fit(X, Y, verbose=0)
    predictions = model.predict(X, verbose=0)["age"]
    measured = model.evaluate(X, Y, return_dict=True, verbose=0)["age_loss"]
    assert measured == pytest.approx(np.mean((predictions - Y["age"]) ** 2), rel=1e-5)


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


def test_outputs_without_a_channel_axis_may_lack_labels_and_be_weighted():
    inputs = keras.Input((3,), name="x")
    age = keras.ops.squeeze(keras.layers.Dense(1)(inputs), axis=-1)
    model = keras_mtl.MultiTaskModel(inputs, {"age": age})
    model.compile("sgd", loss="mse")
    labels = np.array([1.0, np.nan, 2.0, np.nan, 0.0, 1.0, 1.0, 3.0], "float32")
    weights = np.arange(8, dtype="float32")
    predictions = model.predict(X, verbose=0)["age"]
    measured = model.evaluate(
        X, {"age": labels}, sample_weight=weights, return_dict=True, verbose=0
    )
    expected = np.nansum(weights * (predictions - labels) ** 2) / 6
    assert measured["age_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_model_without_an_optimizer_can_be_evaluated():
    model = build()
    model.compile(None, loss={"age": "mse", "job": "ce"})
    assert model.evaluate(X, Y, return_dict=True, verbose=0)["loss"] > 0

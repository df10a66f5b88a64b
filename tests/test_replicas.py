"""Two replicas equal one device where a batch does not split evenly, and under every weight."""

import keras
import numpy as np
import pytest

import keras_mtl

# Sums in another order; float32 keeps 1e-7, a few steps multiply it.
REORDERED = 1e-6
METHODS = {
    "plain": dict,
    "weighting": lambda: {"loss_weighting": "uncertainty"},
    "parameters": lambda: {"gradient_balancing": keras_mtl.balancing.MGDA()},
    "features": lambda: {"gradient_balancing": keras_mtl.balancing.MGDA(scope="features")},
    "both": lambda: {"loss_weighting": "uncertainty", "gradient_balancing": "pcgrad"},
}


class MeanActivity(keras.layers.Layer):
    """A user's layer, whose term of no rows is NaN."""

    def call(self, inputs):
        self.add_loss(0.5 * keras.ops.mean(keras.ops.square(inputs)))
        return inputs


def make_model(method, **given):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), name="x")
    penalties = {"kernel_regularizer": "l2", "activity_regularizer": "l2"}
    hidden = MeanActivity()(keras.layers.Dense(8, "tanh", **penalties)(inputs))
    outputs = {
        "clicked": keras.layers.Dense(1, "sigmoid", name="clicked")(hidden),
        "price": keras.layers.Dense(2, name="price")(hidden),
        "kind": keras.layers.Dense(3, "softmax", name="kind")(hidden),
    }
    tasks = {"price": keras_mtl.Task(where="clicked")}
    model = keras_mtl.MultiTaskModel(inputs, outputs, tasks=tasks)
    losses = {
        "clicked": "binary_crossentropy",
        "price": keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"),
        "kind": "sparse_categorical_crossentropy",
    }
    metrics = {"clicked": "auc", "price": "mae", "kind": "accuracy"}
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.5),
        loss=losses,
        metrics=metrics,
        weighted_metrics={"price": "mse"},
        **METHODS[method](),
        **given,
    )
    return model


def make_data(rows):
    random = np.random.default_rng(0)
    y = {
        "clicked": random.integers(0, 2, (rows, 1)).astype("float32"),
        "price": random.normal(size=(rows, 2)).astype("float32"),
        "kind": random.integers(0, 3, rows),
    }
    y["clicked"][:3] = 0.0
    y["price"][4, 1] = np.nan
    return random.normal(size=(rows, 5)).astype("float32"), y


def run_both(strategy, method, rows, fit):
    """Returns models and histories of the same training on one device and on two."""
    x, y = make_data(rows)
    models, histories = [], []
    for place in (keras.name_scope("one"), strategy.scope()):
        with place:
            models.append(make_model(method))
        history = models[-1].fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, **fit)
        histories.append(history.history)
    return models, histories


def assert_equal(models, histories):
    for mine, other in zip(models[1].weights, models[0].weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=REORDERED, atol=REORDERED)
    assert set(histories[0]) == set(histories[1])
    for name, expected in histories[0].items():
        np.testing.assert_allclose(
            histories[1][name], expected, rtol=REORDERED, atol=REORDERED, err_msg=name
        )


@pytest.mark.parametrize("rows", [21, 17], ids=["three and two rows", "one row and none"])
@pytest.mark.parametrize("method", METHODS)
def test_last_batch_that_splits_unevenly(strategy, method, rows):
    models, histories = run_both(strategy, method, rows, {})
    assert np.all(np.isfinite(histories[0]["loss"]))
    assert_equal(models, histories)


def test_sample_weights_class_weights_and_task_spaces(strategy):
    weight = np.linspace(0.1, 3.0, 21).astype("float32")
    fit = {
        "sample_weight": {"price": weight, "kind": weight[::-1]},
        "class_weight": {"kind": {0: 3.0, 2: 0.5}, "clicked": {1: 2.0}},
    }
    assert_equal(*run_both(strategy, "both", 21, fit))


def test_several_steps_at_once_are_refused_as_keras_crashes(strategy):
    with strategy.scope(), pytest.raises(ValueError, match="`steps_per_execution` must be 1"):
        make_model("plain", steps_per_execution=3)


@pytest.mark.parametrize("rows", [21, 17])
def test_predictions_come_back_in_order(strategy, rows):
    x, y = make_data(rows)
    models, _ = run_both(strategy, "plain", rows, {})
    found, expected = (model.predict(x, batch_size=8, verbose=0) for model in models)
    for task, outputs in expected.items():
        np.testing.assert_allclose(found[task], outputs, rtol=1e-5, atol=REORDERED)
    measured = [model.evaluate(x, y, batch_size=8, verbose=0) for model in models]
    np.testing.assert_allclose(*measured, rtol=REORDERED, atol=REORDERED)


def test_an_optimizer_by_name_may_be_given_outside_of_the_scope(strategy):
    with strategy.scope():
        inputs = keras.Input((5,), name="x")
        model = keras_mtl.MultiTaskModel(inputs, {"price": keras.layers.Dense(2)(inputs)})
    model.compile("adam", loss="mse")  # as in Keras
    x, y = make_data(8)
    before = model.get_weights()[0]
    model.fit(x, {"price": y["price"]}, verbose=0)
    assert np.abs(model.get_weights()[0] - before).max() > 1e-4

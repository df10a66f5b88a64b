"""Every loss in the logs is the one that a user computes by hand; so is every gradient."""

import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl import Task
from keras_mtl.heads import BinaryClassification, Classification, Regression

ROWS, BATCH = 10, 4  # the last batch holds 2 rows
random = np.random.default_rng(0)
X = random.normal(size=(ROWS, 4)).astype("float32")
WEIGHT = random.uniform(0.0, 3.0, size=ROWS).astype("float32")
NAN = np.nan


def build(tasks, **compile_arguments):
    trunk = keras.layers.Dense(5, activation="tanh", name="trunk")
    model = keras_mtl.architectures.hard_sharing(keras.Input((4,), name="x"), trunk, tasks)
    model.compile(**{"optimizer": keras.optimizers.SGD(0.0), **compile_arguments})
    return model


def logs_of(model, y, **arguments):
    """Both the training and the evaluation logs, on weights that do not move."""
    history = model.fit(
        X, y, batch_size=BATCH, shuffle=False, verbose=0, validation_data=(X, y), **arguments
    )
    return {name: values[0] for name, values in history.history.items()}


def predicted(model, task):
    return model.predict(X, verbose=0)[task]


def squared_errors(y, p):
    return np.square(np.asarray(y, "float64").reshape(p.shape) - p)


def class_errors(y, p):
    return -np.log(p[np.arange(len(y)), np.maximum(y, 0)])


def yes_no_errors(y, p):
    y = np.asarray(y, "float64").reshape(p.shape)
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


def labelled_mean(values, mask=True, weight=1.0):
    mask = np.broadcast_to(mask, values.shape)
    return np.where(mask, values * weight, 0.0).sum() / mask.sum()


FLOATS = random.normal(size=(ROWS, 3)).astype("float32")
SOME_ROWS = FLOATS.copy()
SOME_ROWS[[0, 5, 8]] = NAN
SOME_COLUMNS = FLOATS.copy()
SOME_COLUMNS[[0, 0, 3, 9], [0, 2, 1, 1]] = NAN


@pytest.mark.parametrize("labels", [FLOATS, SOME_ROWS, SOME_COLUMNS])
@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_elementwise_losses_average_the_labelled_elements(labels, loss):
    model = build({"a": Task(Regression(units=3), loss=loss)})
    logs = logs_of(model, {"a": labels})
    errors = squared_errors(labels, predicted(model, "a"))
    errors = errors if loss == "mse" else np.sqrt(errors)
    expected = labelled_mean(errors, ~np.isnan(labels))
    np.testing.assert_allclose([logs["a_loss"], logs["val_a_loss"]], expected, rtol=1e-5)


class ByColumn(keras.Loss):
    """A user's own loss around a function of Keras, which is no mean over the columns."""

    def __init__(self, fn, column_weights):
        super().__init__()
        self.fn = fn
        self.column_weights = column_weights

    def call(self, y_true, y_pred):
        columns = self.fn(y_true[..., None], y_pred[..., None])
        return keras.ops.sum(columns * self.column_weights, axis=-1)


def test_a_loss_of_ones_own_around_a_function_of_keras_is_not_taken_for_that_function():
    weights = np.array([1.0, 10.0, 100.0], "float32")
    loss = ByColumn(keras.losses.mean_squared_error, weights)
    model = build({"a": Task(Regression(units=3), loss=loss)})
    logs = logs_of(model, {"a": SOME_ROWS})
    rows = (squared_errors(SOME_ROWS, predicted(model, "a")) * weights).sum(axis=1)
    expected = labelled_mean(rows, ~np.isnan(rows))
    np.testing.assert_allclose([logs["a_loss"], logs["val_a_loss"]], expected, rtol=1e-5)


def test_losses_over_a_whole_row_leave_out_rows_with_a_missing_column():
    model = build({"a": Task(Regression(units=3, activation="softmax"), loss="kl_divergence")})
    labels = np.abs(SOME_COLUMNS) / np.abs(FLOATS).sum(axis=1, keepdims=True)
    logs = logs_of(model, {"a": labels})
    rows = (labels * np.log(labels / predicted(model, "a"))).sum(axis=1)
    expected = labelled_mean(rows, ~np.isnan(rows))
    np.testing.assert_allclose([logs["a_loss"], logs["val_a_loss"]], expected, rtol=1e-4)


@pytest.mark.parametrize("activation", ["softmax", None])
def test_class_losses_leave_out_the_ignored_class(activation):
    model = build({"a": Classification(3, activation=activation)})
    labels = np.array([0, -1, 2, 1, -1, -1, 0, 0, 2, -1])
    logs = logs_of(model, {"a": labels})
    predictions = predicted(model, "a")
    if activation is None:
        predictions = np.exp(predictions) / np.exp(predictions).sum(axis=1, keepdims=True)
    expected = labelled_mean(class_errors(labels, predictions), labels >= 0)
    accuracy = labelled_mean(predictions.argmax(axis=1) == labels, labels >= 0)
    np.testing.assert_allclose([logs["a_loss"], logs["val_a_loss"]], expected, rtol=1e-5)
    np.testing.assert_allclose([logs["a_accuracy"], logs["val_a_accuracy"]], accuracy, rtol=1e-6)


STEPS_X = random.normal(size=(ROWS, 5, 4)).astype("float32")


@pytest.mark.parametrize("marker", [0, 2])
def test_the_class_that_the_loss_ignores_is_no_label(marker):
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=marker)
    head = Task(Classification(3, pooling=None), loss=loss)
    model = keras_mtl.architectures.hard_sharing(
        keras.Input((5, 4), name="x"), keras.layers.Dense(5, name="trunk"), {"a": head}
    )
    model.compile("sgd")
    labels = np.tile([0, 0, 1, 2, 0], (ROWS, 1))
    logs = model.evaluate(STEPS_X, {"a": labels}, return_dict=True, verbose=0)
    p = model.predict(STEPS_X, verbose=0)["a"]
    errors = -np.log(np.take_along_axis(p, labels[..., None], axis=-1))[..., 0]
    right = p.argmax(-1) == labels
    present = labels != marker
    np.testing.assert_allclose(logs["a_loss"], errors[present].mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["a_loss"], loss(labels, p), rtol=1e-5)  # as in plain Keras
    np.testing.assert_allclose(logs["a_accuracy"], right[present].mean(), rtol=1e-6)


@pytest.mark.parametrize("marker", [-1, NAN])
def test_each_label_of_a_multi_label_task_may_be_missing(marker):
    labels = random.integers(0, 2, size=(ROWS, 3)).astype("int32" if marker == -1 else "float32")
    labels[[0, 0, 7], [0, 1, 2]] = marker
    model = build({"a": BinaryClassification(units=3)})
    logs = logs_of(model, {"a": labels})
    predictions = predicted(model, "a")
    mask = ~np.isnan(labels) & (labels >= 0)
    expected = labelled_mean(yes_no_errors(labels, predictions), mask)
    accuracy = labelled_mean((predictions > 0.5) == (labels > 0.5), mask)
    np.testing.assert_allclose([logs["a_loss"], logs["val_a_loss"]], expected, rtol=1e-5)
    np.testing.assert_allclose([logs["a_accuracy"], logs["val_a_accuracy"]], accuracy, rtol=1e-6)


REDUCTIONS = ["sum_over_batch_size", "mean_with_sample_weight", "sum"]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_sample_weights_and_reductions(reduction):
    loss = keras.losses.MeanSquaredError(reduction=reduction)
    model = build({"a": Task(Regression(), loss=loss), "b": Regression()})
    labels = SOME_ROWS[:, 0]
    logs = logs_of(model, {"a": labels, "b": FLOATS[:, 0]}, sample_weight={"a": WEIGHT})
    errors = squared_errors(labels, predicted(model, "a"))[:, 0]
    mask = ~np.isnan(labels)
    total = (errors * WEIGHT)[mask].sum()
    # "sum" is a sum a batch; the log is the mean over the three batches.
    denominator = {
        "sum_over_batch_size": mask.sum(),
        "mean_with_sample_weight": WEIGHT[mask].sum(),
        "sum": 3,
    }[reduction]
    other = squared_errors(FLOATS[:, 0], predicted(model, "b")).mean()
    np.testing.assert_allclose(logs["a_loss"], total / denominator, rtol=1e-5)
    np.testing.assert_allclose(logs["b_loss"], other, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "bool"])
def test_sample_weights_of_single_columns(dtype):
    weights = random.uniform(0.0, 3.0, size=(ROWS, 3)).astype("float32")
    model = build({"a": BinaryClassification(units=3)}, weighted_metrics={"a": ["binary_accuracy"]})
    labels = random.integers(0, 2, size=(ROWS, 3)).astype(dtype)
    history = model.fit(
        X, {"a": labels}, sample_weight={"a": weights}, batch_size=BATCH, shuffle=False, verbose=0
    )
    predictions = predicted(model, "a")
    expected = labelled_mean(yes_no_errors(labels, predictions), True, weights)
    accuracy = np.average((predictions > 0.5) == labels, weights=weights)
    np.testing.assert_allclose(history.history["a_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(history.history["a_binary_accuracy"], accuracy, rtol=1e-5)


def test_one_array_of_sample_weights_serves_all_tasks():
    model = build({"a": Regression(), "b": Classification(3)})
    y = {"a": FLOATS[:, :1], "b": np.arange(ROWS) % 3}
    history = model.fit(X, y, sample_weight=WEIGHT, batch_size=BATCH, verbose=0, shuffle=False)
    a = labelled_mean(squared_errors(y["a"], predicted(model, "a"))[:, 0], True, WEIGHT)
    b = labelled_mean(class_errors(y["b"], predicted(model, "b")), True, WEIGHT)
    np.testing.assert_allclose(history.history["a_loss"], a, rtol=1e-5)
    np.testing.assert_allclose(history.history["b_loss"], b, rtol=1e-5)


def test_evaluation_takes_sample_weights_and_weighted_metrics_do_too():
    model = build({"a": Regression()}, metrics={"a": ["mae"]}, weighted_metrics={"a": ["mse"]})
    labels = SOME_ROWS[:, :1]
    logs = model.evaluate(
        X, {"a": labels}, sample_weight={"a": WEIGHT}, batch_size=BATCH, return_dict=True, verbose=0
    )
    errors = squared_errors(labels, predicted(model, "a"))[:, 0]
    mask = ~np.isnan(errors)
    weighted = (errors * WEIGHT)[mask].sum()
    np.testing.assert_allclose(logs["a_loss"], weighted / mask.sum(), rtol=1e-5)
    np.testing.assert_allclose(logs["a_mse"], weighted / WEIGHT[mask].sum(), rtol=1e-5)
    np.testing.assert_allclose(logs["a_mae"], np.sqrt(errors[mask]).mean(), rtol=1e-5)


def test_class_weights_multiply_sample_weights_in_training_only():
    model = build({"a": Classification(3), "b": BinaryClassification()})
    y = {"a": np.array([0, -1, 2, 1, 1, -1, 0, 0, 2, 1]), "b": np.arange(ROWS) % 2}
    table = {"a": {0: 2.0, 2: 0.5}, "b": {1: 3.0}}
    logs = logs_of(model, y, class_weight=table, sample_weight={"a": WEIGHT})
    errors = class_errors(y["a"], predicted(model, "a"))
    by_class = np.array([2.0, 1.0, 0.5])[y["a"]]
    present = y["a"] >= 0
    b_errors = yes_no_errors(y["b"], predicted(model, "b"))[:, 0]
    expected = {
        "a_loss": labelled_mean(errors, present, by_class * WEIGHT),
        "val_a_loss": labelled_mean(errors, present),
        "b_loss": labelled_mean(b_errors, True, np.array([1.0, 3.0])[y["b"]]),
        "val_b_loss": b_errors.mean(),
    }
    np.testing.assert_allclose([logs[k] for k in expected], list(expected.values()), rtol=1e-5)


CLASS_IDS = np.arange(ROWS) % 3
WEIGHTED_BY_CLASS = {
    "yes or no": (BinaryClassification(), (), CLASS_IDS % 2, CLASS_IDS % 2),
    "nearly yes or no": (BinaryClassification(), (), 0.1 + 0.8 * (CLASS_IDS % 2), CLASS_IDS % 2),
    "class ids": (Classification(3), (), CLASS_IDS, CLASS_IDS),
    "class ids in a column": (Classification(3), (), CLASS_IDS[:, None], CLASS_IDS),
    "one-hot": (Classification(3), (), np.eye(3)[CLASS_IDS], CLASS_IDS),
    "steps": (
        Classification(3, pooling=None),
        (5,),
        (np.arange(ROWS * 5) % 3).reshape(ROWS, 5),
        (np.arange(ROWS * 5) % 3).reshape(ROWS, 5),
    ),
}
NAMED = {
    "yes or no": "binary_crossentropy",
    "nearly yes or no": "binary_crossentropy",
    "one-hot": "categorical_crossentropy",
}


@pytest.mark.parametrize("picked", [True, False], ids=["picked by shape", "named"])
@pytest.mark.parametrize("kind", WEIGHTED_BY_CLASS)
def test_class_weights_follow_the_labels_that_the_loss_reads(kind, picked):
    head, steps, labels, classes = WEIGHTED_BY_CLASS[kind]
    loss = "crossentropy" if picked else NAMED.get(kind, "sparse_categorical_crossentropy")
    inputs, trunk = keras.Input((*steps, 4), name="x"), keras.layers.Dense(5, name="trunk")
    model = keras_mtl.architectures.hard_sharing(inputs, trunk, {"a": Task(head, loss=loss)})
    model.compile(keras.optimizers.SGD(0.0))
    x = random.normal(size=(ROWS, *steps, 4)).astype("float32")
    table = {0: 2.0, 1: 0.25, 2: 3.0} if isinstance(head, Classification) else {0: 2.0, 1: 0.25}

    logs = model.train_on_batch(x, {"a": labels}, class_weight={"a": table}, return_dict=True)

    p = model.predict(x, verbose=0)["a"]
    if isinstance(head, Classification):
        errors = -np.log(np.take_along_axis(p, classes[..., None], axis=-1))[..., 0]
    else:
        errors = yes_no_errors(labels, p)[:, 0]
    by_class = np.array([table[label] for label in classes.ravel()]).reshape(classes.shape)
    np.testing.assert_allclose(logs["a_loss"], (errors * by_class).mean(), rtol=1e-5)


def test_class_weights_serve_outputs_without_a_channel_axis():
    inputs = keras.Input((4,), name="x")
    probability = keras.ops.squeeze(keras.layers.Dense(1, activation="sigmoid")(inputs), axis=-1)
    model = keras_mtl.MultiTaskModel(inputs, {"a": probability})
    model.compile(keras.optimizers.SGD(0.0), loss="binary_crossentropy")
    labels, table = CLASS_IDS % 2, {0: 2.0, 1: 0.25}

    logs = model.train_on_batch(X, {"a": labels}, class_weight={"a": table}, return_dict=True)

    weighted = yes_no_errors(labels, predicted(model, "a")) * np.where(labels, 0.25, 2.0)
    np.testing.assert_allclose(logs["a_loss"], weighted.mean(), rtol=1e-5)


def test_where_trains_and_measures_a_task_on_positive_rows_only():
    model = build({"clicked": BinaryClassification(), "price": Task(Regression(), where="clicked")})
    clicked = np.array([1, 0, 0, 1, 1, -1, 0, 0, 1, 1])
    price = FLOATS[:, :1].copy()
    price[3] = NAN
    logs = logs_of(model, {"clicked": clicked, "price": price})
    rows = (clicked > 0) & ~np.isnan(price[:, 0])
    errors = squared_errors(price, predicted(model, "price"))[:, 0]
    found = [logs["price_loss"], logs["val_price_loss"]]
    np.testing.assert_allclose(found, errors[rows].mean(), rtol=1e-5)
    found = [logs["price_mae"], logs["val_price_mae"]]
    np.testing.assert_allclose(found, np.sqrt(errors[rows]).mean(), rtol=1e-5)


def test_where_takes_labels_that_are_true_or_false():
    model = build({"clicked": BinaryClassification(), "price": Task(Regression(), where="clicked")})
    clicked = np.arange(ROWS) % 3 == 0
    logs = logs_of(model, {"clicked": clicked, "price": FLOATS[:, :1]})
    errors = squared_errors(FLOATS[:, :1], predicted(model, "price"))[clicked]
    np.testing.assert_allclose(logs["price_loss"], errors.mean(), rtol=1e-5)


@pytest.mark.parametrize(("dtype", "ignored"), [("uint8", -1), ("int8", 255)])
def test_a_marker_that_the_labels_cannot_hold_marks_nothing(dtype, ignored):
    # Wrapped around, -1 would be class 255 of 256, and 255 the marker -1.
    model = build({"a": Classification(256, ignore_class=ignored)})
    labels = np.full(ROWS, 255 if dtype == "uint8" else 1, dtype)
    logs = logs_of(model, {"a": labels})
    expected = class_errors(labels.astype("int32"), predicted(model, "a")).mean()
    np.testing.assert_allclose(logs["a_loss"], expected, rtol=1e-5)


def by_batch(values):
    return [values[start : start + BATCH] for start in range(0, ROWS, BATCH)]


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_loss_is_the_total_with_constants_and_regularisers(weighting):
    head = Regression(kernel_regularizer=keras.regularizers.L2(0.1))
    model = build(
        {"a": head, "b": Classification(3)},
        loss_weights={"a": 0.25, "b": 4.0},
        loss_weighting=weighting,
    )
    y = {"a": SOME_ROWS[:, :1], "b": np.arange(ROWS) % 3}
    logs = logs_of(model, y)
    a = squared_errors(y["a"], predicted(model, "a"))[:, 0]
    b = class_errors(y["b"], predicted(model, "b"))
    extra = 0.1 * np.square(model.get_layer("a").dense.kernel.numpy()).sum()
    # At log variance 0 uncertainty weighs regression by 0.5 and classification by 1.
    w = 0.5 if weighting == "uncertainty" else 1.0
    batches = zip(by_batch(a), by_batch(b), strict=True)
    train = [0.25 * w * np.nanmean(u) + 4.0 * v.mean() + extra for u, v in batches]
    expected = np.average(train, weights=[4, 4, 2])
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose([logs["a_weight"], logs["b_weight"]], [0.25 * w, 4.0], rtol=1e-6)
    np.testing.assert_allclose(
        logs["val_loss"], 0.25 * np.nanmean(a) + 4.0 * b.mean() + extra, rtol=1e-5
    )
    assert "val_a_weight" not in logs


def two_models(tasks, **compile_arguments):
    model = build(tasks, optimizer=keras.optimizers.SGD(0.1), **compile_arguments)
    other = model.clone()
    other.set_weights(model.get_weights())
    other.compile(optimizer=keras.optimizers.SGD(0.1), **compile_arguments)
    return model, other


def values(layer):
    return [variable.numpy() for variable in layer.trainable_variables]


def moved(layer, before):
    return any(not np.array_equal(v, b) for v, b in zip(values(layer), before, strict=True))


def test_rows_without_a_label_do_not_reach_the_gradient():
    model, other = two_models({"a": Regression(), "b": Classification(3)})
    present = np.array([1, 1, 0, 1, 0, 0, 1, 1, 1, 0], "bool")
    a = np.where(present[:, None], FLOATS[:, :1], NAN)
    b = np.where(present, np.arange(ROWS) % 3, -1)
    model.train_on_batch(X, {"a": a, "b": b})
    other.train_on_batch(X[present], {"a": a[present], "b": b[present]})
    for left, right in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-7)


WAYS = {
    "fixed": {},
    "uncertainty": {"loss_weighting": "uncertainty"},
    "mgda": {"gradient_balancing": "mgda"},
}


@pytest.mark.parametrize(
    ("way", "absence"),
    [
        ("fixed", "no label"),
        ("uncertainty", "no label"),
        ("uncertainty", "stopped"),
        ("mgda", "stopped"),
    ],
)
def test_an_absent_task_leaves_the_others_as_they_would_be_without_it(way, absence):
    tasks = {"a": Regression(), "b": Classification(3), "c": Regression()}
    model = build(tasks, optimizer=keras.optimizers.SGD(0.1), **WAYS[way])
    alone = keras_mtl.MultiTaskModel(
        model.input, {"a": model.output["a"], "c": model.output["c"]}
    ).clone()
    alone.set_weights([*model.get_weights()[:4], *model.get_weights()[6:]])
    alone.compile(keras.optimizers.SGD(0.1), **WAYS[way])
    y = {"a": FLOATS[:, :1], "b": np.arange(ROWS) % 3, "c": FLOATS[:, 1:2]}
    if absence == "stopped":
        model.stop_task("b")
    else:
        y["b"] = np.full(ROWS, -1)
    before = values(model.get_layer("b"))
    for _ in range(2):
        model.train_on_batch(X, y)
        alone.train_on_batch(X, {"a": y["a"], "c": y["c"]})
    assert not moved(model.get_layer("b"), before)
    for name in ("trunk", "a", "c"):
        pairs = zip(values(model.get_layer(name)), values(alone.get_layer(name)), strict=True)
        for left, right in pairs:
            np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


def test_a_task_without_any_label_logs_zero_loss_and_spares_the_total():
    model = build({"a": Regression(), "b": Classification(3)})
    logs = logs_of(model, {"a": FLOATS[:, :1], "b": np.full(ROWS, -1)})
    assert logs["b_loss"] == logs["b_weight"] == 0.0
    np.testing.assert_allclose(logs["loss"], logs["a_loss"], rtol=1e-5)

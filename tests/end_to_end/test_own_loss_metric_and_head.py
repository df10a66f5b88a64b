"""What users write themselves: a loss function, a loss class, metrics, a head of two tensors."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_mtl
from keras_mtl import Task
from keras_mtl.heads import Head, Regression

ROWS = 10
random = np.random.default_rng(0)
X = random.normal(size=(ROWS, 3)).astype("float32")
AGE = random.normal(size=(ROWS, 1)).astype("float32")
AGE[[2, 7]] = np.nan
SEEN = ~np.isnan(AGE[:, 0])


def quartic(y_true, y_pred):
    return ops.mean((y_true - y_pred) ** 4, axis=-1)


def quartic_of_the_batch(y_true, y_pred):
    return ops.mean((y_true - y_pred) ** 4)


class Tilted(keras.Loss):
    """Not registered, and its `__init__` takes what Keras' does not: `copy` would break it."""

    def __init__(self, tilt, callback=print):
        super().__init__(name="tilted")
        self.tilt, self.callback = tilt, callback

    def call(self, y_true, y_pred):
        error = y_true - y_pred
        return ops.mean(ops.maximum(self.tilt * error, (self.tilt - 1.0) * error), axis=-1)


class Worst(keras.Metric):
    """The largest error; knows no `sample_weight`."""

    def __init__(self, name="worst"):
        super().__init__(name=name)
        self.worst = self.add_weight(name="worst", initializer="zeros")

    def update_state(self, y_true, y_pred):
        largest = ops.max(ops.abs(y_true - y_pred), initial=0.0)
        self.worst.assign(ops.maximum(self.worst, largest))

    def result(self):
        return self.worst.value


class WorstWithWeight(Worst):
    def update_state(self, y_true, y_pred, sample_weight=None):
        errors = ops.abs(y_true - y_pred)[:, 0]
        errors = errors if sample_weight is None else errors * ops.reshape(sample_weight, (-1,))
        self.worst.assign(ops.maximum(self.worst, ops.max(errors)))


def build(head, **compile_arguments):
    tasks = {"age": head, "other": Regression()}
    trunk = keras.layers.Dense(4, activation="tanh", name="trunk")
    model = keras_mtl.architectures.hard_sharing(keras.Input((3,), name="x"), trunk, tasks)
    model.compile(keras.optimizers.SGD(0.0), **compile_arguments)
    return model


def logs_of(model, age=AGE):
    y = {"age": age, "other": np.zeros((ROWS, 1))}
    model.fit(X, y, batch_size=4, verbose=0)
    return model.evaluate(X, y, batch_size=4, return_dict=True, verbose=0)


def errors_of(model):
    return (AGE - model.predict(X, verbose=0)["age"])[SEEN, 0]


def test_a_loss_function_given_to_the_task_or_to_compile():
    for model in (
        build(Task(Regression(), loss=quartic)),
        build(Regression(), loss={"age": quartic}),
    ):
        expected = (errors_of(model) ** 4).mean()
        np.testing.assert_allclose(logs_of(model)["age_loss"], expected, rtol=1e-5)


def test_a_loss_class_with_an_init_of_its_own():
    model = build(Regression(), loss={"age": Tilted(0.9, callback=len)})
    errors = errors_of(model)
    expected = np.maximum(0.9 * errors, -0.1 * errors).mean()
    np.testing.assert_allclose(logs_of(model)["age_loss"], expected, rtol=1e-5)


def test_a_loss_that_is_one_number_a_batch_needs_complete_labels():
    model = build(Regression(), loss={"age": quartic_of_the_batch})
    with pytest.raises(
        ValueError, match=r"`loss` of task 'age' returns a scalar, .* one value a r"
    ):
        logs_of(model)
    complete = np.nan_to_num(AGE)
    errors = complete - model.predict(X, verbose=0)["age"]
    np.testing.assert_allclose(logs_of(model, complete)["age_loss"], (errors**4).mean(), rtol=1e-5)


@pytest.mark.parametrize("metric", [Worst, WorstWithWeight])
def test_a_metric_class_with_and_without_sample_weight(metric):
    model = build(Regression(), metrics={"age": metric()})
    expected = np.abs(errors_of(model)).max()
    np.testing.assert_allclose(logs_of(model)["age_worst"], expected, rtol=1e-5)


def test_a_metric_function():
    def distance(y_true, y_pred):
        return ops.abs(y_true - y_pred)

    model = build(Regression(), metrics={"age": [distance, "mse"]})
    errors, logs = errors_of(model), logs_of(model)
    np.testing.assert_allclose(logs["age_distance"], np.abs(errors).mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["age_mse"], np.square(errors).mean(), rtol=1e-5)


class BoxLoss(keras.Loss):
    def call(self, y_true, y_pred):
        boxes = ops.mean(ops.square(y_true["boxes"] - y_pred["boxes"]), axis=-1)
        return boxes + ops.abs(y_true["score"] - y_pred["score"])[:, 0]


@keras.saving.register_keras_serializable(package="tests")
class Detection(Head):
    """A head of two tensors, with its loss and a metric over both."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.boxes = keras.layers.Dense(4, name="boxes")
        self.score = keras.layers.Dense(1, activation="sigmoid", name="score")

    def build(self, input_shape):
        self.boxes.build(input_shape)
        self.score.build(input_shape)

    def call(self, features):
        return {"boxes": self.boxes(features), "score": self.score(features)}

    def default_loss(self):
        return BoxLoss()

    def decode(self, predictions):
        return {**predictions, "score": predictions["score"] > 0.5}


BOXES = {
    "boxes": random.random((ROWS, 4)).astype("float32"),
    "score": random.random((ROWS, 1)).astype("float32"),
}


def by_row(model, y):
    p = model.predict(X, verbose=0)["age"]
    return np.square(y["boxes"] - p["boxes"]).mean(axis=1) + np.abs(y["score"] - p["score"])[:, 0]


def test_a_head_of_two_tensors_has_one_loss_and_labels_in_a_dict():
    model = build(Detection())
    expected = by_row(model, BOXES).mean()
    np.testing.assert_allclose(logs_of(model, BOXES)["age_loss"], expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"`y\['age'\]` must be a dict, .*\['boxes', 'score'\]"):
        logs_of(model, BOXES["boxes"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": {"age": "mse"}}, r"`loss` of task 'age' .* received \['mean_squared_error'\]"),
        ({"metrics": {"age": ["accuracy"]}}, r"\['boxes', 'score'\], received \['accuracy'\]"),
        ({"weighted_metrics": {"age": keras.metrics.AUC(name="auc")}}, r"received \['auc'\]"),
    ],
)
def test_what_reads_one_tensor_is_refused_for_a_head_of_two(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(Detection(), **arguments)


def test_rows_of_a_dict_count_where_all_its_labels_are_there():
    y = {name: labels.copy() for name, labels in BOXES.items()}
    y["boxes"][0, 2] = y["score"][4] = np.nan
    model = build(Detection())
    expected = np.nanmean(by_row(model, y))
    np.testing.assert_allclose(logs_of(model, y)["age_loss"], expected, rtol=1e-5)


def test_a_head_of_two_tensors_takes_sample_weights_and_trains():
    model = build(Detection())
    weight = np.linspace(0.0, 2.0, ROWS)
    y = {"age": BOXES, "other": np.zeros((ROWS, 1))}
    logs = model.evaluate(X, y, sample_weight={"age": weight}, return_dict=True, verbose=0)
    np.testing.assert_allclose(logs["age_loss"], (by_row(model, BOXES) * weight).mean(), rtol=1e-5)
    model.compile(keras.optimizers.SGD(0.1), gradient_balancing="pcgrad")
    history = model.fit(X, y, epochs=5, verbose=0).history
    assert history["age_loss"][-1] < history["age_loss"][0]


def test_a_head_of_two_tensors_is_served_flat_and_decoded(tmp_path):
    import tensorflow as tf

    model = build(Detection())
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served").signatures["serve_age"](x=tf.constant(X))
    p = model.predict(X, verbose=0)["age"]
    assert set(served) == {"age_boxes", "age_score"}
    np.testing.assert_allclose(served["age_boxes"], p["boxes"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(served["age_score"], p["score"] > 0.5)

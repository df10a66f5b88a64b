"""A user's callback changes weights and stops tasks during `fit`, without a retrace."""

import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl.heads import BinaryClassification, Regression

ROWS = 12
random = np.random.default_rng(0)
X = random.normal(size=(ROWS, 3)).astype("float32")
Y = {"age": random.normal(size=(ROWS, 1)), "sex": np.arange(ROWS) % 2}
TRACES = []


@keras.saving.register_keras_serializable(package="tests")
class Counting(keras.layers.Layer):
    """Counts how often the graph is traced."""

    def call(self, inputs):
        TRACES.append(self.name)
        return inputs


def build(**compile_arguments):
    normalized = [keras.layers.Dense(2), keras.layers.BatchNormalization()]
    tasks = {
        "age": keras_mtl.Task(Regression(), tower=normalized),
        "sex": BinaryClassification(),
    }
    trunk = [keras.layers.Dense(4, name="trunk"), Counting()]
    model = keras_mtl.architectures.hard_sharing(keras.Input((3,), name="x"), trunk, tasks)
    model.compile(**{"optimizer": "adam", **compile_arguments})
    TRACES.clear()
    return model


class Script(keras.callbacks.Callback):
    """Does what a dict says at the beginning of an epoch, and keeps the weights at each end."""

    def __init__(self, actions):
        super().__init__()
        self.actions, self.weights = actions, []

    def on_epoch_begin(self, epoch, logs=None):
        self.actions.get(epoch, lambda model: None)(self.model)

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append({v.path: v.numpy() for v in self.model.weights})

    def moved(self, epoch, layer):
        before, after = self.weights[epoch - 1], self.weights[epoch]
        return {p for p in after if layer in p and not np.array_equal(before[p], after[p])}


def fit(model, actions, epochs):
    script = Script(actions)
    history = model.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=[script])
    return script, history.history


def test_a_weight_changes_without_a_retrace():
    model = build()

    def quieten(model):
        model.loss_weights["age"] = 0.25

    _, history = fit(model, {1: quieten}, epochs=3)
    assert len(TRACES) == 1
    assert history["age_weight"] == [1.0, 0.25, 0.25]
    assert history["sex_weight"] == [1.0, 1.0, 1.0]
    assert dict(model.loss_weights) == {"age": 0.25, "sex": 1.0}
    assert dict(model.task_weights) == {"age": 0.25, "sex": 1.0}


@pytest.mark.parametrize("balancing", [None, "mgda"])
def test_a_stopped_task_stays_as_it_is_and_trains_again_when_resumed(balancing):
    model = build(gradient_balancing=balancing)
    actions = {
        1: lambda model: model.stop_task("age"),
        3: lambda model: model.resume_task("age"),
    }
    script, history = fit(model, actions, epochs=4)
    assert len(TRACES) == 1
    for epoch in (1, 2):
        assert script.moved(epoch, "age") == set()
        assert len(script.moved(epoch, "sex")) == 2
        assert script.moved(epoch, "trunk")
    everything = {path for path in script.weights[0] if "age" in path}
    assert script.moved(3, "age") == everything
    assert history["age_weight"][1:3] == [0.0, 0.0]
    assert history["age_weight"][3] > 0


def test_the_loss_of_a_stopped_task_is_measured_but_not_trained_on():
    model = build(optimizer=keras.optimizers.SGD(0.0))
    model.stop_task("age")
    history = model.fit(X, Y, verbose=0).history
    assert history["age_loss"][0] > 0
    assert history["loss"] == pytest.approx(history["sex_loss"], rel=1e-6)


def test_constants_and_stopped_tasks_are_saved(tmp_path):
    model = build()
    model.loss_weights["age"] = 0.3
    model.stop_task("sex")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.loss_weights["age"] == pytest.approx(0.3)
    before = loaded.get_layer("sex").get_weights()
    loaded.fit(X, Y, verbose=0)
    for old, new in zip(before, loaded.get_layer("sex").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)

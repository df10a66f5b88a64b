"""Conflicts between task gradients are logged as they are, and cost nothing in between."""

import contextlib

import keras
import numpy as np
import pytest
from matplotlib import pyplot

import keras_mtl
from keras_mtl.callbacks import GradientConflictMonitor

TASKS = ("a", "b", "c")
random = np.random.default_rng(0)
X = random.normal(size=(8, 3)).astype("float32")
Y = {task: random.normal(size=(8, 1)).astype("float32") for task in TASKS}
RATE = 0.01


def build(balancing=None, **arguments):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(4, "tanh", name="trunk")(inputs)
    outputs = {task: keras.layers.Dense(1, name=task)(hidden) for task in TASKS}
    model = keras_mtl.MultiTaskModel(inputs, outputs)
    arguments.setdefault("optimizer", keras.optimizers.SGD(RATE))
    model.compile(loss="mse", gradient_balancing=balancing, **arguments)
    return model


def fit(model, y=Y, callbacks=(), **arguments):
    arguments = {"batch_size": 8, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(X, y, callbacks=list(callbacks), **arguments).history


def gradient(**weights):
    """The gradient of weighted losses in the trunk, from one step of plain descent."""
    model = build(loss_weights={task: weights.get(task, 0.0) for task in TASKS})
    before = model.get_layer("trunk").get_weights()
    model.train_on_batch(X, Y)
    after = model.get_layer("trunk").get_weights()
    return np.concatenate([(a - b).ravel() / RATE for a, b in zip(before, after, strict=True)])


def expected(direction):
    rows = {task: gradient(**{task: 2.0 if task == "b" else 1.0}) for task in TASKS}
    logs, products = {}, {task: row @ direction for task, row in rows.items()}
    for first, second in (("a", "b"), ("a", "c"), ("b", "c")):
        x, y = rows[first], rows[second]
        lengths = np.linalg.norm(x) * np.linalg.norm(y)
        logs[f"{first}_{second}_cosine"] = x @ y / lengths
        logs[f"{first}_{second}_magnitude_similarity"] = 2 * lengths / (x @ x + y @ y)
    total = sum(abs(product) for product in products.values())
    return logs | {f"{task}_share": product / total for task, product in products.items()}


@pytest.mark.parametrize("replicated", [False, True], ids=["one device", "two replicas"])
@pytest.mark.parametrize("scope", [None, "parameters", "features"])
def test_logs_are_those_of_the_gradients_of_the_shared_variables(scope, replicated, strategy):
    balancing = None if scope is None else keras_mtl.balancing.MGDA(scope=scope)
    with strategy.scope() if replicated else contextlib.nullcontext():
        model = build(balancing, loss_weights={"b": 2.0})
    before = [w.ravel() for w in model.get_layer("trunk").get_weights()]
    logs = fit(model, callbacks=[GradientConflictMonitor(5)])
    after = [w.ravel() for w in model.get_layer("trunk").get_weights()]
    direction = (np.concatenate(before) - np.concatenate(after)) / RATE
    # Gradients found from steps of 0.01 in float32.
    for name, value in expected(direction).items():
        np.testing.assert_allclose(logs[name], value, rtol=2e-3, atol=2e-4, err_msg=name)


def test_every_nth_step_of_an_epoch_is_measured_and_training_stays_as_it_was():
    model, twin, watched = build(), build(), []

    class Reader(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            watched.append(float(np.asarray(self.model._step.watch._pairs)[2, 0, 1]))

    fit(model, callbacks=[GradientConflictMonitor(3), Reader()], batch_size=1, epochs=2)
    fit(twin, batch_size=1, epochs=2)
    assert watched == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0] * 2
    for mine, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-7)


def test_an_absent_task_has_no_conflicts_and_no_share():
    gone = {**Y, "b": np.full_like(Y["b"], np.nan)}
    logs = fit(build(), gone, [GradientConflictMonitor()])
    assert np.isnan([logs["a_b_cosine"], logs["b_c_magnitude_similarity"], logs["b_share"]]).all()
    assert np.isfinite([logs["a_c_cosine"], logs["a_share"], logs["c_share"]]).all()
    assert abs(logs["a_share"][0]) + abs(logs["c_share"][0]) == pytest.approx(1.0)


def test_the_second_fit_is_not_traced_anew_and_without_the_callback_nothing_is_measured():
    model = build()
    fit(model, callbacks=[GradientConflictMonitor()])
    function = model.train_function
    fit(model, callbacks=[GradientConflictMonitor()])
    assert model.train_function is function
    logs = fit(model)
    assert "a_b_cosine" not in logs
    assert float(np.asarray(model._step.watch._pairs)[2, 0, 1]) == 1.0


def test_figure_shows_the_cosines_by_epoch():
    log = fit(build(), callbacks=[GradientConflictMonitor()], epochs=3)
    axes = keras_mtl.plots.plot_gradient_conflicts(log)
    drawn = axes.get_images()[0].get_array()
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a, b", "a, c", "b, c"]
    np.testing.assert_allclose(drawn, [log[f"{p}_cosine"] for p in ("a_b", "a_c", "b_c")])
    pyplot.close("all")
    with pytest.raises(ValueError, match="GradientConflictMonitor"):
        keras_mtl.plots.plot_gradient_conflicts({"a_weight": [1.0], "a_loss": [1.0]})


def test_tasks_without_anything_shared_and_wrong_frequencies_are_refused():
    inputs = keras.Input((3,), name="x")
    model = keras_mtl.MultiTaskModel(
        inputs, {task: keras.layers.Dense(1, name=task)(inputs) for task in TASKS}
    )
    model.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="share no trainable variable"):
        fit(model, callbacks=[GradientConflictMonitor()])
    with pytest.raises(ValueError, match="`update_freq` must be an integer >= 1"):
        GradientConflictMonitor(0)


def test_names_that_collide_in_the_logs_are_refused():
    inputs = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(2)(inputs)
    names = ("p", "p_q", "q_r", "r")
    model = keras_mtl.MultiTaskModel(inputs, {n: keras.layers.Dense(1)(hidden) for n in names})
    model.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="pairs with the same name"):
        model.watch_gradients(1)

"""Mean weights of gates are logged as they are, and a collapsed gate is warned of once."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl import MultiTaskModel, Task, architectures
from keras_mtl.callbacks import GateMonitor
from keras_mtl.heads import Regression

TASKS = ("digit", "parity")
ROWS = 6
X = np.random.default_rng(0).normal(size=(ROWS, 2)).astype("float32")
Y = {task: np.ones((ROWS, 1), "float32") for task in TASKS}


def build(architecture="mmoe", inputs=None, **options):
    """A compiled model whose weights do not move, so that means can be worked out after."""
    inputs = keras.Input((2,), name="x") if inputs is None else inputs
    trunk = [keras.layers.Dense(3, name="stage1"), keras.layers.Dense(3, name="stage2")]
    tasks = {task: Regression() for task in TASKS}
    model = architectures.build_model(architecture, inputs, trunk, tasks, **options)
    # Eagerly: nothing here depends on the graph, and a trace takes longer than all steps.
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    return model


def fit(model, monitor, x=X, **arguments):
    arguments = {"batch_size": ROWS, "verbose": 0, **arguments}
    return model.fit(x, Y, callbacks=[monitor], **arguments).history


def gate_logs(logs):
    return {name: values for name, values in logs.items() if "_gate_" in name}


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("batch_size", [2, 4, 100])
def test_logs_are_the_mean_weights_over_all_rows(batch_size):
    model = build(num_experts=3)
    logs = gate_logs(fit(model, GateMonitor(X, batch_size)))
    assert sorted(logs) == [f"{task}_gate_{expert}" for task in TASKS for expert in range(3)]
    for task in TASKS:
        kernel = model.get_layer(f"{task}_gate").kernel.numpy()
        found = [logs[f"{task}_gate_{expert}"][0] for expert in range(3)]
        np.testing.assert_allclose(found, softmax(X @ kernel).mean(axis=0), rtol=1e-5)


def test_logs_come_with_every_epoch_and_follow_the_gates():
    model = build(num_experts=2)
    model.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    logs = fit(model, GateMonitor(X), epochs=2)
    first, second = logs["digit_gate_0"]
    assert first != second
    np.testing.assert_allclose(first + logs["digit_gate_1"][0], 1.0, rtol=1e-6)


def test_logs_are_without_dropout():
    model = build(num_experts=3, gate_dropout=0.9)
    for task in TASKS:
        model.get_layer(f"{task}_gate").kernel.assign(np.zeros((2, 3)))
    logs = gate_logs(fit(model, GateMonitor(X), epochs=2))
    np.testing.assert_allclose([*logs.values()], 1 / 3, rtol=1e-6)


def test_gates_of_every_level_and_of_other_architectures_are_logged():
    names = {name.rsplit("_", 1)[0] for name in gate_logs(fit(build("ple"), GateMonitor(X)))}
    owners = [*TASKS, "shared"]
    inner = {f"level_0_{owner}_gate" for owner in owners}
    assert names == inner | {f"level_1_{task}_gate" for task in TASKS}
    monitor = GateMonitor(X, collapse_threshold=1.0)
    logs = gate_logs(fit(build("dselect_k", num_experts=4), monitor))
    np.testing.assert_allclose(sum(logs[f"digit_gate_{e}"][0] for e in range(4)), 1, rtol=1e-6)


def test_inputs_may_be_several_by_name():
    inputs = {name: keras.Input((1,), name=name) for name in ("left", "right")}
    stem = keras.layers.Concatenate()([inputs["left"], inputs["right"]])
    model = build(inputs=stem, num_experts=2)
    x = {"left": X[:, :1], "right": X[:, 1:]}
    logs = gate_logs(fit(model, GateMonitor(x), x))
    kernel = model.get_layer("digit_gate").kernel.numpy()
    found = [logs["digit_gate_0"][0], logs["digit_gate_1"][0]]
    np.testing.assert_allclose(found, softmax(X @ kernel).mean(axis=0), rtol=1e-5)


def collapsed(share, **options):
    """A model whose gate of digit gives its second expert this share of the weight."""
    model = build(num_experts=2, **options)
    model.get_layer("digit_gate").kernel.assign([[0.0, np.log(share / (1 - share))], [0.0, 0.0]])
    model.get_layer("parity_gate").kernel.assign(np.zeros((2, 2)))
    return model


ONES = np.ones((ROWS, 2), "float32")


def test_a_collapsed_gate_is_warned_of_once_in_each_fit():
    model, monitor = collapsed(0.97), GateMonitor(ONES)
    for _ in range(2):
        with pytest.warns(
            UserWarning, match="'digit_gate' has collapsed: expert 1 of 2 gets 97.0%"
        ) as w:
            fit(model, monitor, epochs=3)
        assert len(w) == 1


def test_the_warning_says_what_to_do():
    with pytest.warns(UserWarning, match="`load_balancing` .*`gate_dropout`, .*`temperature`"):
        fit(collapsed(0.97), GateMonitor(ONES))


@pytest.mark.parametrize(("share", "threshold"), [(0.94, 0.95), (0.97, 0.98), (0.999999, 1.0)])
def test_a_gate_below_the_threshold_is_not_warned_of(share, threshold):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(collapsed(share), GateMonitor(ONES, collapse_threshold=threshold))


def test_a_gate_of_one_expert_has_not_collapsed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logs = fit(build(num_experts=1), GateMonitor(X))
    assert logs["digit_gate_0"] == [1.0]


@pytest.mark.slow
def test_logs_are_the_same_under_replicas(strategy):
    with strategy.scope():
        model = build(num_experts=2)
        model.compile(keras.optimizers.SGD(0.0))  # replicas are for graphs only
        logs = fit(model, GateMonitor(X))
    kernel = model.get_layer("digit_gate").kernel.numpy()
    found = [logs["digit_gate_0"][0], logs["digit_gate_1"][0]]
    np.testing.assert_allclose(found, softmax(X @ kernel).mean(axis=0), rtol=1e-5)


def test_a_model_without_gates_is_refused():
    with pytest.raises(ValueError, match="GateMonitor found no gate among the layers"):
        fit(build("hard_sharing"), GateMonitor(X))


@pytest.mark.parametrize("x", [np.ones((ROWS, 5), "float32"), {"other": X}], ids=["shape", "name"])
def test_inputs_that_do_not_fit_the_model_are_refused_before_training(x):
    model = build()
    with pytest.raises(ValueError, match=r"`x` of GateMonitor must be what the .*\(None, 2\), rec"):
        fit(model, GateMonitor(x))
    assert model.optimizer.iterations == 0


def test_a_name_that_is_taken_is_refused():
    model = build(num_experts=2)
    metric = keras.metrics.MeanSquaredError(name="gate_1")
    model.compile("sgd", metrics={"digit": metric})
    with pytest.raises(ValueError, match=r"The logs hold \['digit_gate_1'\] already"):
        fit(model, GateMonitor(X))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": tf.data.Dataset.from_tensors(X)}, TypeError, "`x` must be an array of rows, or a"),
        ({"x": [1.0, 2.0]}, TypeError, "`x` must be an array of rows"),
        ({"x": tf.constant(1.0)}, TypeError, "`x` must be an array of rows"),
        ({"x": None}, TypeError, "`x` must be an array of rows"),
        ({"x": {"a": X, "b": X[:2]}}, ValueError, r"equally many rows, at least 1, rec.*\[6, 2\]"),
        ({"x": X[:0]}, ValueError, r"equally many rows, at least 1, received \[0\]"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be an integer >= 1"),
        ({"collapse_threshold": 1.5}, ValueError, "`collapse_threshold` must be .* <= 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        GateMonitor(**{"x": X, **arguments})


def test_a_plain_keras_model_is_refused():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match="GateMonitor acts on the tasks of a MultiTaskModel"):
        model.fit(X, Y["digit"], callbacks=[GateMonitor(X)], verbose=0)


class Halves(keras.layers.Layer):
    """A gate of the user's own."""

    is_gate = True

    def call(self, x):
        return keras.ops.ones_like(x) / 2


def test_any_layer_that_says_it_is_a_gate_is_logged():
    inputs = keras.Input((2,), name="x")
    weights = Halves(name="own")(inputs)
    outputs = {task: keras.layers.Dense(1, name=task)(weights) for task in TASKS}
    model = MultiTaskModel(inputs, outputs, tasks={task: Task(loss="mse") for task in TASKS})
    model.compile("sgd")
    logs = fit(model, GateMonitor(X))
    assert logs["own_0"] == logs["own_1"] == [0.5]

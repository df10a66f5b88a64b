"""Inner products and sums of gradients of dense layers, taken without the gradients themselves."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl import MultiTaskModel, balancing
from keras_mtl.callbacks import GradientConflictMonitor
from keras_mtl.core import dense_calls
from keras_mtl.core.activations_pass import ActivationsPass
from keras_mtl.core.dense_calls import are_cheaper, gramian, worth_noting
from keras_mtl.core.noted_calls import NotedCall

ROWS, TASKS = 12, ("a", "b", "c")
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(ROWS, 4, 4, 2)).astype("float32")
LABELS = {task: RNG.normal(size=(ROWS, 2)).astype("float32") for task in TASKS}
LABELS["c"][::3] = np.nan  # some rows without a label, and a batch without any
LABELS["b"][:4] = np.nan
NEVER = 2**60
GRAMIAN_METHODS = [
    name
    for name in balancing.names()
    if balancing.get(name).reads_gramian_only
    and balancing.get(name).needs_gramian
    and not balancing.get(name).compares_halves
]


@pytest.fixture
def small(monkeypatch):
    """Lets small layers count as large, and batches of any size as small."""
    monkeypatch.setattr(dense_calls, "SMALL", 1)
    always = lambda calls, num_tasks: tf.constant(True)  # noqa: E731
    monkeypatch.setattr("keras_mtl.core.activations_pass.are_cheaper", always)


def two():
    """A convolution and two dense layers."""
    return [
        keras.layers.Conv2D(3, 2, name="conv"),
        keras.layers.Flatten(),
        keras.layers.Dense(8, activation="tanh", kernel_regularizer="l2", name="first"),
        keras.layers.BatchNormalization(),
        keras.Sequential([keras.layers.Dense(9, use_bias=False, name="second")]),
        keras.layers.Activation("relu"),
    ]


def build(stages=two):
    """Stages that all tasks share, and a head a task."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((4, 4, 2))
    for stage in stages():
        x = stage(x)
    return MultiTaskModel(inputs, {task: keras.layers.Dense(2, name=task)(x) for task in TASKS})


def noted(model):
    """Returns the names of the layers that are treated apart."""
    layers = worth_noting(model, model._step.partition.shared(model.trainable_variables))
    return [layer.name for layer in layers]


def trained(method, *, batch_size=4, callbacks=(), model=None, **arguments):
    model = model or build()
    optimizer = keras.optimizers.SGD(0.1, momentum=0.5)
    model.compile(optimizer, loss="mse", gradient_balancing=method, **arguments)
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(batch_size)
    model.fit(data, epochs=2, verbose=0, callbacks=list(callbacks))
    return model


def assert_alike(model, other):
    # Sums in another order, in float32, over six steps.
    for value, expected in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=2e-4, atol=2e-5)


def both_ways(monkeypatch, make):
    """Returns models trained by the calls of dense layers, and by their gradients."""
    models = [make()]
    monkeypatch.setattr(dense_calls, "SMALL", NEVER)
    models.append(make())
    kinds = [issubclass(model._step._pass.func, ActivationsPass) for model in models]
    assert kinds == [True, False]
    return models


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3)], ids=["rows", "steps"])
def test_inner_products_and_sums_are_those_of_the_gradients(bias, shape):
    layer = keras.layers.Dense(4, use_bias=bias, bias_initializer="ones")
    inputs = tf.constant(RNG.normal(size=shape), tf.float32)
    layer.build(shape)
    with tf.GradientTape(persistent=True) as tape:
        given = layer(inputs)
        losses = [tf.reduce_sum(function(given)) for function in (tf.square, tf.sin, tf.exp)]
    gradients = [tape.gradient(loss, layer.variables) for loss in losses]
    flat = np.array([np.concatenate([np.ravel(part) for part in parts]) for parts in gradients])

    call = NotedCall(layer, inputs, given)
    backs = tf.stack([tape.gradient(loss, given) for loss in losses])
    np.testing.assert_allclose(gramian(call, backs), flat @ flat.T, rtol=1e-4)
    weights = np.array([0.5, -1.0, 2.0], "float32")
    summed = call.gradients(tf.tensordot(weights, backs, 1))
    found = np.concatenate([np.ravel(part) for part in summed])
    np.testing.assert_allclose(found, weights @ flat, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "method",
    [
        name if name == "pcgrad" else pytest.param(name, marks=pytest.mark.slow)
        for name in GRAMIAN_METHODS
    ],
)
def test_training_is_that_by_gradients(method, small, monkeypatch):
    assert_alike(*both_ways(monkeypatch, lambda: trained(method)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"jit_compile": True},
        {"run_eagerly": True},
        {"loss_weighting": "uncertainty"},
        {"loss_weights": {"a": 2.0, "b": 0.0}},
        {"callbacks": [GradientConflictMonitor()]},
        {"batch_size": 5},  # the last batch is smaller
    ],
    ids=["xla", "eager", "uncertainty", "constants", "monitor", "small_batch"],
)
def test_training_is_that_by_gradients_whatever_else_is_asked(arguments, small, monkeypatch):
    assert_alike(*both_ways(monkeypatch, lambda: trained("upgrad", **arguments)))


@pytest.mark.slow
def test_weights_are_reused_in_between(small, monkeypatch):
    make = lambda: trained(balancing.MGDA(refresh_every=2))  # noqa: E731
    assert_alike(*both_ways(monkeypatch, make))


@pytest.mark.slow
def test_half_precision_with_its_loss_scale_is_that_by_gradients(small, monkeypatch):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        first, second = both_ways(monkeypatch, lambda: trained("upgrad"))
    finally:
        keras.config.set_dtype_policy("float32")
    for value, expected in zip(first.get_weights(), second.get_weights(), strict=True):
        # Float16 keeps three digits, and six steps add up what it loses.
        np.testing.assert_allclose(value, expected, rtol=2e-2, atol=5e-3)


@pytest.mark.slow
def test_a_strategy_takes_the_gradients_of_all_replicas(small):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        distributed = trained("upgrad", model=build())
    assert_alike(distributed, trained("upgrad"))


def test_inner_products_of_gradients_that_cancel_row_by_row_stay_exact():
    # The rows come in pairs whose gradients are opposite but for a hundred-thousandth.
    half = RNG.normal(size=(50, 6)).astype("float32")
    read = tf.constant(np.concatenate([half, half]))
    back = RNG.normal(size=(2, 50, 4)).astype("float32")
    backs = tf.constant(np.concatenate([back, -back * np.float32(1 + 1e-5)], axis=1))
    layer = keras.layers.Dense(4, use_bias=False)
    flat = np.stack([np.ravel(read.numpy().astype("float64").T @ x) for x in backs.numpy()])
    found = gramian(NotedCall(layer, read, read @ tf.zeros((6, 4))), backs)
    np.testing.assert_allclose(found, flat @ flat.T, rtol=1e-3)


@pytest.mark.parametrize(("rows", "cheaper"), [(2, True), (64, False)])
def test_a_batch_of_many_rows_is_left_to_the_gradients(rows, cheaper):
    layer = keras.layers.Dense(16)
    layer.build((None, 16))
    call = NotedCall(layer, tf.zeros((rows, 16)), tf.zeros((rows, 16)))
    assert bool(are_cheaper([call], 4)) == cheaper


def test_both_ways_are_in_one_graph_and_the_batch_decides(small, monkeypatch):
    taken = []

    def counted(calls, num_tasks):
        rows = tf.shape(calls[0].read)[0]
        tf.py_function(lambda n: taken.append(int(n)), [rows], [])
        return rows < 5

    monkeypatch.setattr("keras_mtl.core.activations_pass.are_cheaper", counted)
    model = trained("upgrad", batch_size=8)  # of 8 and of 4 rows
    assert taken == [8, 4, 8, 4]
    monkeypatch.undo()
    assert_alike(model, trained("upgrad", batch_size=8))


def test_layers_are_found_in_nested_models_and_left_as_they_were(small):
    model = trained("upgrad")
    assert noted(model) == ["first", "second"]
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


@pytest.mark.slow
def test_layers_are_left_as_they_were_after_an_error(small):
    model = build()
    model.compile("sgd", loss="mse", gradient_balancing="upgrad", run_eagerly=True)
    model.layers[-1].activation = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        model.fit(IMAGES, LABELS, verbose=0)
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


class Tied(keras.layers.Layer):
    """Reads the kernel of another layer."""

    def __init__(self, dense):
        super().__init__()
        self.dense = dense

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.dense.kernel))


class Wrapped(keras.layers.Layer):
    """Calls a dense layer of its own."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(8, name="inner")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x) + self.dense(2 * x)


def twice():
    layer = keras.layers.Dense(8, name="twice")
    return [keras.layers.Flatten(), keras.layers.Dense(8, name="plain"), layer, layer]


def tied():
    layer = keras.layers.Dense(8, name="read_again")
    return [keras.layers.Flatten(), layer, keras.layers.Dense(8, name="plain"), Tied(layer)]


def reading():
    layer = keras.layers.Dense(9, name="read")
    return [
        keras.layers.Flatten(),
        keras.layers.Dense(8, name="plain"),
        layer,
        lambda x: keras.ops.matmul(layer._kernel, keras.ops.transpose(x)),
        keras.ops.transpose,
    ]


def frozen():
    layer = keras.layers.Dense(8, name="frozen", trainable=False)
    return [keras.layers.Flatten(), layer, keras.layers.Dense(8, name="plain")]


def lora():
    layer = keras.layers.Dense(8, name="lora", lora_rank=2)
    return [keras.layers.Flatten(), layer, keras.layers.Dense(8, name="plain")]


def wrapped():
    return [keras.layers.Flatten(), Wrapped(), keras.layers.Dense(8, name="plain")]


@pytest.mark.parametrize(
    "stages",
    [
        twice,
        tied,
        *(pytest.param(x, marks=pytest.mark.slow) for x in (reading, frozen, lora, wrapped)),
    ],
)
def test_variables_that_more_than_one_call_reads_are_left_to_the_gradients(
    stages, small, monkeypatch
):
    first, second = both_ways(monkeypatch, lambda: trained("upgrad", model=build(stages)))
    assert_alike(first, second)
    monkeypatch.setattr(dense_calls, "SMALL", 1)
    assert noted(first) == ["plain"]


def test_small_layers_are_left_to_the_gradients():
    model = build()
    model.compile("sgd", loss="mse", gradient_balancing="upgrad")
    assert noted(model) == []


@pytest.mark.parametrize(
    "method", [name for name in balancing.names() if name not in GRAMIAN_METHODS]
)
def test_methods_that_read_the_gradients_get_them(method, small):
    model = build()
    model.compile("sgd", loss="mse", gradient_balancing=method)
    assert not issubclass(model._step._pass.func, ActivationsPass)


def test_steps_of_a_sequence_are_rows(small, monkeypatch):
    x = RNG.normal(size=(ROWS, 3, 5)).astype("float32")
    y = {task: RNG.normal(size=(ROWS, 3, 1)).astype("float32") for task in TASKS}

    def make():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((None, 5))
        h = keras.layers.Dense(16, activation="relu")(inputs)
        h = keras.layers.Dense(16, activation="relu")(h)
        model = MultiTaskModel(inputs, {task: keras.layers.Dense(1)(h) for task in TASKS})
        model.compile(keras.optimizers.SGD(0.1), loss="mse", gradient_balancing="mgda")
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        return model

    assert_alike(*both_ways(monkeypatch, make))


@pytest.mark.slow
def test_tasks_that_do_not_read_a_layer_have_no_part_in_it(small, monkeypatch):
    def make():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4, 4, 2))
        x = keras.layers.Flatten()(inputs)
        parts = {pair: keras.layers.Dense(8)(x) for pair in itertools.combinations(TASKS, 2)}
        outputs = {
            task: keras.layers.Dense(2)(
                keras.layers.add([h for p, h in parts.items() if task in p])
            )
            for task in TASKS
        }
        return trained("cagrad", model=MultiTaskModel(inputs, outputs))

    assert_alike(*both_ways(monkeypatch, make))

"""Gradients of both halves of a batch from one backward pass a task."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_mtl import MultiTaskModel, balancing
from keras_mtl.callbacks import GradientConflictMonitor
from keras_mtl.core import dense_calls, pass_for, task_rows
from keras_mtl.core.noted_calls import NotedCall, called_once
from keras_mtl.core.parameters_pass import HalvesPass
from keras_mtl.core.split_pass import SplitPass
from keras_mtl.core.weighted_pass import ProductsPass

ROWS, TASKS = 11, ("a", "b", "c")
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(ROWS, 6, 6, 2)).astype("float32")
LABELS = {task: RNG.normal(size=(ROWS, 3)).astype("float32") for task in TASKS}
LABELS["b"][:4] = np.nan  # none in the first half of the first batch, one in the second
LABELS["c"][5:10] = np.nan  # none in the second batch
METHODS = [name for name in balancing.names() if balancing.get(name).compares_halves]


class Plain(balancing.GramianBalancing):
    """Reads all there is."""

    needs_cross_gramian = True
    features_reason = "the halves have features of their own."

    def solve(self, gramian, active, *, cross_gramian):
        both = gramian + cross_gramian
        return ops.softmax(ops.sum(both, axis=0) / ops.maximum(ops.max(ops.abs(both)), 1e-12))


def stages():
    return [
        layers.Conv2D(4, 3, activation="tanh", kernel_regularizer="l2"),
        layers.MaxPooling2D(),
        keras.Sequential([layers.Flatten(), layers.Dense(7, activation="relu")]),
        layers.Dropout(0.0),
        layers.Dense(5, use_bias=False),
    ]


def build(make=stages, shape=(6, 6, 2), head=layers.Dense):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input(shape)
    for stage in make():
        x = stage(x)
    return MultiTaskModel(inputs, {task: head(3, name=task)(x) for task in TASKS})


def trained(method, model=None, x=IMAGES, y=LABELS, **arguments):
    """Returns the weights and the state of the method after some batches of 5 and of 1 row."""
    model = model or build()
    callbacks = arguments.pop("callbacks", [])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.5)
    model.compile(optimizer, "mse", gradient_balancing=method, **arguments)
    model.fit(x, y, batch_size=5, epochs=3, shuffle=False, verbose=0, callbacks=callbacks)
    assert not any("call" in vars(layer) for layer in model._flatten_layers())
    state = [np.asarray(v).copy() for v in model._step.state.gradient_balancing.variables]
    return model, [*model.get_weights(), *state]


def both_ways(monkeypatch, make):
    """Returns what comes of one pass a task, and of one for each half."""
    model, first = make()
    assert issubclass(model._step._pass.func, SplitPass)
    with monkeypatch.context() as patched:
        patched.setattr(pass_for, "splitting", lambda found: HalvesPass)
        model, second = make()
    assert not issubclass(model._step._pass.func, SplitPass)
    return first, second


def assert_alike(first, second, rtol=2e-4, atol=2e-5):
    # Sums in another order, in float32, over nine steps.
    for value, expected in zip(first, second, strict=True):
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=atol)


@pytest.fixture(params=["formed", "from the calls", "from the gradients"])
def way(request, monkeypatch):
    """How the products of a dense layer are found: from gradients in memory or not."""
    if request.param != "formed":
        cheaper = request.param == "from the calls"
        monkeypatch.setattr(dense_calls, "SMALL", 1)
        monkeypatch.setattr(
            "keras_mtl.core.split_pass.are_cheaper", lambda *args: tf.constant(cheaper)
        )
    return request.param


@pytest.mark.parametrize("method", [*METHODS, Plain])
def test_training_is_that_of_one_pass_for_each_half(method, way, monkeypatch):
    made = lambda: trained(method() if method is Plain else method)  # noqa: E731
    assert_alike(*both_ways(monkeypatch, made))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"jit_compile": True},
        {"run_eagerly": True},
        {"loss_weighting": "uncertainty"},
        {"loss_weights": {"a": 2.0, "b": 0.0}},
        {"callbacks": [GradientConflictMonitor()]},
    ],
    ids=["xla", "eager", "uncertainty", "constants", "monitor"],
)
def test_training_is_the_same_whatever_else_is_asked(arguments, way, monkeypatch):
    assert_alike(*both_ways(monkeypatch, lambda: trained("sdmgrad", **arguments)))


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_reused_in_between(method, monkeypatch):
    make = lambda: trained(type(balancing.get(method))(refresh_every=2))  # noqa: E731
    assert_alike(*both_ways(monkeypatch, make))


def test_rows_that_are_written_into_their_place_are_the_same(monkeypatch):
    monkeypatch.setattr(task_rows, "SMALL", 1)
    assert_alike(*both_ways(monkeypatch, lambda: trained("sdmgrad")))


@pytest.mark.slow
def test_half_precision_with_its_loss_scale_is_the_same(way, monkeypatch):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        first, second = both_ways(monkeypatch, lambda: trained("sdmgrad"))
    finally:
        keras.config.set_dtype_policy("float32")
    # Float16 keeps three digits, and nine steps add up what it loses.
    assert_alike(first, second, rtol=5e-2, atol=2e-2)


@pytest.mark.slow
def test_a_head_that_trains_alone_is_left_out_of_what_is_shared(way, monkeypatch):
    def make():
        model = build()
        model.compile(keras.optimizers.SGD(0.1), "mse", gradient_balancing="sdmgrad")
        model.stop_task("a", head="train")
        model.fit(IMAGES, LABELS, batch_size=5, epochs=2, shuffle=False, verbose=0)
        return model, model.get_weights()

    assert_alike(*both_ways(monkeypatch, make))


@pytest.mark.parametrize("rows", [slice(None, 3), slice(3, None), slice(5, None)], ids=str)
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Dense(4, bias_initializer="ones"), (3,)),
        (layers.Dense(4, use_bias=False), (2, 3)),
        (layers.Conv1D(4, 3, strides=2), (7, 2)),
        (layers.Conv2D(4, 3, padding="same", dilation_rate=2), (5, 6, 2)),
        (layers.Conv2D(4, 3, strides=(2, 1), use_bias=False), (5, 6, 2)),
        (layers.Conv3D(4, 2), (3, 4, 3, 2)),
    ],
    ids=lambda part: getattr(part, "name", None),
)
def test_gradients_of_some_rows_are_those_of_a_batch_of_them(layer, shape, rows):
    inputs = tf.constant(RNG.normal(size=(5, *shape)), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        given = layer(inputs)
        tape.watch(given)
        loss = tf.reduce_sum(tf.exp(given))
        alone = tf.reduce_sum(tf.exp(layer(inputs[rows])))
    found = NotedCall(layer, inputs, given).gradients(tape.gradient(loss, given), rows)
    expected = tape.gradient(alone, layer.variables)
    assert len(found) == len(expected)
    for part, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, wanted, rtol=1e-4, atol=1e-4)


class Custom(layers.Layer):
    """Might do anything with the rows of a batch."""

    def call(self, x):
        return x - ops.mean(x, axis=0)


def with_one(*more):
    return lambda: [layers.Flatten(), layers.Dense(4), *more, layers.Dense(4)]


def twice():
    layer = layers.Dense(4)
    return [layers.Flatten(), layers.Dense(4), layer, layer]


def causal():
    return [layers.Reshape((-1, 2)), layers.Conv1D(3, 2, padding="causal"), layers.Flatten()]


def into_rows():
    """More rows than there are examples."""
    return [
        lambda x: ops.reshape(x, (-1, 12)),
        layers.Dense(4),
        lambda x: ops.reshape(x, (-1, 24)),
    ]


@pytest.mark.parametrize(
    "make",
    [
        with_one(layers.BatchNormalization()),
        with_one(layers.BatchNormalization(center=False, scale=False)),
        with_one(layers.LayerNormalization()),
        with_one(Custom()),
        with_one(layers.Lambda(lambda x: x[::-1])),
        with_one(layers.Softmax(axis=0)),
        with_one(layers.UnitNormalization(axis=(0, 1))),
        with_one(layers.Activation(lambda x: x - ops.mean(x, axis=0))),
        with_one(layers.Dense(4, activation=lambda x: x - ops.mean(x, axis=0))),
        with_one(layers.Dense(4, activation=layers.PReLU())),
        twice,
        causal,
        into_rows,
    ],
    ids=[
        "batch norm",
        "no weights",
        "layer norm",
        "custom",
        "lambda",
        "softmax over rows",
        "norm over rows",
        "activation over rows",
        "dense over rows",
        "activation with weights",
        "twice",
        "causal",
        "reshape",
    ],
)
def test_what_may_mix_rows_or_is_no_known_layer_takes_a_pass_for_each_half(make):
    model = build(make)
    model.compile("sgd", "mse", gradient_balancing="sdmgrad")
    assert issubclass(model._step._pass.func, HalvesPass)
    assert not issubclass(model._step._pass.func, SplitPass)
    model.fit(IMAGES, LABELS, batch_size=5, verbose=0)
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


@pytest.mark.parametrize("axis", [0, -1])
def test_rows_are_kept_apart_by_layers_that_join_others(axis):
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((4,)), keras.Input((4,))]
    x = layers.Dense(4)(layers.Concatenate(axis=axis)(inputs))
    model = MultiTaskModel(inputs, {task: layers.Dense(3)(x) for task in TASKS})
    model.compile("sgd", "mse", gradient_balancing="sdmgrad")
    assert issubclass(model._step._pass.func, SplitPass) == (axis == -1)


def test_a_sparse_input_takes_a_pass_for_each_half():
    inputs = keras.Input((4,), sparse=True)
    x = layers.Dense(4)(inputs)
    model = MultiTaskModel(inputs, {task: layers.Dense(3)(x) for task in TASKS})
    model.compile("sgd", "mse", gradient_balancing="sdmgrad")
    rows = tf.sparse.from_dense(IMAGES[:, 0, :2, 0] @ np.ones((2, 4), "float32"))
    model.fit(tf.data.Dataset.from_tensor_slices((rows, LABELS)).batch(5), verbose=0)
    assert not issubclass(model._step._pass.func, SplitPass)


def test_a_kernel_that_a_lambda_reads_too_takes_a_pass_for_each_half():
    dense = layers.Dense(4)
    model = build(
        lambda: [layers.Flatten(), dense],
        head=lambda units, name: keras.Sequential(
            [
                layers.Lambda(lambda x: ops.matmul(x, ops.transpose(dense.kernel))),
                layers.Dense(units),
            ],
            name=name,
        ),
    )
    model.compile("sgd", "mse", gradient_balancing="sdmgrad")
    assert not issubclass(model._step._pass.func, SplitPass)


def test_a_layer_whose_activation_has_weights_is_not_noted():
    model = build(with_one(layers.Dense(4, activation=layers.PReLU())))
    assert len(called_once(model, model.trainable_variables)) == 5  # two in the trunk, three heads


def test_a_call_of_the_users_own_is_kept():
    dense = layers.Dense(4)
    dense.call = own = lambda x, training=None: type(dense).call(dense, x) * 2.0
    model = build(lambda: [layers.Flatten(), dense])
    model.compile("sgd", "mse", gradient_balancing="sdmgrad")
    model.fit(IMAGES, LABELS, batch_size=5, verbose=0)
    assert dense.call is own


def test_heads_may_do_as_they_like():
    model = build(
        head=lambda units, name: keras.Sequential([Custom(), layers.Dense(units)], name=name)
    )
    model.compile("sgd", "mse", gradient_balancing="sdmgrad")
    assert issubclass(model._step._pass.func, SplitPass)
    model.fit(IMAGES, LABELS, batch_size=5, verbose=0)


def test_a_strategy_takes_the_gradients_of_all_replicas():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        _, distributed = trained("sdmgrad")
    assert_alike(distributed, trained("sdmgrad")[1])


def test_gradients_are_not_kept_where_products_with_one_are_enough(monkeypatch):
    model, kept = trained("modo")
    assert issubclass(model._step._pass.func, SplitPass)
    monkeypatch.setattr(pass_for, "SMALL", 1)
    model, large = trained("modo")
    assert issubclass(model._step._pass.func, ProductsPass)
    assert_alike(kept, large)

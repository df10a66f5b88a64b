"""What is shared, what is private and where the cuts are, read off graphs of many shapes."""

from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_mtl
from keras_mtl.balancing import GramianBalancing
from keras_mtl.core.partition import Partition, Taps

SCOPES = ("parameters", "features")
# One step of SGD: the same terms, added in another order.
REORDERED = 1e-6


class Graph(NamedTuple):
    """A model, and what its partition must be, told by the names of layers."""

    inputs: object
    outputs: dict
    shared: set
    private: dict
    cuts: list
    unlabelled: tuple = ()


def dense(units, name, activation="tanh"):
    """A layer with every kind of regulariser, which no balancing may touch or lose."""
    return layers.Dense(
        units,
        activation,
        kernel_regularizer=keras.regularizers.L2(0.02),
        activity_regularizer=keras.regularizers.L2(0.03),
        name=name,
    )


def hard_sharing():
    x = keras.Input((4,))
    hidden = dense(6, "trunk")(x)
    outputs = {task: dense(2, task)(hidden) for task in "ab"}
    return Graph(x, outputs, {"trunk"}, {"a": {"a"}, "b": {"b"}}, ["trunk"])


def nested_cuts():
    x = keras.Input((4,))
    low = dense(6, "low")(x)
    middle = dense(5, "middle")(low)
    high = dense(4, "high")(middle)
    outputs = {"a": dense(2, "a")(high), "b": dense(2, "b")(high), "c": dense(2, "c")(low)}
    private = {task: {task} for task in "abc"}
    return Graph(x, outputs, {"low", "middle", "high"}, private, ["high", "low"])


def product_of_tasks():
    x = keras.Input((4,))
    hidden = dense(6, "trunk")(x)
    click = dense(1, "click", "sigmoid")(hidden)
    convert = dense(1, "convert", "sigmoid")(hidden)
    outputs = {"click": click, "both": layers.Multiply(name="product")([click, convert])}
    private = {"click": set(), "both": {"convert"}}
    return Graph(x, outputs, {"trunk", "click"}, private, ["click", "trunk"])


def output_read_by_two_tasks():
    x = keras.Input((4,))
    first = dense(3, "a")(dense(6, "trunk")(x))
    outputs = {"a": first, "b": dense(2, "b")(first), "c": dense(2, "c")(first)}
    private = {"a": set(), "b": {"b"}, "c": {"c"}}
    return Graph(x, outputs, {"trunk", "a"}, private, ["a"])


def one_tensor_for_two_tasks():
    x = keras.Input((4,))
    hidden = dense(6, "trunk")(x)
    both = dense(2, "both")(hidden)
    outputs = {"a": both, "b": both, "c": dense(2, "c")(hidden)}
    private = {"a": set(), "b": set(), "c": {"c"}}
    return Graph(x, outputs, {"trunk", "both"}, private, ["both", "trunk"])


def layer_in_trunk_and_head():
    x = keras.Input((4,))
    layer = dense(4, "reused")
    hidden = layer(x)
    outputs = {"a": dense(2, "a")(layer(hidden)), "b": dense(2, "b")(hidden)}
    return Graph(x, outputs, {"reused"}, {"a": {"a"}, "b": {"b"}}, ["reused"])


def layer_in_two_heads():
    x = keras.Input((4,))
    layer = dense(4, "reused")
    left, right = dense(4, "left")(x), dense(4, "right")(x)
    outputs = {"a": dense(2, "a")(layer(left)), "b": dense(2, "b")(layer(right))}
    return Graph(x, outputs, {"reused"}, {"a": {"left", "a"}, "b": {"right", "b"}}, [])


def raw_input_to_a_head():
    x = keras.Input((4,))
    hidden = dense(6, "trunk")(x)
    outputs = {"a": dense(2, "a")(ops.concatenate([hidden, x], -1)), "b": dense(2, "b")(hidden)}
    return Graph(x, outputs, {"trunk"}, {"a": {"a"}, "b": {"b"}}, ["trunk"])


def computed_input_to_heads():
    x = keras.Input((4,))
    scaled = layers.Rescaling(0.5, name="scaled")(x)
    hidden = dense(6, "trunk")(scaled)
    outputs = {
        "a": dense(2, "a")(ops.concatenate([hidden, scaled], -1)),
        "b": dense(2, "b")(hidden),
    }
    return Graph(x, outputs, {"trunk"}, {"a": {"a"}, "b": {"b"}}, ["trunk"])


def embeddings():
    ids, x = keras.Input((3,), dtype="int32", name="ids"), keras.Input((2,), name="x")
    embedded = layers.Flatten(name="flat")(layers.Embedding(7, 2, name="embedding")(ids))
    hidden = dense(6, "trunk")(ops.concatenate([embedded, x], -1))
    own = layers.Flatten()(layers.Embedding(7, 2, name="own")(ids))
    outputs = {
        "a": dense(2, "a")(ops.concatenate([hidden, own], -1)),
        "b": dense(2, "b")(ops.concatenate([hidden, embedded], -1)),
    }
    private = {"a": {"own", "a"}, "b": {"b"}}
    return Graph({"ids": ids, "x": x}, outputs, {"embedding", "trunk"}, private, ["flat", "trunk"])


def output_without_loss():
    x = keras.Input((4,))
    hidden = dense(6, "trunk")(x)
    outputs = {task: dense(2, task)(dense(5, f"{task}_tower")(hidden)) for task in ("a", "b", "c")}
    private = {"a": {"a_tower", "a"}, "b": {"b_tower", "b"}}
    return Graph(x, outputs, {"trunk"}, private, ["trunk"], unlabelled=("c",))


def nested_model():
    inner = keras.Input((4,))
    low = dense(6, "low")(inner)
    parts = {"high": dense(5, "high")(low), "low": low}
    trunk = keras.Model(inner, parts, name="trunk")
    x = keras.Input((4,))
    features = trunk(x)
    outputs = {
        "a": dense(2, "a")(features["high"]),
        "b": dense(2, "b")(ops.concatenate([features["high"], features["low"]], -1)),
    }
    return Graph(x, outputs, {"low", "high"}, {"a": {"a"}, "b": {"b"}}, ["trunk", "trunk"])


def branches_in_a_nested_model():
    inner = keras.Input((4,))
    low = dense(6, "low")(inner)
    parts = {"left": dense(5, "left")(low), "right": dense(5, "right")(low)}
    trunk = keras.Model(inner, parts, name="trunk")
    x = keras.Input((4,))
    features = trunk(x)
    outputs = {"a": dense(2, "a")(features["left"]), "b": dense(2, "b")(features["right"])}
    private = {"a": {"left", "a"}, "b": {"right", "b"}}
    return Graph(x, outputs, {"low"}, private, ["trunk", "trunk"])


def overlapping_pairs():
    x = keras.Input((4,))
    left, right = dense(4, "left")(x), dense(4, "right")(x)
    outputs = {
        "a": dense(2, "a")(left),
        "b": dense(2, "b")(ops.concatenate([left, right], -1)),
        "c": dense(2, "c")(right),
    }
    private = {task: {task} for task in "abc"}
    return Graph(x, outputs, {"left", "right"}, private, ["left", "right"])


def skip_connection():
    x = keras.Input((4,))
    low = dense(4, "low")(x)
    high = layers.Add(name="sum")([low, dense(4, "high")(low)])
    outputs = {"a": dense(2, "a")(high), "b": dense(2, "b")(ops.concatenate([high, low], -1))}
    return Graph(x, outputs, {"low", "high"}, {"a": {"a"}, "b": {"b"}}, ["low", "sum"])


def masked_features():
    ids = keras.Input((3,), dtype="int32", name="ids")
    hidden = dense(4, "trunk")(layers.Embedding(7, 5, mask_zero=True, name="embedding")(ids))
    outputs = {
        task: dense(2, task)(layers.GlobalAveragePooling1D()(dense(3, f"{task}_steps")(hidden)))
        for task in "ab"
    }
    private = {task: {f"{task}_steps", task} for task in "ab"}
    return Graph(ids, outputs, {"embedding", "trunk"}, private, ["trunk"])


def noise_and_batch_norm():
    x = keras.Input((4,))
    hidden = layers.BatchNormalization(name="norm")(dense(6, "trunk")(x))
    hidden = layers.Dropout(0.5, name="dropped")(hidden)
    outputs = {
        "a": dense(2, "a")(layers.Dropout(0.5)(hidden)),
        "b": dense(2, "b")(layers.BatchNormalization(name="b_norm")(hidden)),
    }
    return Graph(x, outputs, {"trunk", "norm"}, {"a": {"a"}, "b": {"b_norm", "b"}}, ["dropped"])


@keras.saving.register_keras_serializable(package="test_partition")
class Gap(layers.Layer):
    """Returns its first input, and adds how far the second is from it to the loss."""

    only_for_added_loss = (1,)

    def call(self, inputs):
        self.add_loss(0.1 * ops.mean(ops.square(inputs[0] - inputs[1])))
        return inputs[0] * 1.0


def loss_added_between_tasks():
    x = keras.Input((4,))
    hidden = dense(6, "trunk")(x)
    first, second = dense(2, "a")(hidden), dense(2, "second")(hidden)
    outputs = {"a": first, "b": Gap(name="gap")([second, first])}
    return Graph(x, outputs, {"trunk"}, {"a": {"a"}, "b": {"second"}}, ["trunk"])


def loss_added_on_the_way():
    x = keras.Input((4,))
    low = dense(4, "low")(x)
    hidden = dense(4, "high")(low)
    outputs = {"a": dense(2, "a")(hidden), "b": dense(2, "b")(Gap(name="gap")([hidden, low]))}
    return Graph(x, outputs, {"low", "high"}, {"a": {"a"}, "b": {"b"}}, ["high"])


def frozen_trunk():
    graph = hard_sharing()
    graph.outputs["a"]._keras_history.operation.input._keras_history.operation.trainable = False
    return graph._replace(shared=set(), cuts=[])


def nothing_shared():
    x = keras.Input((4,))
    outputs = {task: dense(2, task)(dense(5, f"{task}_tower")(x)) for task in "ab"}
    private = {task: {task, f"{task}_tower"} for task in "ab"}
    return Graph(x, outputs, set(), private, [])


SHARING = [
    hard_sharing,
    nested_cuts,
    product_of_tasks,
    output_read_by_two_tasks,
    one_tensor_for_two_tasks,
    layer_in_trunk_and_head,
    raw_input_to_a_head,
    computed_input_to_heads,
    embeddings,
    output_without_loss,
    nested_model,
    branches_in_a_nested_model,
    overlapping_pairs,
    skip_connection,
    masked_features,
    noise_and_batch_norm,
    loss_added_between_tasks,
    loss_added_on_the_way,
]
WITHOUT_CUT = [layer_in_two_heads]
WITHOUT_SHARING = [frozen_trunk, nothing_shared]
ALL = [*SHARING, *WITHOUT_CUT, *WITHOUT_SHARING]
graphs = pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
sharing = pytest.mark.parametrize("make", SHARING, ids=lambda make: make.__name__)
scopes = pytest.mark.parametrize("scope", SCOPES)


@graphs
def test_partition_is_the_expected_one(make):
    graph = make()
    model = keras_mtl.MultiTaskModel(graph.inputs, graph.outputs)
    labelled = {task: x for task, x in graph.outputs.items() if task not in graph.unlabelled}
    partition = Partition(model, labelled)
    variables = model.trainable_variables
    assert _layers(partition.shared(variables)) == graph.shared
    found = {task: _layers(partition.private(variables, task)) for task in labelled}
    assert found == graph.private
    assert sorted(cut._keras_history.operation.name for cut in partition.cuts) == graph.cuts


def _layers(variables):
    return {variable.path.split("/")[-2] for variable in variables}


@keras.saving.register_keras_serializable(package="test_partition")
class Weighted(GramianBalancing):
    """Weights that depend on nothing: with ones, plain training written as a balancing."""

    def __init__(self, weights=None, **kwargs):
        super().__init__(**kwargs)
        self.weights_given = weights

    def solve(self, gramian, active):
        given = self.weights_given
        return ops.ones_like(active) if given is None else ops.convert_to_tensor(given, "float32")


def trained(make, balancing, **given):
    """Returns the model and its weights by path after one step, and the logged loss."""
    keras.utils.set_random_seed(5)
    graph = make()
    model = keras_mtl.MultiTaskModel(graph.inputs, graph.outputs)
    losses = {task: None if task in graph.unlabelled else "mse" for task in graph.outputs}
    model.compile(
        keras.optimizers.SGD(0.5),
        loss=losses,
        loss_weights={next(iter(losses)): 0.25},
        gradient_balancing=balancing,
        **{"run_eagerly": True, **given},
    )
    x, y = data(model, graph.unlabelled)
    logs = model.train_on_batch(x, y, return_dict=True)
    return model, logs["loss"]


def data(model, unlabelled):
    random = np.random.default_rng(0)
    x = {
        tensor.name: random.integers(0, 7, (8, *tensor.shape[1:]))
        if "int" in tensor.dtype
        else random.normal(size=(8, *tensor.shape[1:])).astype("float32")
        for tensor in model.inputs
    }
    y = {
        task: random.normal(size=(8, *output.shape[1:])).astype("float32")
        for task, output in model.output.items()
        if task not in unlabelled
    }
    # Missing unevenly: all but one in the first half, which is one of two replicas.
    next(iter(y.values()))[:3] = np.nan
    return x if isinstance(model.input, dict) else next(iter(x.values())), y


def assert_equal_weights(found, expected):
    assert len(found.weights) == len(expected.weights)
    for mine, other in zip(found.weights, expected.weights, strict=True):
        np.testing.assert_allclose(
            mine.numpy(), other.numpy(), rtol=REORDERED, atol=REORDERED, err_msg=mine.path
        )


@scopes
@sharing
def test_balancing_by_the_plain_sum_is_plain_training(make, scope):
    plain, plain_loss = trained(make, None)
    balanced, loss = trained(make, Weighted(scope=scope))
    assert_equal_weights(balanced, plain)
    np.testing.assert_allclose(loss, plain_loss, rtol=REORDERED)


# In features, what a head makes of a layer of the trunk lies beyond the cut: it is not balanced.
BALANCED_WHOLE = [
    pytest.param(make, scope, id=f"{make.__name__}-{scope}")
    for make in SHARING
    for scope in SCOPES
    if (make, scope) != (layer_in_trunk_and_head, "features")
]


@pytest.mark.parametrize(("make", "scope"), BALANCED_WHOLE)
def test_weights_reach_the_shared_variables_and_no_others(make, scope):
    plain, _ = trained(make, None)
    tripled, _ = trained(make, Weighted([3.0] * len(tasks_of(plain)), scope=scope))
    alone, _ = trained(make, Weighted([0.0] * len(tasks_of(plain)), scope=scope))
    shared = {id(v) for v in tripled._step.partition.shared(tripled.trainable_variables)}
    assert shared
    for a, b, c in zip(plain.weights, tripled.weights, alone.weights, strict=True):
        plain_step, zero = a.numpy() - c.numpy(), np.zeros(a.shape)
        # Regularisers are in all three; the rest of a shared variable's step is tripled.
        expected = 2.0 * plain_step if id(b) in shared else zero
        np.testing.assert_allclose(
            b.numpy() - a.numpy(), expected, rtol=1e-5, atol=REORDERED, err_msg=a.path
        )


def tasks_of(model):
    return list(model.loss_weights)


@scopes
@pytest.mark.parametrize("make", WITHOUT_SHARING, ids=lambda make: make.__name__)
def test_without_sharing_compile_warns_and_training_is_plain(make, scope):
    plain, _ = trained(make, None)
    with pytest.warns(UserWarning, match="no trainable variable is shared"):
        balanced, _ = trained(make, Weighted(scope=scope))
    assert_equal_weights(balanced, plain)


def test_without_a_cut_features_warn_and_training_is_plain():
    plain, _ = trained(layer_in_two_heads, None)
    with pytest.warns(UserWarning, match="scope='parameters'"):
        balanced, _ = trained(layer_in_two_heads, Weighted(scope="features"))
    assert_equal_weights(balanced, plain)
    balanced, _ = trained(layer_in_two_heads, Weighted(scope="parameters"))
    assert_equal_weights(balanced, plain)


# Batch norm and dropout are per replica, as in Keras.
SAME_ON_REPLICAS = [make for make in SHARING if make is not noise_and_batch_norm]


def test_features_warn_of_shared_layers_that_are_called_once_a_task():
    x = keras.Input((4,))
    stem, again = dense(6, "stem")(x), dense(5, "again")
    outputs = {task: dense(2, task)(again(dense(6, f"{task}_own")(stem))) for task in "ab"}
    model = keras_mtl.MultiTaskModel(x, outputs)
    message = r"nothing to balance in 2 of 4 shared .* 'again/kernel': .*use scope='parameters'"
    with pytest.warns(UserWarning, match=message):
        model.compile("sgd", loss="mse", gradient_balancing=Weighted(scope="features"))
    model.compile("sgd", loss="mse", gradient_balancing=Weighted(scope="parameters"))


@pytest.mark.slow
@pytest.mark.parametrize("scope", [None, *SCOPES])
@pytest.mark.parametrize("make", SAME_ON_REPLICAS, ids=lambda make: make.__name__)
def test_two_replicas_equal_one_device_on_every_graph(make, scope, strategy):
    models, losses = [], []
    for place in (keras.name_scope("one"), strategy.scope()):
        with place:
            balancing = None if scope is None else Weighted(scope=scope)
            model, loss = trained(make, balancing, run_eagerly=False)
        models.append(model)
        losses.append(loss)
    assert_equal_weights(models[1], models[0])
    np.testing.assert_allclose(losses[1], losses[0], rtol=REORDERED)


@sharing
def test_taps_keep_the_forward_pass(make):
    graph = make()
    model = keras_mtl.MultiTaskModel(graph.inputs, graph.outputs)
    x, _ = data(model, ())
    x = tf.nest.map_structure(tf.convert_to_tensor, x)
    plain = model(x)
    with Taps(Partition(model, model.output)) as taps:
        tapped = model(x)
    assert len(taps.taps) == len(taps.cuts) > 0
    for task, value in plain.items():
        np.testing.assert_array_equal(tapped[task], value)

import architecture_support as support
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl import Task, architectures
from keras_mtl.core.partition import Partition
from keras_mtl.heads import Regression


def test_each_task_takes_what_its_gate_says():
    summing = Regression(kernel_initializer="ones")
    trunk = keras.layers.Dense(1, use_bias=False)
    tasks = {"digit": summing, "parity": summing}
    model = architectures.mmoe(keras.Input((2,)), trunk, tasks, num_experts=2, temperature=2.0)
    # On x = (1, 2) the experts return 1 and 5.
    model.get_layer("experts").kernels[0].assign([[[1.0], [0.0]], [[1.0], [2.0]]])
    # Logits over temperature: (log 3, 0) for digit, (0, log 4) for parity.
    model.get_layer("digit_gate").kernel.assign([[2 * np.log(3.0), 0.0], [0.0, 0.0]])
    model.get_layer("parity_gate").kernel.assign([[0.0, 0.0], [0.0, np.log(4.0)]])
    predictions = support.predictions(model, np.array([[1.0, 2.0]]))
    np.testing.assert_allclose(predictions["digit"], [[0.75 * 1 + 0.25 * 5]], rtol=1e-6)
    np.testing.assert_allclose(predictions["parity"], [[0.2 * 1 + 0.8 * 5]], rtol=1e-6)


def test_gates_can_be_read():
    model = support.build("mmoe", "convolutional", num_experts=3)
    gate = model.get_layer("first_gate")
    reader = keras.Model(model.input, gate.output)
    weights = reader(support.data(model)[0])
    assert gate.is_gate
    assert weights.shape == (16, 3)
    np.testing.assert_allclose(np.sum(weights, axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_parameters_are_as_documented(kind):
    model = support.build("mmoe", kind, num_experts=5)
    trunk = {
        "dense": (6 + 1) * 8 + (8 + 1) * 7 + (7 + 1) * 6,
        "convolutional": (2 * 9 + 1) * 4 + 4 * 4 + (4 * 9 + 1) * 6 + 4 * 6,
    }[kind]
    gates = 2 * support.SHAPES[kind][-1] * 5
    towers_and_heads = (6 + 1) * 5 + (5 + 1) + (6 + 1)
    assert model.count_params() == 5 * trunk + gates + towers_and_heads


@pytest.mark.parametrize(
    ("kind", "experts", "ends"),
    [
        ("dense", {"experts"}, {"experts"}),
        (
            "convolutional",
            {f"expert_{e}_stage{s}" for e in (0, 1) for s in (1, 2)},
            {"expert_0_stage2", "expert_1_stage2"},
        ),
    ],
)
def test_experts_are_shared_gates_private_and_sharing_ends_at_the_experts(kind, experts, ends):
    model = support.build("mmoe", kind, num_experts=2)
    partition = Partition(model, dict(model.output))
    variables = model.trainable_variables
    assert {v.path.split("/")[0] for v in partition.shared(variables)} == experts
    private = {v.path.split("/")[0] for v in partition.private(variables, "first")}
    assert private == {"first_gate", "first_tower", "first"}
    assert {cut._keras_history.operation.name for cut in partition.cuts} == ends


def test_features_by_name_are_mixed_name_by_name():
    inner = keras.Input((3,), name="inner")
    outputs = {"same": inner * 1.0, "sum": keras.layers.Dense(2, kernel_initializer="ones")(inner)}
    trunk = keras.Model(inner, outputs, name="trunk")
    summing = Regression(kernel_initializer="ones")
    tasks = {"a": Task(summing, features="same"), "b": Task(summing, features="sum")}
    model = architectures.mmoe(keras.Input((3,)), trunk, tasks, num_experts=3)
    # Equal experts: whatever the gates say, their mixture is what each returns.
    predictions = support.predictions(model, np.array([[1.0, 2.0, 3.0]]))
    np.testing.assert_allclose(predictions["a"], [[6.0]], rtol=1e-6)
    np.testing.assert_allclose(predictions["b"], [[12.0]], rtol=1e-6)


def test_load_balancing_makes_gates_use_all_experts():
    trunk = keras.layers.Dense(2)
    options = {"num_experts": 3, "load_balancing": 10.0}
    model = architectures.mmoe(keras.Input((6,)), trunk, support.tasks(), **options)
    gate = model.get_layer("first_gate")
    # On the constant input 1 the first expert gets 0.95 of the weight.
    gate.kernel.assign(np.array([[3.6, 0.0, 0.0]] + [[0.0] * 3] * 5))
    x, y = support.data(model)
    x = np.ones_like(x)
    reader = keras.Model(model.input, gate.output)
    assert np.asarray(reader(x))[0, 0] > 0.94
    model.compile(keras.optimizers.Adam(0.1))
    model.fit(tf.data.Dataset.from_tensors((x, y)).repeat(60), verbose=0)
    assert np.asarray(reader(x)).max() < 0.4


@pytest.mark.slow
def test_dropped_experts_and_balanced_loads_train_under_replicas(strategy):
    options = {"gate_dropout": 0.3, "load_balancing": 0.1}
    trunk = keras.layers.Dense(2)
    with strategy.scope():
        model = architectures.mmoe(keras.Input((6,)), trunk, support.tasks(), **options)
        model.compile(keras.optimizers.SGD(0.1))
    x, y = support.data(model, rows=5)
    # The second batch has one row: a replica without rows must not make a NaN.
    logs = model.fit(x, y, batch_size=4, verbose=0).history
    assert all(np.isfinite(values[0]) for values in logs.values())
    assert all(np.all(np.isfinite(v.numpy())) for v in model.trainable_variables)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_experts": 0}, ValueError, "`num_experts` must be an integer >= 1, received 0"),
        ({"num_experts": 2.0}, TypeError, "`num_experts` must be an integer >= 1, received 2.0"),
        ({"temperature": 0.0}, ValueError, "`temperature` must be a finite number > 0"),
        ({"temperature": -1.0}, ValueError, "`temperature` must be a finite number > 0"),
        ({"gate_dropout": 1.0}, ValueError, "`gate_dropout` must be .* <= 0.99, received 1.0"),
        ({"load_balancing": -0.1}, ValueError, r"`load_balancing` must be .* >= 0, .* float\.$"),
        ({"load_balancing": "1"}, TypeError, "`load_balancing` must be a finite number >= 0"),
        ({"copy_weights": True}, ValueError, "`copy_weights=True` needs a trunk with weights"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        support.build("mmoe", **options)


def test_token_ids_are_refused():
    ids = keras.Input((7,), dtype="int32", name="ids")
    with pytest.raises(ValueError, match=r"input 'ids' holds int32 .* Embed or scale it in a stem"):
        architectures.mmoe(ids, keras.layers.Embedding(9, 4), support.tasks())


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_one_expert_is_hard_sharing(kind):
    inputs, trunk = support.inputs_and_trunk(kind, "one")
    alone = architectures.hard_sharing(inputs, trunk, support.tasks())
    model = architectures.mmoe(inputs, trunk, support.tasks(), num_experts=1)
    own = [v for v in model.variables if "_gate/" not in v.path]
    for variable, other in zip(own, alone.variables, strict=True):
        # Of a dense trunk the one expert has a first axis of 1.
        variable.assign(np.reshape(other, variable.shape))
    x = keras.random.normal((3, *support.SHAPES[kind]))
    for task, expected in support.predictions(alone, x).items():
        np.testing.assert_allclose(support.predictions(model, x)[task], expected, rtol=1e-6)

import architecture_support as support
import keras
import numpy as np
import pytest

from keras_mtl.architectures import cgc
from keras_mtl.core.partition import Partition
from keras_mtl.heads import Regression


def linear(units=1):
    return keras.layers.Dense(units, use_bias=False, name="trunk")


def summing():
    return Regression(kernel_initializer="ones")


def put(model, layer, kernel):
    model.get_layer(layer).weights[0].assign(kernel)


def test_each_task_mixes_its_own_experts_with_the_shared_ones():
    tasks = {"a": summing(), "b": summing()}
    model = cgc(keras.Input((2,)), linear(), tasks, num_shared_experts=1, num_task_experts=1)
    # On x = (1, 2) the expert of a returns 1, that of b 2, the shared one 3.
    for name, kernel in {"a": (1, 0), "b": (0, 1), "shared": (1, 1)}.items():
        put(model, f"{name}_experts", np.reshape(kernel, (1, 2, 1)))
    # Gates: (1/4, 3/4) for a, (4/5, 1/5) for b, own experts first.
    put(model, "a_gate", [[0.0, np.log(3.0)], [0.0, 0.0]])
    put(model, "b_gate", [[0.0, 0.0], [np.log(2.0), 0.0]])
    predictions = support.predictions(model, np.array([[1.0, 2.0]]))
    np.testing.assert_allclose(predictions["a"], [[0.25 * 1 + 0.75 * 3]], rtol=1e-6)
    np.testing.assert_allclose(predictions["b"], [[0.8 * 2 + 0.2 * 3]], rtol=1e-6)


def test_experts_that_are_layers_are_mixed_in_the_same_order():
    options = {"num_shared_experts": 1, "num_task_experts": 2}
    model = cgc(keras.Input((2, 1)), linear(), {"a": summing(), "b": summing()}, **options)
    values = {"a_expert_0": 1, "a_expert_1": 10, "b_expert_0": 7, "b_expert_1": 7}
    for name, value in {**values, "shared_expert_0": 100}.items():
        put(model, name, [[value]])
    # On a sequence of mean 1 the gate of a weighs (1/2, 1/3, 1/6).
    put(model, "a_gate", np.log([[3.0, 2.0, 1.0]]))
    predictions = support.predictions(model, np.ones((1, 2, 1)))
    np.testing.assert_allclose(predictions["a"], [[0.5 + 10 / 3 + 100 / 6]], rtol=1e-6)


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_parameters_are_as_documented(kind):
    model = support.build("cgc", kind, num_shared_experts=3, num_task_experts=2)
    trunk = {
        "dense": (6 + 1) * 8 + (8 + 1) * 7 + (7 + 1) * 6,
        "convolutional": (2 * 9 + 1) * 4 + 4 * 4 + (4 * 9 + 1) * 6 + 4 * 6,
    }[kind]
    channels, gates = support.SHAPES[kind][-1], 2 * (2 + 3)
    towers_and_heads = (6 + 1) * 5 + (5 + 1) + (6 + 1)
    assert model.count_params() == (3 + 2 * 2) * trunk + channels * gates + towers_and_heads


def test_own_experts_and_gates_are_private_and_sharing_ends_at_the_shared_experts():
    model = support.build("cgc", "convolutional", num_shared_experts=2, num_task_experts=1)
    partition = Partition(model, dict(model.output))
    variables = model.trainable_variables
    shared = {v.path.split("/")[0] for v in partition.shared(variables)}
    assert shared == {f"shared_expert_{e}_stage{s}" for e in (0, 1) for s in (1, 2)}
    private = {v.path.split("/")[0] for v in partition.private(variables, "second")}
    own = {"second_expert_0_stage1", "second_expert_0_stage2", "second_gate", "second"}
    assert private == own
    cuts = {cut._keras_history.operation.name for cut in partition.cuts}
    assert cuts == {"shared_expert_0_stage2", "shared_expert_1_stage2"}


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_seeded_experts_of_all_groups_differ(kind):
    trunk = [keras.layers.Dense(4, kernel_initializer=keras.initializers.GlorotUniform(seed=5))]
    model = cgc(keras.Input(support.SHAPES[kind]), trunk, support.tasks(), num_task_experts=2)
    drawn = [v.numpy() for v in model.variables if "expert" in v.path and "kernel" in v.path]
    each = np.concatenate([values.reshape(-1, values.shape[-2] * 4) for values in drawn])
    assert len(each) == 2 + 2 * 2
    assert len(np.unique(each.round(6), axis=0)) == len(each)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_shared_experts": 0}, ValueError, "`num_shared_experts` must be an integer >= 1"),
        ({"num_task_experts": 1.5}, TypeError, "`num_task_experts` must be an integer >= 1"),
        ({"temperature": 0}, ValueError, "`temperature` must be a finite number > 0"),
        ({"gate_dropout": 1.0}, ValueError, "`gate_dropout` must be .* <= 0.99, received 1.0"),
        ({"load_balancing": -1.0}, ValueError, "`load_balancing` must be a finite number >= 0"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        support.build("cgc", **options)


def test_a_task_named_as_the_shared_experts_is_refused():
    with pytest.raises(ValueError, match="A task must not be named 'shared'"):
        cgc(keras.Input((2,)), linear(), {"shared": summing(), "b": summing()})

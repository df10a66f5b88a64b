"""Experts that run as one batched product are those that run one by one."""

import keras
import numpy as np
import pytest

from keras_mtl.architectures._columns import Column
from keras_mtl.architectures._experts import DenseExperts, Experts, flat_dense, mix

X = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")


def dense_stages(**options):
    """A Sequential with an activation of its own and dropout, then a dense layer."""
    inner = [
        keras.Input((4,)),
        keras.layers.Dense(6, "tanh", **options),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(5, use_bias=False),
        keras.layers.LeakyReLU(0.2),
    ]
    return [keras.Sequential(inner), keras.layers.Dense(3, "softmax", name="last")]


def batched(stages, num_experts=3, first=0):
    """The layer of experts in one product, built."""
    experts = Experts(stages, num_experts, keras.Input((4,)), first=first)
    assert experts.stacked
    return experts.outputs[0]._keras_history.operation


def columns(stages, layer):
    """Experts one by one, with the values of the batched `layer`."""
    made = []
    for index in range(layer.num_experts):
        column = Column(stages, f"expert_{index}", index)
        column(keras.Input((4,)))
        variables = iter(layer.variables[: len(layer.kernels) + len(layer.biases)])
        values = {v.path.split("/")[-1]: v.numpy()[index] for v in variables}
        own = [v for stage in column.stages for v in stage.trainable_variables]
        for variable, value in zip(own, in_order(values), strict=True):
            variable.assign(value.reshape(variable.shape))
        made.append(column)
    return made


def in_order(values):
    """Kernel, then bias, of one layer after the other."""
    places = sorted({int(name.split("_")[1]) for name in values})
    names = [f"{part}_{place}" for place in places for part in ("kernel", "bias")]
    return [values[name] for name in names if name in values]


def stage_outputs(column, training=False):
    x = X
    for stage in column.stages:
        x = stage(x, training=training) if isinstance(stage, keras.Sequential) else stage(x)
    return np.asarray(x)


def test_batched_experts_compute_what_single_ones_do():
    stages = dense_stages(bias_initializer="normal")
    layer = batched(stages)
    single = [stage_outputs(column) for column in columns(stages, layer)]
    # Sums in another order.
    np.testing.assert_allclose(layer(X), np.stack(single, axis=1), rtol=1e-5, atol=1e-6)


def test_penalties_are_those_of_single_experts():
    stages = dense_stages(
        kernel_regularizer=keras.regularizers.L1L2(0.1, 0.2),
        bias_regularizer=keras.regularizers.L2(0.3),
        bias_initializer="ones",
    )
    layer = batched(stages)
    losses = [loss for c in columns(stages, layer) for stage in c.stages for loss in stage.losses]
    assert len(losses) == 2 * 3
    np.testing.assert_allclose(sum(layer.losses), sum(losses), rtol=1e-6)


def test_parameters_are_those_of_the_layers_for_each_expert():
    assert batched(dense_stages(), 7).count_params() == 7 * ((4 + 1) * 6 + 6 * 5 + (5 + 1) * 3)


@pytest.mark.parametrize("first", [True, False], ids=["of the inputs", "between"])
def test_dropout_is_drawn_for_each_expert_and_in_training_only(first):
    ones = keras.layers.Dense(50, kernel_initializer="identity")
    dropout = keras.layers.Dropout(0.5, seed=1)
    experts = Experts([dropout, ones] if first else [ones, dropout], 2, keras.Input((50,)))
    layer = experts.outputs[0]._keras_history.operation
    x = np.ones((1, 50), "float32")
    np.testing.assert_array_equal(layer(x), np.ones((1, 2, 50)))
    one, other = layer(x, training=True)[0].numpy()
    assert set(one) == set(other) == {0.0, 2.0}
    assert not np.array_equal(one, other)


def kernels(layer):
    return [kernel for values in layer.kernels for kernel in values.numpy()]


def seeded():
    initializer = keras.initializers.GlorotUniform(seed=3)
    return [keras.layers.Dense(4, kernel_initializer=initializer)]


def test_seeded_experts_differ_and_come_again():
    drawn = kernels(batched(seeded(), 4)) + kernels(batched(seeded(), 2, first=4))
    # All are of one shape, so that equal seeds would show.
    assert len(np.unique(np.reshape(drawn, (6, -1)), axis=0)) == 6
    again = kernels(batched(seeded(), 4)) + kernels(batched(seeded(), 2, first=4))
    np.testing.assert_array_equal(drawn, again)


def test_one_initializer_object_gives_experts_of_different_values():
    initializer = keras.initializers.RandomNormal()
    layer = batched([keras.layers.Dense(4, kernel_initializer=initializer)], 3)
    assert len(np.unique(np.reshape(kernels(layer), (3, -1)), axis=0)) == 3


def test_each_kernel_is_scaled_as_that_of_a_dense_layer():
    layer = batched([keras.layers.Dense(400, kernel_initializer="glorot_uniform")], 3)
    limit = np.sqrt(6 / (4 + 400))
    for kernel in kernels(layer):
        # Of 1600 uniform draws the largest is near the limit.
        assert 0.98 * limit < np.abs(kernel).max() <= limit


def test_batched_experts_keep_the_dtype_of_their_layers():
    experts = Experts([keras.layers.Dense(2, dtype="float16")], 2, keras.Input((4,)))
    assert experts.stacked
    assert experts.outputs[0].dtype == "float16"


def test_batched_experts_come_back_from_their_config():
    layer = batched(dense_stages())
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert isinstance(again, DenseExperts)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(X), layer(X))


def test_a_mask_over_rows_goes_along():
    ids = keras.Input((), dtype="int32")
    words = keras.layers.Embedding(3, 4, mask_zero=True)(ids)
    experts = Experts([keras.layers.Dense(2)], 2, words)
    weights = keras.layers.Dense(2)(words)
    found = keras.Model(ids, mix(weights, [experts], "mixture"))(np.array([1, 0]))
    np.testing.assert_array_equal(found._keras_mask, [True, False])


class Doubled(keras.layers.Dense):
    def call(self, x):
        return 2 * super().call(x)


def minus_mean(x):
    return x - keras.ops.mean(x, axis=0)


class Residual(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return inputs + super().call(inputs)


class Named(keras.Sequential):
    """A Sequential with nothing of its own but the name."""


def twos(shape, dtype=None):
    return 2 * keras.ops.ones(shape, dtype)


def frozen():
    layer = keras.layers.Dense(2)
    layer.trainable = False
    return layer


def functional():
    inputs = keras.Input((4,), name="inner")
    return keras.Model(inputs, Dense(2)(inputs))


Dense = keras.layers.Dense
ONE_BY_ONE = {
    "no dense layer": [keras.layers.ReLU()],
    "batch statistics": [Dense(2), keras.layers.BatchNormalization()],
    "a subclass": [Doubled(2)],
    "frozen": [frozen()],
    "a constraint": [Dense(2, kernel_constraint="non_neg")],
    "a penalty that is no sum": [Dense(2, kernel_regularizer="orthogonal_regularizer")],
    "a penalty on the output": [Dense(2, activity_regularizer="l2")],
    "a penalty between": [Dense(2), keras.layers.Activation("relu", activity_regularizer="l2")],
    "an activation of one's own": [Dense(2, minus_mean)],
    "an activation of one's own between": [Dense(2), keras.layers.Activation(minus_mean)],
    "an activation that is a layer": [Dense(2, keras.layers.PReLU())],
    "an activation that halves the channels": [Dense(2, "glu")],
    "a shape of the noise": [Dense(2), keras.layers.Dropout(0.5, noise_shape=(1, 2))],
    "several dtypes": [Dense(2), Dense(2, dtype="float16")],
    "a functional model": [functional()],
    "a call of its own": [Residual([Dense(4)])],
    "an initializer of one's own": [Dense(2, kernel_initializer=twos)],
    "values as initializer": [Dense(2, bias_initializer=np.ones(2))],
}


@pytest.mark.parametrize("stages", ONE_BY_ONE.values(), ids=ONE_BY_ONE.keys())
def test_other_trunks_run_one_by_one(stages):
    assert flat_dense(stages, keras.Input((4,))) is None


@pytest.mark.parametrize(
    "inputs",
    [
        keras.Input((3, 4)),
        [keras.Input((4,)), keras.Input((4,))],
        {"x": keras.Input((4,))},
        keras.Input((4,), sparse=True),
    ],
    ids=["positions", "list", "dict", "sparse"],
)
def test_on_other_inputs_experts_run_one_by_one(inputs):
    assert flat_dense([Dense(2)], inputs) is None


def test_a_sequential_without_a_call_of_its_own_is_one_product():
    assert flat_dense([Named([Dense(2)])], keras.Input((4,))) is not None


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (Residual([Dense(4, kernel_initializer="zeros")]), np.ones((1, 4))),
        (Dense(3, kernel_initializer=twos), np.full((1, 3), 8)),
    ],
    ids=["call", "initializer"],
)
def test_experts_are_what_their_trunk_is(stage, expected):
    inputs = keras.Input((4,))
    experts = Experts([stage], 2, inputs)
    for output in keras.Model(inputs, experts.outputs)(np.ones((1, 4))):
        np.testing.assert_array_equal(output, expected)


def test_experts_one_by_one_are_named_by_number():
    experts = Experts([Dense(2)], 2, keras.Input((3, 4)), "shared_expert")
    assert not experts.stacked
    names = [output._keras_history.operation.name for output in experts.outputs]
    assert names == ["shared_expert_0", "shared_expert_1"]


def test_a_layer_that_comes_twice_is_one_in_each_expert():
    stage, inputs = Dense(4, "tanh"), keras.Input((4,))
    experts = Experts([stage, stage], 2, inputs)
    model = keras.Model(inputs, experts.outputs)
    assert len(model.variables) == 2 * 2
    for found, copy in zip(model(X), model.layers[1:], strict=True):
        np.testing.assert_array_equal(found, copy(copy(X)))


def test_experts_that_copy_weights_run_one_by_one():
    stage = Dense(2)
    stage.build((None, 4))
    experts = Experts([stage], 2, keras.Input((4,)), copy_weights=True)
    for output in experts.outputs:
        copy = output._keras_history.operation
        assert copy.kernel is not stage.kernel
        np.testing.assert_array_equal(copy.kernel, stage.kernel)


def test_a_mixture_of_dicts_is_a_dict_of_mixtures():
    inputs = keras.Input((4,), name="inner")
    outputs = {"one": Dense(1, kernel_initializer="ones")(inputs), "same": inputs * 1.0}
    stage = keras.Model(inputs, outputs, name="stage")
    outer, weights = keras.Input((4,)), keras.Input((2,))
    mixed = mix(weights, [Experts([stage], 2, outer)], "digit_mixture")
    assert [x._keras_history.operation.name for x in mixed.values()] == [
        "digit_mixture_one",
        "digit_mixture_same",
    ]
    found = keras.Model([outer, weights], mixed)([X, np.tile([0.25, 0.5], (5, 1))])
    np.testing.assert_allclose(found["one"], 0.75 * X.sum(axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(found["same"], 0.75 * X, rtol=1e-6)


def test_numbers_that_cannot_be_mixed_are_refused():
    stages = [Dense(2), keras.layers.Discretization([0.0])]
    experts = Experts(stages, 2, keras.Input((4,)))
    with pytest.raises(
        ValueError, match=r"`trunk` must return floats, .* int32 of shape \(None, 2"
    ):
        mix(keras.Input((2,)), [experts], "digit_mixture")

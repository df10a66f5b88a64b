import architecture_support as support
import keras
import numpy as np
import pytest

from keras_mtl import Task, architectures
from keras_mtl.architectures.task_conditioned import ResidualAdapter
from keras_mtl.balancing import PCGrad
from keras_mtl.core.partition import Partition
from keras_mtl.heads import Regression

AFTER_STAGES = ("film", "residual_adapter", "low_rank")
CONDITIONS = (*AFTER_STAGES, "normalization")


def conditioned(condition="film", trunk=None, **options):
    """A model from two numbers, by default by two linear stages of two channels and one."""
    trunk = trunk or [keras.layers.Dense(2, name="wide"), keras.layers.Dense(1, name="narrow")]
    tasks = {"a": Regression(), "b": Regression()}
    inputs = keras.Input((2,), name="x")
    return architectures.task_conditioned(inputs, trunk, tasks, condition=condition, **options)


def assign(layer, **values):
    for name, value in values.items():
        variable = getattr(layer, name)
        variable.assign(np.reshape(value, variable.shape))


def outputs_of(model, name, x):
    return keras.Model(model.input, model.get_layer(name).output)(np.array(x)).numpy()


def test_film_by_hand():
    model = conditioned()
    assign(model.get_layer("wide"), kernel=[1, 0, 0, 1])
    assign(model.get_layer("narrow"), kernel=[1, 10])
    assign(model.get_layer("a_film_0"), gamma=[2, 3], beta=[1, 0])
    assign(model.get_layer("a_film_1"), gamma=[0.5], beta=[-1])
    assign(model.get_layer("b_film_1"), beta=[1])
    np.testing.assert_array_equal(outputs_of(model, "a_film_0", [[1.0, 2.0]]), [[3, 6]])
    np.testing.assert_array_equal(outputs_of(model, "a_film_1", [[1.0, 2.0]]), [[63 / 2 - 1]])
    np.testing.assert_array_equal(outputs_of(model, "b_film_1", [[1.0, 2.0]]), [[21 + 1]])


def test_low_rank_changes_the_weights_of_a_linear_stage():
    model = conditioned("low_rank", rank=1)
    kernel, a, b = np.array([[1.0, 2], [3, 4]]), np.array([[1.0], [2]]), np.array([[3.0, -1]])
    assign(model.get_layer("wide"), kernel=kernel)
    assign(model.get_layer("a_low_rank_0"), a=a, b=b)
    x = np.array([[1.0, 2.0], [0.0, -1.0]])
    found = outputs_of(model, "a_low_rank_0", x)
    np.testing.assert_allclose(found, x @ (kernel + kernel @ a @ b), rtol=1e-6)
    np.testing.assert_allclose(found[0], [7 + 27 * 3, 10 - 27], rtol=1e-6)


def test_residual_adapter_by_hand():
    model = conditioned("residual_adapter")
    adapter = model.get_layer("a_residual_adapter_0")
    assign(model.get_layer("wide"), kernel=[1, 0, 0, 1])
    assign(adapter, kernel=[0, 1, 10, 0])
    epsilon = adapter.normalization.epsilon
    assign(adapter.normalization, moving_mean=[1, 2], moving_variance=[4 - epsilon, 1 - epsilon])
    # (5, 4) normalised is (2, 2).
    found = outputs_of(model, "a_residual_adapter_0", [[5.0, 4.0]])
    np.testing.assert_allclose(found, [[5 + 20, 4 + 2]], rtol=1e-6)


def test_residual_adapters_leave_padding_out_of_their_statistics():
    adapter = ResidualAdapter()
    adapter.build((None, None, 1))
    steps = np.array([[[1.0], [3.0], [100.0]]], "float32")
    adapter(steps, mask=np.array([[True, True, False]]), training=True)
    momentum = adapter.normalization.momentum
    np.testing.assert_allclose(
        adapter.normalization.moving_mean.numpy(), [(1 - momentum) * 2], rtol=1e-5
    )


def with_statistics(stages):
    """Gives normalizations of built stages values unlike those they start with."""
    random = np.random.default_rng(0)
    for stage in stages:
        for layer in stage._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization | keras.layers.LayerNormalization):
                layer.set_weights([random.uniform(0.5, 2, w.shape) for w in layer.get_weights()])


@pytest.mark.parametrize("kind", ["convolutional", "transformer"])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_at_the_start_it_is_hard_sharing(condition, kind):
    inputs, trunk = support.inputs_and_trunk(kind, "one")
    hard = architectures.hard_sharing(inputs, trunk, support.tasks())
    with_statistics(trunk)
    model = architectures.task_conditioned(inputs, trunk, support.tasks(), condition=condition)
    for name in ("first_tower", "first", "second"):
        model.get_layer(name).set_weights(hard.get_layer(name).get_weights())
    x, _ = support.data(hard)
    for task, expected in support.predictions(hard, x).items():
        # float32 sums of one order, of matrices of 0 or of copies
        np.testing.assert_allclose(support.predictions(model, x)[task], expected, rtol=1e-6)


HEADS = (6 + 1) * 5 + (5 + 1) + (6 + 1)
CONVOLUTIONS = (3 * 3 * 2 + 1) * 4 + (3 * 3 * 4 + 1) * 6
STATISTICS = 4 * 4 + 4 * 6


@pytest.mark.parametrize(
    ("condition", "once", "a_task"),
    [
        ("film", STATISTICS, 2 * 4 + 2 * 6),
        ("residual_adapter", STATISTICS, 4**2 + 4 * 4 + 6**2 + 4 * 6),
        ("low_rank", STATISTICS, 2 * 4 * 3 + 2 * 6 * 3),
        ("normalization", 0, STATISTICS),
    ],
)
def test_parameters_of_a_convolutional_trunk(condition, once, a_task):
    options = {"condition": condition, "rank": 3}
    model = support.build("task_conditioned", "convolutional", **options)
    assert model.count_params() == CONVOLUTIONS + once + 2 * a_task + HEADS


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_trunk_is_shared_and_all_else_is_private(condition):
    inputs, trunk = support.inputs_and_trunk("convolutional", "one")
    model = architectures.task_conditioned(inputs, trunk, support.tasks(), condition=condition)
    partition = Partition(model, dict(model.output))
    expected = {id(v) for stage in trunk for v in stage.trainable_variables}
    if condition == "normalization":
        convolutions = [stage.layers[0] for stage in trunk]
        expected = {id(v) for layer in convolutions for v in layer.trainable_variables}
    variables = model.trainable_variables
    assert {id(v) for v in partition.shared(variables)} == expected
    for task in ("first", "second"):
        private = partition.private(variables, task)
        assert private
        assert all(v.path.startswith(task) for v in private)
    assert partition.cuts == []


def test_without_features_to_balance_compile_warns():
    model = conditioned()
    with pytest.warns(UserWarning, match=r"no tensor where the shared part ends; use scope='par"):
        model.compile("sgd", gradient_balancing=PCGrad(scope="features"))
    model.compile("sgd", gradient_balancing="pcgrad")


def test_features_of_a_stem_alone_make_compile_warn():
    model = support.build("task_conditioned", given="stem")
    partition = Partition(model, dict(model.output))
    assert [cut._keras_history.operation.name for cut in partition.cuts] == ["stem"]
    with pytest.warns(UserWarning, match=r"nothing to balance in 6 of 8 .*'stage1/kernel'"):
        model.compile("sgd", gradient_balancing=PCGrad(scope="features"))


def masked_scales():
    """Two stages, of which the second returns two tensors of floats and a mask."""
    inputs = keras.Input((2,), name="trunk_input")
    outputs = {"small": inputs[:, :1], "large": inputs * 2.0, "positive": inputs > 0.0}
    return [keras.layers.Dense(2, name="wide"), keras.Model(inputs, outputs, name="scales")]


def test_each_entry_of_a_dict_is_conditioned_but_no_mask():
    tasks = {task: Task(Regression(), features=task) for task in ("small", "large")}
    model = architectures.task_conditioned(keras.Input((2,), name="x"), masked_scales(), tasks)
    names = [layer.name for layer in model.layers if "film" in layer.name]
    scales = ("small", "large")
    expected = {f"{task}_film_0" for task in scales} | {f"{task}_film_1_{task}" for task in scales}
    assert set(names) == expected


@pytest.mark.parametrize("condition", CONDITIONS[1:])
def test_a_model_file_and_a_clone_predict_the_same(condition, tmp_path):
    model = support.build("task_conditioned", "convolutional", condition=condition)
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.1, 0.5, w.shape) for w in model.get_weights()])
    x, _ = support.data(model)
    model.save(tmp_path / "model.keras")
    clone = model.clone()
    clone.set_weights(model.get_weights())
    for again in (keras.models.load_model(tmp_path / "model.keras"), clone):
        for task, expected in support.predictions(model, x).items():
            np.testing.assert_array_equal(support.predictions(again, x)[task], expected)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("low_rank", "normalization")]


@pytest.mark.parametrize("condition", ["residual_adapter", *SLOW])
def test_in_mixed_precision_every_variable_trains(condition):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = support.build("task_conditioned", "convolutional", condition=condition)
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(keras.optimizers.Adam(1e-2))
    before = [variable.numpy() for variable in model.trainable_variables]
    x, y = support.data(model)
    model.fit(x, y, batch_size=8, epochs=3, verbose=0)
    for variable, values in zip(model.trainable_variables, before, strict=True):
        assert not np.array_equal(variable.numpy(), values), variable.path
        assert np.all(np.isfinite(variable.numpy()))


def trained(**arguments):
    """The weights of a model with an own layer normalization a task, after four steps."""
    keras.utils.set_random_seed(0)
    trunk = [keras.layers.Dense(4), keras.layers.LayerNormalization(), keras.layers.ReLU()]
    model = conditioned("normalization", trunk=keras.Sequential(trunk))
    model.compile(keras.optimizers.SGD(0.1), **arguments)
    x = np.random.default_rng(0).normal(size=(16, 2))
    labels = {"a": x[:, :1], "b": x[:, 1:]}
    model.fit(x, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.slow
def test_replicas_and_xla_train_as_one_device_does(strategy):
    alone, compiled = trained(), trained(jit_compile=True)
    with strategy.scope():
        together = trained()
    for expected, *found in zip(alone, compiled, together, strict=True):
        for values in found:
            # sums in another order
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)


def test_normalizations_inside_models_are_made_anew():
    inner = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(name="inner")])
    inputs = keras.Input((2,), name="block_input")
    dense = keras.layers.Dense(2, name="dense")
    block = keras.Model(inputs, dense(inner(inputs)) + inputs, name="block")
    model = conditioned("normalization", trunk=block)
    assert model.get_layer("dense") is dense
    assert "inner" not in [layer.name for layer in model.layers]
    model(np.full((4, 2), 5.0), training=True)
    for task in ("a", "b"):
        mean = model.get_layer(f"{task}_inner").moving_mean.numpy()
        np.testing.assert_allclose(mean, 0.01 * 5.0, rtol=1e-5)


def test_a_single_layer_has_no_stages_to_condition():
    with pytest.raises(ValueError, match="`trunk` of task_conditioned must be a list of stages"):
        conditioned(trunk=keras.layers.Dense(2))


def test_an_unknown_condition_is_refused():
    with pytest.raises(ValueError, match=r"`condition` must be one of \['film', .* Did you mean"):
        conditioned("fiml")


def test_rank_0_is_refused():
    with pytest.raises(ValueError, match="`rank` must be an integer >= 1, received 0"):
        conditioned("low_rank", rank=0)


def test_a_trunk_without_normalizations_is_refused():
    with pytest.raises(ValueError, match=r"needs a trunk with normalizations .*'wide', 'narrow'"):
        conditioned("normalization")


def test_normalizations_that_cannot_be_reached_are_named():
    class Hidden(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="hidden")
            self.normalization = keras.layers.LayerNormalization()

        def call(self, x):
            return self.normalization(x)

    trunk = keras.Sequential([keras.layers.Dense(2), Hidden()])
    with pytest.raises(ValueError, match="cannot reach the normalizations in 'hidden' of type Hid"):
        conditioned("normalization", trunk=trunk)


def test_an_unknown_number_of_channels_is_refused():
    inputs = keras.Input((None,), name="words")
    stages = [keras.layers.Activation("relu", name="first"), keras.layers.Activation("relu")]
    with pytest.raises(ValueError, match="known number of channels, stage 'first' returns"):
        architectures.task_conditioned(inputs, stages, {"a": Regression()})

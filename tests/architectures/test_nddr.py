import architecture_support as support
import keras
import numpy as np
import pytest

from keras_mtl import Task
from keras_mtl.architectures import nddr
from keras_mtl.architectures.nddr import Fusion
from keras_mtl.core.partition import Partition
from keras_mtl.heads import Regression

# What batch normalization does before it has seen a batch: mean 0, variance 1, epsilon 0.001.
FRESH = 1 / np.sqrt(1.001)


def identity(units, **kwargs):
    """A stage that returns its input."""
    return keras.layers.Dense(units, kernel_initializer="identity", use_bias=False, **kwargs)


def raw():
    """A head that returns its features."""
    return Task(keras.layers.Identity(), loss="mse")


def test_a_task_begins_with_its_own_features_and_some_of_the_others():
    trunk = [identity(2, name="s1"), identity(2, name="s2")]
    model = nddr(keras.Input((2,)), trunk, {"a": raw(), "b": raw()})
    model.get_layer("a_s1").kernel.assign([[1, 0], [0, 1]])
    model.get_layer("b_s1").kernel.assign([[0, 3], [2, 0]])
    found = support.predictions(model, np.array([[1.0, 2.0]]))
    # Columns return (1, 2) and (4, 3), then 0.9 of the own and 0.1 of the other, twice.
    a, b = np.array([1.0, 2.0]), np.array([4.0, 3.0])
    for _ in range(2):
        a, b = (0.9 * a + 0.1 * b) * FRESH, (0.1 * a + 0.9 * b) * FRESH
    np.testing.assert_allclose(found["a"], [a], rtol=1e-6)
    np.testing.assert_allclose(found["b"], [b], rtol=1e-6)


@pytest.mark.parametrize(
    ("activation", "expected"), [("relu", [[0.0, 3.0]]), (None, [[-7.0, 3.0]])]
)
def test_fusion_is_a_product_over_the_joined_channels(activation, expected):
    fusion = Fusion([1.0, 0.0], activation)
    inputs = [np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])]
    fusion(inputs)
    # Rows are own channels 1 and 2, then the other's: -2 * 4 + 1 and 3 in all.
    fusion.kernel.assign([[1, 0], [0, 0], [0, 1], [-2, 0]])
    np.testing.assert_allclose(fusion(inputs), np.array(expected) * FRESH, rtol=1e-6)


def test_beta_is_divided_among_the_other_tasks():
    tasks = {"a": raw(), "b": raw(), "c": raw()}
    model = nddr(keras.Input((1,)), [identity(1, name="s")], tasks, alpha=0.5, beta=0.4)
    kernel = model.get_layer("b_fusion_0").kernel
    np.testing.assert_allclose(kernel, [[0.2], [0.5], [0.2]], rtol=1e-6)


def test_without_other_features_the_tasks_are_apart():
    trunk = support.dense_stages()
    apart = nddr(keras.Input((6,)), trunk, support.tasks(), alpha=1.0, beta=0.0)
    x = np.ones((2, 6), dtype="float32")
    before = support.predictions(apart, x)
    for variable in apart.get_layer("second_stage1").variables:
        variable.assign(variable + 1.0)
    after = support.predictions(apart, x)
    np.testing.assert_array_equal(before["first"], after["first"])
    assert not np.array_equal(before["second"], after["second"])


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_parameters_are_as_documented(kind):
    model = support.build("nddr", kind)
    trunk, channels = {
        "dense": ((6 + 1) * 8 + (8 + 1) * 7 + (7 + 1) * 6, [8, 7, 6]),
        "convolutional": ((2 * 9 + 1) * 4 + 4 * 4 + (4 * 9 + 1) * 6 + 4 * 6, [4, 6]),
    }[kind]
    fusions = sum(2 * (2 * c * c + 4 * c) for c in channels)
    towers_and_heads = (6 + 1) * 5 + (5 + 1) + (6 + 1)
    assert model.count_params() == 2 * trunk + fusions + towers_and_heads


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_the_last_fusions_are_private_and_sharing_ends_at_the_columns(kind):
    model = support.build("nddr", kind)
    last = len(support.stages(kind)) - 1
    partition = Partition(model, dict(model.output))
    variables = model.trainable_variables
    shared = {v.path.split("/")[0] for v in partition.shared(variables)}
    tasks, stages = ("first", "second"), range(last + 1)
    columns = {f"{task}_stage{index + 1}" for task in tasks for index in stages}
    assert shared == columns | {f"{t}_fusion_{index}" for t in tasks for index in stages[:-1]}
    for task, own in {"first": {"first", "first_tower"}, "second": {"second"}}.items():
        private = {v.path.split("/")[0] for v in partition.private(variables, task)}
        assert private == {f"{task}_fusion_{last}", *own}
    cuts = {cut._keras_history.operation.name for cut in partition.cuts}
    assert cuts == {f"{task}_stage{last + 1}" for task in tasks}


def test_padding_is_not_in_the_statistics_of_the_batch():
    fusion = Fusion([1.0, 0.0])
    mask = keras.ops.convert_to_tensor([[True, True, False]])
    x = np.array([[[1.0], [3.0], [100.0]]], dtype="float32")
    fusion([x, x], mask=[mask, mask], training=True)
    # Mean 2 of the two steps; 0.05 of it after one batch.
    np.testing.assert_allclose(fusion.normalization.moving_mean, [0.1], rtol=1e-5)


def test_a_mask_over_images_in_a_sequence_covers_all_their_pixels():
    fusion = Fusion([1.0, 0.0])
    mask = keras.ops.convert_to_tensor([[True, False]])
    x = np.stack([np.full((2, 2, 1), 4.0), np.full((2, 2, 1), 100.0)])[None].astype("float32")
    fusion([x, x], mask=[mask, mask], training=True)
    np.testing.assert_allclose(fusion.normalization.moving_mean, [0.2], rtol=1e-5)


def test_the_regularizer_is_of_every_fusion():
    trunk = [identity(2, name="s1"), identity(2, name="s2")]
    tasks = {"a": raw(), "b": raw()}
    model = nddr(keras.Input((2,)), trunk, tasks, kernel_regularizer=keras.regularizers.L2(0.5))
    # Each of the four kernels has 0.9 and 0.1 twice.
    np.testing.assert_allclose(sum(model.losses), 4 * 0.5 * 2 * (0.81 + 0.01), rtol=1e-6)


def test_variables_have_the_same_names_in_every_build():
    builds = [support.build("nddr") for _ in range(2)]
    first, second = ([v.path for v in model.variables if "fusion" in v.path] for model in builds)
    assert first == second


def test_one_task_is_fused_with_none():
    model = nddr(keras.Input((2,)), [identity(2, name="s")], {"a": raw()}, alpha=1.0)
    found = support.predictions(model, np.array([[1.0, 2.0]]))["a"]
    np.testing.assert_allclose(found, [[FRESH, 2 * FRESH]], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alpha": -0.1}, ValueError, "`alpha` must be a finite number >= 0"),
        ({"beta": float("nan")}, ValueError, "`beta` must be a finite number >= 0"),
        ({"alpha": "large"}, TypeError, "`alpha` must be a finite number >= 0"),
        ({"alpha": 0, "beta": 0}, ValueError, "`alpha` and `beta` must not both be 0"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        support.build("nddr", **options)


def test_a_trunk_without_stages_is_refused():
    with pytest.raises(ValueError, match="`trunk` of nddr must be a list of stages"):
        nddr(keras.Input((2,)), keras.layers.Dense(2), support.tasks())


def two_outputs():
    inputs = keras.Input((None, 2))
    return keras.Model(inputs, {"left": inputs + 0.0, "right": inputs * 2.0})


@pytest.mark.parametrize(
    ("stage", "found"),
    [
        (keras.layers.Flatten, r"returns float32 of shape \(None, None\)"),
        (two_outputs, r"returns a dict with the entries \['left', 'right'\]"),
        (lambda: keras.layers.Discretization([0.0]), "returns int32 of shape"),
    ],
)
def test_features_that_cannot_be_mixed_are_refused(stage, found):
    with pytest.raises(ValueError, match=f"Stages of nddr must return .* {found}"):
        nddr(keras.Input((None, 2)), [stage()], {"a": Regression(), "b": Regression()})

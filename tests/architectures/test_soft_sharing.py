import architecture_support as support
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_mtl import Task, architectures
from keras_mtl.architectures.soft_sharing import squared_distances, trace_norm
from keras_mtl.core.partition import Partition
from keras_mtl.heads import Regression

NORMS = ("l2", "trace")
# What smoothing takes from singular values, and rounding of eigenvalues in float32 adds.
SMOOTHED = 5e-5


def tied(tasks=("a", "b"), trunk=None, inputs=2, **options):
    """A model of one dense stage a task, `<task>_column`, by default from two numbers to one."""
    source = keras.Input((inputs,), name="x")
    trunk = trunk or keras.layers.Dense(1, name="stage")
    heads = {task: Regression() for task in tasks}
    return architectures.soft_sharing(source, trunk, heads, **options)


def set_columns(model, **values):
    for task, (kernel, bias) in values.items():
        column = model.get_layer(f"{task}_column")
        column.kernel.assign(np.reshape(kernel, column.kernel.shape))
        column.bias.assign([bias])


def penalty(model):
    return float(model.losses[0])


def test_l2_penalty_by_hand():
    model = tied(strength=0.1)
    set_columns(model, a=([1, 2], 0.5), b=([3, 5], 0))
    assert penalty(model) == pytest.approx(0.1 * (2**2 + 3**2 + 0.5**2), rel=1e-6)


def test_l2_penalty_of_three_tasks_is_over_all_pairs():
    model = tied("abc", strength=2.0)
    set_columns(model, a=([0, 1], 1), b=([1, 1], 1), c=([3, 1], 1))
    assert penalty(model) == pytest.approx(2 * (1**2 + 3**2 + 2**2), rel=1e-6)


def test_trace_penalty_by_hand_leaves_out_biases():
    model = tied(strength=0.1, norm="trace")
    # [[3, 0], [0, 4]] has the singular values 3 and 4.
    set_columns(model, a=([3, 0], 7), b=([0, 4], -9))
    assert penalty(model) == pytest.approx(0.1 * 7, rel=SMOOTHED)
    # [[3, 4], [3, 4]] has sqrt(2) 5 and 0.
    set_columns(model, a=([3, 4], 7), b=([3, 4], -9))
    assert penalty(model) == pytest.approx(0.1 * 2**0.5 * 5, rel=SMOOTHED)


def test_a_stage_that_comes_twice_is_tied_once():
    stage = keras.layers.Dense(1, use_bias=False, name="stage")
    model = tied(trunk=[stage, stage], inputs=1, strength=1.0)
    for task, kernel in {"a": 1.0, "b": 4.0}.items():
        model.get_layer(f"{task}_stage").kernel.assign([[kernel]])
    assert penalty(model) == (4.0 - 1.0) ** 2


def value_and_gradient(function, stacked, compiled=False):
    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return value, tape.gradient(value, x)

    both = tf.function(both, jit_compile=True) if compiled else both
    return [part.numpy() for part in both(tf.constant(stacked, "float32"))]


@pytest.mark.parametrize(("scale", "compiled"), [(1e-10, False), (1e10, False), (1e10, True)])
def test_trace_norm_is_that_of_singular_values(scale, compiled):
    rows = np.random.default_rng(0).normal(size=(3, 4, 5))
    left, values, right = np.linalg.svd(rows.reshape(3, -1), full_matrices=False)
    value, gradient = value_and_gradient(trace_norm, scale * rows, compiled)
    np.testing.assert_allclose(value, scale * values.sum(), rtol=SMOOTHED)
    np.testing.assert_allclose(gradient.reshape(3, -1), left @ right, atol=SMOOTHED)


@pytest.mark.parametrize("scale", [0.0, 1e-10, 1.0, 1e10])
@pytest.mark.parametrize("penalty", [squared_distances, trace_norm])
@pytest.mark.parametrize("signs", [[1, 1, 1], [1, -1, 1], [0, 0, 1]])
def test_gradients_are_finite_at_equal_opposite_and_no_weights(signs, penalty, scale):
    row = np.random.default_rng(0).normal(size=(4, 5))
    rows = scale * np.stack([sign * row for sign in signs])
    value, gradient = value_and_gradient(penalty, rows)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    if penalty is trace_norm:
        # The polar factor of rank one: a row a task, sign * row / norm.
        unit = np.sqrt(np.sum(rows**2)) or 1
        np.testing.assert_allclose(gradient, rows / unit, atol=SMOOTHED)


def test_weights_that_are_not_finite_give_a_penalty_that_is_not():
    assert np.isnan(trace_norm(tf.constant([[[np.nan, 1.0]], [[1.0, 1.0]]])))


def test_strength_0_is_single_task_training():
    trunk, inputs = support.dense_stages(), keras.Input((6,), name="x")
    model = architectures.soft_sharing(inputs, trunk, support.tasks(), strength=0)
    x, y = support.data(model)
    assert model.losses == []
    alone = {}
    for task, head in support.tasks().items():
        single = architectures.hard_sharing(inputs, support.dense_stages(), {task: head})
        single.set_weights(model.task_model(task).get_weights())
        single.compile(keras.optimizers.SGD(0.1))
        single.fit(x, {task: y[task]}, batch_size=8, epochs=3, shuffle=False, verbose=0)
        alone[task] = single
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    for task, single in alone.items():
        values = model.task_model(task).get_weights()
        for value, expected in zip(values, single.get_weights(), strict=True):
            np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6)


def step_of_the_penalty(model, epochs=1, **arguments):
    """Takes steps of size 0.1 on the penalty alone, and returns the kernels of both tasks."""
    none = dict.fromkeys(model.output, 0.0)
    model.compile(keras.optimizers.SGD(0.1), loss_weights=none, **arguments)
    labels = {task: np.ones((4, 1)) for task in none}
    model.fit(np.ones((4, 2)), labels, epochs=epochs, verbose=0)
    return [model.get_layer(f"{task}_column").kernel.numpy().ravel() for task in none]


# Of (1, 2) and (3, 6), strength 0.5: one step of 0.1 * 0.5 * 2 times the difference, to each other.
PULLED = [[1.2, 2.4], [2.8, 5.6]]


def test_the_penalty_pulls_columns_together():
    model = tied(strength=0.5)
    set_columns(model, a=([1, 2], 0), b=([3, 6], 0))
    np.testing.assert_allclose(step_of_the_penalty(model), PULLED, rtol=1e-6)


def test_two_replicas_pull_as_one_device_does(strategy):
    with strategy.scope():
        model = tied(strength=0.5)
    set_columns(model, a=([1, 2], 0), b=([3, 6], 0))
    np.testing.assert_allclose(step_of_the_penalty(model), PULLED, rtol=1e-6)


@pytest.mark.slow
def test_compiled_it_pulls_as_uncompiled():
    found = []
    for jit_compile in (False, True):
        model = tied(strength=0.5, norm="trace")
        set_columns(model, a=([1, 2], 0), b=([3, 5], 0))
        found.append(step_of_the_penalty(model, jit_compile=jit_compile))
    np.testing.assert_allclose(found[0], found[1], rtol=SMOOTHED)


def test_the_trace_norm_lowers_the_smaller_singular_value_to_0():
    model = tied(strength=0.5, norm="trace")
    set_columns(model, a=([1, 0.2], 0), b=([1, -0.2], 0))
    kernels = step_of_the_penalty(model, epochs=6)
    # Each of the singular values falls by 0.05 a step until it is 0, from sqrt(2) and 0.2 sqrt(2).
    values = np.linalg.svd(kernels, compute_uv=False)
    np.testing.assert_allclose(values, [2**0.5 - 0.3, 0], atol=0.02)


def test_under_mixed_precision_the_penalty_is_float32():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = tied(strength=1.0)
    finally:
        keras.config.set_dtype_policy("float32")
    set_columns(model, a=([1, 0], 0), b=([301, 0], 0))
    model(np.ones((1, 2)))
    assert penalty(model) == 300.0**2  # above the largest number of float16
    assert model.losses[0].dtype == "float32"


@pytest.mark.parametrize("copy", ["clone", "clone_model", "file"])
@pytest.mark.parametrize("norm", NORMS)
def test_copies_keep_the_penalty(copy, norm, tmp_path):
    model = tied(strength=0.1, norm=norm)
    model.compile("sgd")
    if copy == "clone":
        again = model.clone()
    elif copy == "clone_model":
        again = keras.models.clone_model(model)
    else:
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
    again.set_weights(model.get_weights())
    assert penalty(again) == penalty(model) > 0


def test_inside_another_model_the_penalty_counts():
    model = tied(strength=0.1)
    outer = keras.Model(model.input, model(model.input)["a"])
    assert float(sum(outer.losses)) == penalty(model)


def test_a_model_of_one_task_has_its_own_column_alone():
    model = tied(strength=0.1)
    assert model.task_model("a").count_params() == 3 + 2
    assert model.task_model("a").losses == []


def test_evaluate_adds_the_penalty():
    model = tied(strength=0.1)
    model.compile("sgd")
    labels = {"a": np.ones((4, 1)), "b": np.ones((4, 1))}
    logs = model.evaluate(np.ones((4, 2)), labels, return_dict=True, verbose=0)
    expected = logs["a_loss"] + logs["b_loss"] + penalty(model)
    assert logs["loss"] == pytest.approx(expected, rel=1e-6)


def test_parameters_of_a_convolutional_trunk():
    model = support.build("soft_sharing", "convolutional")
    trunk = (3 * 3 * 2 + 1) * 4 + 4 * 4 + (3 * 3 * 4 + 1) * 6 + 4 * 6
    assert model.count_params() == 2 * trunk + (6 + 1) * 5 + (5 + 1) + (6 + 1)


def test_batch_statistics_are_not_tied():
    model = support.build("soft_sharing", "convolutional", strength=1.0)
    before = penalty(model)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(ops.full(layer.moving_mean.shape, 100.0 * before))
    assert penalty(model) == before


def test_a_frozen_column_pulls_the_others():
    model = tied(strength=0.5)
    model.get_layer("a_column").trainable = False
    set_columns(model, a=([1, 2], 0), b=([3, 6], 0))
    np.testing.assert_allclose(step_of_the_penalty(model), [[1, 2], PULLED[1]], rtol=1e-6)
    model.get_layer("b_column").trainable = False
    assert penalty(model) == 0


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_trunk_may_return_a_dict():
    inputs = keras.Input((3,), name="trunk_input")
    small = keras.layers.Dense(2, name="small")(inputs)
    large = keras.layers.Dense(4, name="large")(small)
    trunk = keras.Model(inputs, {"small": small, "large": large}, name="trunk")
    tasks = {task: Task(Regression(), features=task) for task in ("small", "large")}
    model = architectures.soft_sharing(keras.Input((3,), name="x"), trunk, tasks)
    assert model.count_params() == 2 * (4 * 2 + 3 * 4) + (2 + 1) + (4 + 1)
    assert penalty(model) > 0


def partition_of(model):
    return Partition(model, dict(model.output))


def test_a_stem_is_shared_and_ends_sharing():
    model = support.build("soft_sharing", given="stem")
    partition = partition_of(model)
    shared = partition.shared(model.trainable_variables)
    assert [v.path for v in shared] == ["stem/kernel", "stem/bias"]
    assert [cut._keras_history.operation.name for cut in partition.cuts] == ["stem"]
    for task, own in {"first": 2 * 5, "second": 2 * 4}.items():
        private = partition.private(model.trainable_variables, task)
        assert len(private) == own
        assert all(v.path.startswith(task) for v in private)


def test_without_a_stem_there_is_nothing_to_balance():
    model = tied()
    assert partition_of(model).shared(model.trainable_variables) == []
    assert partition_of(model).cuts == []
    with pytest.warns(UserWarning, match="nothing to balance: no trainable variable is shared"):
        model.compile("sgd", gradient_balancing="pcgrad")


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match=r"`norm` must be one of \['l2', 'trace'\], received 'l1'"):
        tied(norm="l1")


def test_a_negative_strength_is_refused():
    with pytest.raises(
        ValueError, match=r"`strength` must be a .* >= 0, received -1\.0 of type float\.$"
    ):
        tied(strength=-1.0)


@pytest.mark.parametrize("copy_weights", [False, True])
def test_columns_keep_what_the_trunk_has_adapted_to(copy_weights, tmp_path):
    x = np.float32([[1, 2], [3, 6]])
    normalization = keras.layers.Normalization()
    normalization.adapt(x)
    ones = keras.layers.Dense(1, kernel_initializer="ones")
    trunk = keras.Sequential([keras.Input((2,)), normalization, ones])
    model = tied(trunk=trunk, copy_weights=copy_weights)
    # Means 2 and 4, standard deviations 1 and 2: rows of -1 and 1, of which the sums are taken.
    np.testing.assert_allclose(model.get_layer("a_column")(x), [[-2], [2]], rtol=1e-6)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x)["b"], model(x)["b"])

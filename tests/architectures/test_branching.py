import keras
import numpy as np
import pytest

from keras_mtl import Task
from keras_mtl.architectures import branching, hard_sharing
from keras_mtl.core.partition import Partition
from keras_mtl.heads import Classification, Regression

ALL = ["a", "b", "c"]
TREE = [[ALL], [["a", "b"], ["c"]], [["a"], ["b"], ["c"]]]
LEAVING = [[ALL], [["b", "c"]], [["c"]]]


def scaling(factor, name):
    """A dense stage that multiplies one number."""
    initializer = keras.initializers.Constant(factor)
    return keras.layers.Dense(1, use_bias=False, kernel_initializer=initializer, name=name)


def scales():
    return [scaling(factor, f"by{factor}") for factor in (2, 3, 5)]


def heads(tasks=ALL):
    """Heads that return the sum of their features."""
    return {task: Regression(kernel_initializer="ones") for task in tasks}


def layer_names(model):
    return {layer.name for layer in model.layers} - {"x", *ALL}


def build(groups, trunk=None, tasks=ALL, **kwargs):
    inputs = keras.Input((1,), name="x")
    return branching(inputs, trunk or scales(), heads(tasks), groups=groups, **kwargs)


def test_each_task_runs_the_stages_of_its_groups():
    model = build(TREE)
    # Copies draw from the same constants, until each gets a factor of its own.
    for name, factor in {"a_by3": 7.0, "a_by5": 11.0, "c_by5": 13.0}.items():
        model.get_layer(name).kernel.assign([[factor]])
    predictions = {task: value.numpy().item() for task, value in model(np.ones((1, 1))).items()}
    assert predictions == {"a": 2 * 7 * 11, "b": 2 * 7 * 5, "c": 2 * 3 * 13}


def test_a_task_that_is_left_out_of_a_stage_leaves_the_trunk():
    predictions = build(LEAVING)(np.ones((1, 1)))
    assert {task: value.numpy().item() for task, value in predictions.items()} == {
        "a": 2,
        "b": 2 * 3,
        "c": 2 * 3 * 5,
    }


def test_stages_of_one_group_are_the_trunks_own_and_others_are_named_after_a_task():
    trunk = scales()
    model = build(TREE, trunk)
    assert layer_names(model) == {"by2", "a_by3", "c_by3", "a_by5", "b_by5", "c_by5"}
    assert model.get_layer("by2") is trunk[0]
    trunk = scales()
    model = build(LEAVING, trunk)
    assert all(model.get_layer(stage.name) is stage for stage in trunk)


def test_by_default_each_task_has_the_last_stage_for_itself():
    assert layer_names(build(None)) == {"by2", "by3", "a_by5", "b_by5", "c_by5"}


def test_parameters_are_each_stage_times_its_groups():
    trunk = [
        keras.layers.Conv2D(4, 3, name="stage1"),
        keras.layers.Conv2D(6, 3, name="stage2"),
        keras.layers.Conv2D(5, 3, name="stage3"),
    ]
    tasks = {"a": Task(Regression(), tower=keras.layers.Dense(7))}
    tasks |= {"b": Regression(), "c": Classification(3)}
    model = branching(keras.Input((9, 9, 2)), trunk, tasks, groups=TREE)
    stages = (9 * 2 + 1) * 4, (9 * 4 + 1) * 6, (9 * 6 + 1) * 5
    own = (5 + 1) * 7 + (7 + 1) + (5 + 1) + (5 + 1) * 3
    assert model.count_params() == stages[0] + 2 * stages[1] + 3 * stages[2] + own


def partition_of(model):
    partition = Partition(model, dict(model.output))
    variables = model.trainable_variables
    named = {"shared": partition.shared(variables)}
    named |= {task: partition.private(variables, task) for task in ALL}
    cuts = [cut._keras_history.operation.name for cut in partition.cuts]
    return {key: [v.path.split("/")[0] for v in found] for key, found in named.items()}, cuts


def test_sharing_ends_where_tasks_part():
    variables, cuts = partition_of(build(TREE))
    assert variables == {
        "shared": ["by2", "a_by3"],
        "a": ["a_by5", "a", "a"],
        "b": ["b_by5", "b", "b"],
        "c": ["c_by3", "c_by5", "c", "c"],
    }
    assert cuts == ["by2", "a_by3"]


def test_sharing_ends_where_tasks_leave():
    variables, cuts = partition_of(build(LEAVING))
    assert variables["shared"] == ["by2", "by3"]
    assert variables["c"] == ["by5", "c", "c"]
    assert cuts == ["by2", "by3"]


def test_one_group_a_stage_is_hard_sharing():
    trunk = [
        keras.layers.Dense(4, activation="relu", name="stage1"),
        keras.layers.Dense(3, name="stage2"),
    ]
    inputs = keras.Input((5,))
    model = branching(inputs, trunk, heads(), groups=[[ALL], [ALL]])
    other = hard_sharing(inputs, trunk, heads())
    x = keras.random.normal((2, 5))
    assert [v.path for v in model.variables] == [v.path for v in other.variables]
    assert [v is w for v, w in zip(model.variables, other.variables, strict=True)][:4] == [True] * 4
    for task, expected in other(x).items():  # the heads are ones
        np.testing.assert_array_equal(model(x)[task], expected)


def test_rebuilt_stages_start_from_other_values_although_seeded():
    seeded = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    model = build([[["a"], ["b", "c"]]], [seeded])
    first, second = (model.get_layer(f"{task}_{seeded.name}").kernel for task in ("a", "b"))
    assert not np.any(np.isclose(first, second))


def test_rebuilt_stages_may_start_from_the_weights_of_the_trunk():
    trunk = [scaling(2, "low"), keras.layers.Dense(3, name="high")]
    trunk[1].build((None, 1))
    model = build(None, trunk, copy_weights=True)
    kernels = [model.get_layer(f"{task}_high").kernel for task in ALL]
    assert all(np.array_equal(kernel, trunk[1].kernel) for kernel in kernels)
    assert not any(kernel is trunk[1].kernel for kernel in kernels)


def test_tasks_choose_their_features_where_they_leave():
    inputs = keras.Input((1,), name="low_input")
    low = keras.Model(inputs, {"s": inputs * 2.0, "t": inputs * 3.0}, name="low")
    inputs = {key: keras.Input((1,), name=key) for key in ("s", "t")}
    high = keras.Model(inputs, inputs["s"] + inputs["t"], name="high")
    tasks = heads(["a", "b"]) | {"c": Task(Regression(kernel_initializer="ones"), features="t")}
    model = branching(keras.Input((1,)), [low, high], tasks, groups=[[ALL], [["a", "b"]]])
    predictions = {task: value.numpy().item() for task, value in model(np.ones((1, 1))).items()}
    assert predictions == {"a": 5, "b": 5, "c": 3}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([[ALL], [["a", "b"], ["c"]]], r"one entry a stage\. Expected 3, .*'by5'.*received 2"),
        ([[["a", "b"]], [["a"]], [["a"]]], r"'by2', must have every task\. Missing: \['c'\]"),
        ([[ALL], [ALL], [["a"], ["bb"]]], r"stage 'by5' have the unknown task 'bb'.*mean 'b'\?"),
        ([[ALL], [["a", "b"], ["b", "c"]], [["a"]]], "stage 'by3' have task 'b' twice"),
        ([[ALL], [["a", "b"], ["c"]], [["a", "c"]]], r"'by5' have the group \['a', 'c'\], which"),
        ([[ALL], [["a", "b"]], [["c"]]], r"group \['c'\].*or left the trunk, do not meet again"),
    ],
)
def test_groups_that_are_no_tree_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        build(groups)


@pytest.mark.parametrize("groups", ["abc", [ALL] * 3, [[ALL], [[]], [ALL]], [[ALL], [], []], 3])
def test_groups_of_another_form_are_refused(groups):
    with pytest.raises(TypeError, match=r"`groups` must be a list .* such as \[\[\['a', 'b', 'c'"):
        build(groups)


def test_a_single_layer_is_refused():
    with pytest.raises(ValueError, match="`trunk` of branching must be a list of stages"):
        branching(keras.Input((1,)), scaling(2, "stage"), heads())

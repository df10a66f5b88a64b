import architecture_support as support
import keras
import numpy as np
import pytest

from keras_mtl import Task
from keras_mtl.architectures import cross_stitch, hard_sharing
from keras_mtl.architectures.cross_stitch import Stitch
from keras_mtl.core.partition import Partition
from keras_mtl.core.rebuild import rebuild
from keras_mtl.heads import Regression


def identity(units, **kwargs):
    """A stage that returns its input."""
    return keras.layers.Dense(units, kernel_initializer="identity", use_bias=False, **kwargs)


def raw(tasks="ab"):
    """Tasks whose heads return their features."""
    return {task: Task(keras.layers.Identity(), loss="mse") for task in tasks}


def test_a_column_goes_on_with_its_own_features_and_some_of_the_others():
    trunk = [identity(2, name="s1"), identity(2, name="s2")]
    model = cross_stitch(keras.Input((2,)), trunk, raw())
    model.get_layer("b_s1").kernel.assign([[0, 3], [2, 0]])
    model.get_layer("a_s2").kernel.assign([[10, 0], [0, 10]])
    # The columns make (1, 2) and (4, 3). No stitch follows the last stage.
    found = support.predictions(model, np.array([[1.0, 2.0]]))
    np.testing.assert_allclose(found["a"], [[13.0, 21.0]], rtol=1e-6)
    np.testing.assert_allclose(found["b"], [[3.7, 2.9]], rtol=1e-6)


def test_each_channel_may_have_its_own_alphas():
    stitch = Stitch(1, per_channel=True)
    inputs = [np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])]
    np.testing.assert_allclose(stitch(inputs), [[2.8, 3.8]], rtol=1e-6)
    stitch.alpha.assign([[1.0, 0.0], [-1.0, 0.5]])
    np.testing.assert_allclose(stitch(inputs), [[1 - 3, 0.5 * 4]], rtol=1e-6)


@pytest.mark.parametrize("own", [0, 2])
def test_other_tasks_share_the_rest_equally(own):
    stitch = Stitch(own, alpha_same=0.7)
    stitch.build([(None, 2)] * 4)
    expected = np.full(4, 0.1)
    expected[own] = 0.7
    np.testing.assert_allclose(stitch.alpha, expected, rtol=1e-6)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("num_tasks", [1, 2, 6])
def test_features_keep_their_scale_at_the_start(num_tasks, per_channel):
    tasks = raw("abcdef"[:num_tasks])
    trunk, inputs = support.dense_stages(), keras.Input((6,))
    x = keras.random.normal((4, 6))
    # A mean of equal columns is each of them, were there one task or many.
    alone = support.predictions(hard_sharing(inputs, trunk, tasks), x)
    options = {"copy_weights": True, "per_channel": per_channel}
    found = support.predictions(cross_stitch(inputs, trunk, tasks, **options), x)
    for task, expected in alone.items():
        np.testing.assert_allclose(found[task], expected, rtol=1e-5)  # sums of up to 6, twice


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_identity_stitches_are_independent_networks(kind):
    inputs, trunk = support.inputs_and_trunk(kind, "one")
    model = cross_stitch(inputs, trunk, support.tasks(), alpha_same=1.0)
    x = keras.random.normal((3, *support.SHAPES[kind]))
    found = support.predictions(model, x)
    for task, specification in support.tasks().items():
        own = [rebuild(stage) for stage in trunk]
        single = hard_sharing(inputs, own, {task: specification})
        columns = [v for v in model.variables if v.path.startswith(f"{task}_stage")]
        rest = [v for v in model.variables if v.path.startswith((f"{task}/", f"{task}_tower"))]
        assert len(columns) + len(rest) == len(single.variables)
        for variable in single.variables:
            path = variable.path if variable.path.startswith(task) else f"{task}_{variable.path}"
            (copy,) = (v for v in columns + rest if v.path == path)
            variable.assign(copy)
        np.testing.assert_array_equal(found[task], support.predictions(single, x)[task])


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_parameters_are_as_documented(kind, per_channel):
    model = support.build("cross_stitch", kind, per_channel=per_channel)
    trunk, channels = {
        "dense": ((6 + 1) * 8 + (8 + 1) * 7 + (7 + 1) * 6, [8, 7]),
        "convolutional": ((2 * 9 + 1) * 4 + 4 * 4 + (4 * 9 + 1) * 6 + 4 * 6, [4]),
    }[kind]
    stitches = sum(2**2 * (c if per_channel else 1) for c in channels)
    towers_and_heads = (6 + 1) * 5 + (5 + 1) + (6 + 1)
    assert model.count_params() == 2 * trunk + stitches + towers_and_heads


def test_the_last_stitches_are_private_and_sharing_ends_at_the_columns_before():
    model = support.build("cross_stitch", "dense")
    partition = Partition(model, dict(model.output))
    variables = model.trainable_variables
    shared = {v.path.split("/")[0] for v in partition.shared(variables)}
    parts = ("stage1", "stitch_0", "stage2")
    assert shared == {f"{task}_{part}" for task in ("first", "second") for part in parts}
    for task, own in {"first": {"first", "first_tower"}, "second": {"second"}}.items():
        private = {v.path.split("/")[0] for v in partition.private(variables, task)}
        assert private == {f"{task}_stitch_1", f"{task}_stage3", *own}
    cuts = [cut._keras_history.operation.name for cut in partition.cuts]
    assert sorted(cuts) == ["first_stage2", "second_stage2"]


def test_the_mask_of_a_tasks_own_features_goes_along():
    masks = [keras.ops.convert_to_tensor([[True, value]]) for value in (True, False)]
    x = np.ones((1, 2, 1), "float32")
    assert Stitch(1).compute_mask([x, x], masks) is masks[1]
    assert Stitch(1).compute_mask([x, x]) is None


@pytest.mark.parametrize(
    ("alpha_same", "error"), [(-0.1, ValueError), (1.1, ValueError), ("large", TypeError)]
)
def test_an_alpha_out_of_range_is_refused(alpha_same, error):
    with pytest.raises(error, match=r"`alpha_same` must be a finite number >= 0 and <= 1, rec"):
        support.build("cross_stitch", alpha_same=alpha_same)


def test_a_single_layer_is_refused():
    with pytest.raises(ValueError, match="`trunk` of cross_stitch must be a list of stages"):
        cross_stitch(keras.Input((2,)), keras.layers.Dense(2), raw())


def test_a_single_stage_is_refused():
    with pytest.raises(ValueError, match=r"must have at least two stages, .* received only 's1'"):
        cross_stitch(keras.Input((2,)), [identity(2, name="s1")], raw())


def two_outputs():
    inputs = keras.Input((None, 2))
    return keras.Model(inputs, {"left": inputs + 0.0, "right": inputs * 2.0}, name="s1")


@pytest.mark.parametrize(
    ("stage", "found"),
    [
        (keras.layers.Flatten, r"returns float32 of shape \(None, None\)"),
        (two_outputs, r"'s1' returns a dict with the entries \['left', 'right'\]"),
    ],
)
def test_features_that_cannot_be_mixed_are_refused(stage, found):
    tasks = {"a": Regression(), "b": Regression()}
    with pytest.raises(ValueError, match=f"Stages of cross_stitch must return .* {found}"):
        cross_stitch(keras.Input((None, 2)), [stage(), keras.layers.Dense(2)], tasks)

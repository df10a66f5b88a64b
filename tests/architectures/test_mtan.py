import itertools

import architecture_support as support
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl import Task
from keras_mtl.architectures import hard_sharing, mtan
from keras_mtl.architectures._features import resample
from keras_mtl.architectures.mtan import AttentionFeatures, TaskAttention
from keras_mtl.core.partition import Partition
from keras_mtl.heads import Regression

# What batch normalization does before it has seen a batch: mean 0, variance 1, epsilon 0.00001.
FRESH = 1 / np.sqrt(1.00001)


def identity(units, **kwargs):
    """A stage that returns its input."""
    return keras.layers.Dense(units, kernel_initializer="identity", use_bias=False, **kwargs)


def raw():
    """A head that returns its features."""
    return Task(keras.layers.Identity(), loss="mse")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def put(model, layer, **kernels):
    for name, kernel in kernels.items():
        getattr(model.get_layer(layer), name).kernel.assign(kernel)


def test_a_task_takes_what_its_attentions_leave():
    trunk = [identity(2, name="s1"), keras.layers.Dense(1, use_bias=False, name="s2")]
    model = mtan(keras.Input((2,)), trunk, {"a": raw(), "b": raw()})
    put(model, "a_attention_0", reduce=[[1, 0], [0, 1]], expand=[[2, 0], [-2, 1]])
    put(model, "attention_features_1", product=[[3], [1]])
    put(model, "a_attention_1", reduce=[[1], [-1]], expand=[[0.5]])
    trunk[1].kernel.assign([[4], [1]])
    found = support.predictions(model, np.array([[1.0, 2.0]]))["a"]
    # p_0 = (1, 2); g = p_0, h = (2 - 4, 2); a_0 p_0 = (sigmoid(-2), 2 sigmoid(2)).
    taken = sigmoid(np.array([-2.0, 2.0]) * FRESH**2) * [1, 2]
    # p_1 = 6; f = 3 taken_1 + taken_2; g = 6 - f, h = g / 2.
    features = (3 * taken[0] + taken[1]) * FRESH
    expected = sigmoid((6 - features) * 0.5 * FRESH**2) * 6
    np.testing.assert_allclose(found, [[expected]], rtol=1e-5)


def test_with_open_attentions_it_is_hard_sharing():
    inputs, trunk = support.inputs_and_trunk("convolutional", "one")
    alone = hard_sharing(inputs, trunk, support.tasks())
    model = mtan(inputs, trunk, support.tasks())
    for layer in model.layers:
        if isinstance(layer, TaskAttention):
            # The sigmoid of 40 is 1 in float32.
            layer.expand_normalization.beta.assign(np.full(layer.expand.units, 40.0))
    for name in ("first_tower", "first", "second"):
        model.get_layer(name).set_weights(alone.get_layer(name).get_weights())
    x, _ = support.data(model)
    for task, expected in support.predictions(alone, x).items():
        np.testing.assert_allclose(support.predictions(model, x)[task], expected, atol=1e-6)


def test_an_attention_can_be_read():
    model = support.build("mtan", "convolutional")
    attention = keras.Model(model.input, model.get_layer("second_attention_0").output)
    x, _ = support.data(model)
    found = np.asarray(attention(x))
    assert found.shape == (16, 4, 4, 4)
    assert np.all((found > 0) & (found < 1))


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_parameters_are_as_documented(kind):
    model = support.build("mtan", kind, reduction=2)
    trunk, channels, kernel = {
        "dense": ((6 + 1) * 8 + (8 + 1) * 7 + (7 + 1) * 6, [8, 7, 6], 1),
        "convolutional": ((2 * 9 + 1) * 4 + 4 * 4 + (4 * 9 + 1) * 6 + 4 * 6, [4, 6], 9),
    }[kind]
    features = sum(kernel * a * b + 4 * b for a, b in itertools.pairwise(channels))
    attentions = 0
    for index, c in enumerate(channels):
        read, inner = c * (1 if index == 0 else 2), c // 2
        attentions += read * inner + 4 * inner + inner * c + 4 * c
    towers_and_heads = (6 + 1) * 5 + (5 + 1) + (6 + 1)
    assert model.count_params() == trunk + features + 2 * attentions + towers_and_heads


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_attentions_are_private_and_sharing_ends_at_every_stage(kind):
    inputs, trunk = support.inputs_and_trunk(kind, "one")
    model = mtan(inputs, trunk, support.tasks())
    indices = range(len(trunk))
    partition = Partition(model, dict(model.output))
    variables = model.trainable_variables
    between = {id(v) for i in indices[1:] for v in layer_variables(model, i)}
    whole = {id(v) for stage in trunk for v in stage.trainable_variables} | between
    assert {id(v) for v in partition.shared(variables)} == whole
    # What brings one stage's features to the next is called for each task alone.
    assert {id(v) for v in partition.shared_read_alone(variables)} == between
    for task, own in {"first": {"first", "first_tower"}, "second": {"second"}}.items():
        private = {v.path.split("/")[0] for v in partition.private(variables, task)}
        assert private == {f"{task}_attention_{index}" for index in indices} | own
    cuts = {cut._keras_history.operation.name for cut in partition.cuts}
    assert cuts == {stage.name for stage in trunk}


def layer_variables(model, index):
    return model.get_layer(f"attention_features_{index}").trainable_variables


def test_channels_inside_an_attention_are_at_least_one():
    model = mtan(keras.Input((3,)), [identity(3, name="s")], {"a": raw()}, reduction=8)
    assert model.get_layer("a_attention_0").reduce.kernel.shape == (3, 1)


def largest_in_windows(x, size):
    """Adaptive max pooling over the first axis, by its definition."""
    n = len(x)
    bounds = [(int(np.floor(t * n / size)), int(np.ceil((t + 1) * n / size))) for t in range(size)]
    return np.stack([x[first:last].max(axis=0) for first, last in bounds])


@pytest.mark.parametrize(("length", "size"), [(8, 4), (7, 3), (28, 12), (5, 5), (3, 6), (5, 7)])
def test_positions_become_those_of_the_next_stage(length, size):
    x = np.random.default_rng(0).normal(size=(length, 2)).astype("float32")
    expected = largest_in_windows(x, size)
    np.testing.assert_array_equal(resample(x[None], 1, size)[0], expected)
    unknown = tf.TensorSpec((None, None, 2), "float32")
    for compiled in (False, True):
        step = tf.function(
            lambda x, like: resample(x, 1, tf.shape(like)[1]),
            input_signature=[unknown, unknown],
            jit_compile=compiled,
        )
        np.testing.assert_array_equal(step(x[None], np.zeros((1, size, 2)))[0], expected)


def features_of(x, after, kernel, **kwargs):
    """What an `AttentionFeatures` with that kernel makes of `x`, and the layer."""
    layer = AttentionFeatures()
    layer.build([np.shape(x), np.shape(after)])
    layer.product.kernel.assign(np.reshape(kernel, layer.product.kernel.shape))
    return np.asarray(layer([keras.ops.array(x), keras.ops.array(after)], **kwargs)), layer


def test_features_of_a_sequence_are_convolved_then_pooled():
    x = np.array([[[1.0], [2.0], [3.0], [4.0]]], dtype="float32")
    found, _ = features_of(x, np.zeros((1, 2, 1), "float32"), [1, 1, 1])
    # Sums of three neighbours are 3, 6, 9, 7.
    np.testing.assert_allclose(found, np.array([[[6.0], [9.0]]]) * FRESH, rtol=1e-6)


def test_features_of_an_image_go_to_a_vector_as_their_mean():
    x = np.array([[[[1.0], [2.0]], [[3.0], [6.0]]]], dtype="float32")
    found, _ = features_of(x, np.zeros((1, 2), "float32"), [1, -1])
    np.testing.assert_allclose(found, [[3.0 * FRESH, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("steps", [2, 1])
def test_padding_reaches_neither_features_nor_statistics(steps):
    x = np.array([[[1.0], [2.0], [np.nan], [np.nan]]], dtype="float32")
    masks = [tf.constant([[True, True, False, False]]), tf.constant([[True, False][:steps]])]
    after = np.zeros((1, steps, 1), "float32")
    found, _ = features_of(x, after, [1, 1, 1], mask=masks)
    np.testing.assert_allclose(found[0, 0], [3 * FRESH], rtol=1e-6)
    _, layer = features_of(x, after, [1, 1, 1], mask=masks, training=True)
    # Both steps with data have the sum 3; a tenth of it after one batch.
    np.testing.assert_allclose(layer.normalization.moving_mean, [0.3], rtol=1e-5)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_sequences_images_and_volumes_of_any_size_are_followed(axes):
    convolution = [keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D][axes - 1]
    pooling = [keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.MaxPooling3D]
    trunk = [
        convolution(2, 3, padding="same", name="s1"),
        keras.Sequential([convolution(3, 2), pooling[axes - 1]()], name="s2"),
    ]
    fixed = mtan(keras.Input((6,) * axes + (1,)), trunk, support.tasks())
    free = mtan(keras.Input((None,) * axes + (1,)), trunk, support.tasks())
    free.set_weights(fixed.get_weights())
    x, _ = support.data(fixed)
    for task, expected in support.predictions(fixed, x).items():
        np.testing.assert_allclose(support.predictions(free, x)[task], expected, atol=1e-6)


def test_a_stage_may_enlarge_and_one_may_flatten():
    trunk = [
        keras.layers.Conv2D(2, 3, strides=2, name="s1"),
        keras.layers.UpSampling2D(name="s2"),
        keras.layers.Flatten(name="s3"),
        keras.layers.Dense(5, name="s4"),
    ]
    model = mtan(keras.Input((9, 9, 1)), trunk, support.tasks())
    shapes = [model.get_layer(f"first_attended_{index}").output.shape[1:] for index in range(4)]
    assert shapes == [(4, 4, 2), (8, 8, 2), (128,), (5,)]
    x, _ = support.data(model)
    assert all(np.all(np.isfinite(v)) for v in support.predictions(model, x).values())


def build(trunk, **options):
    tasks = {"a": Regression(), "b": Regression()}
    return mtan(keras.Input((8, 8, 1)), trunk, tasks, **options)


@pytest.mark.parametrize(
    ("reduction", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_a_wrong_reduction_is_refused(reduction, error):
    with pytest.raises(error, match="`reduction` must be an integer >= 1"):
        build(support.stages("convolutional"), reduction=reduction)


def test_a_trunk_without_stages_is_refused():
    with pytest.raises(ValueError, match="`trunk` of mtan must be a list of stages"):
        build(keras.layers.Conv2D(2, 3))


@pytest.mark.parametrize(
    ("target", "found"),
    [((16, 4), r"\(None, 16, 4\)"), ((2, 2, 2, 2, 4), r"\(None, 2, 2, 2, 2, 4\)")],
)
def test_a_stage_that_changes_the_axes_is_refused(target, found):
    trunk = [keras.layers.MaxPooling2D(), keras.layers.Reshape(target, name="odd")]
    trunk.insert(1, keras.layers.Conv2D(4, 1))
    with pytest.raises(ValueError, match=f"Stage 'odd' of `trunk` turns .* into {found}, which"):
        build(trunk)


def test_features_without_channels_are_refused():
    stage = keras.layers.Discretization([0.0], name="whole")
    with pytest.raises(ValueError, match=r"mtan must return floats of shape .* 'whole' returns"):
        build([stage])

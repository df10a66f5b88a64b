"""What every architecture must do, found by discovery: nobody registers a test."""

import inspect
import itertools
import pathlib

import architecture_support as support
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl import Task, architectures
from keras_mtl.heads import BinaryClassification

BUILDERS = support.BUILDERS
DEEP = support.DEEP
# One trunk for each builder, both for the representatives; the others are in the deeper sweep.
KINDS_TO_TRAIN = [
    *((name, "convolutional") for name in BUILDERS),
    *(pytest.param(*parameter.values, "dense", marks=parameter.marks) for parameter in DEEP),
]


def close(first, second, tolerance):
    assert first.keys() == second.keys()
    for task, values in first.items():
        np.testing.assert_allclose(values, second[task], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", BUILDERS)
def test_docstring_has_the_sections(name):
    documentation = inspect.getdoc(architectures.get(name))
    assert len(documentation.splitlines()[0]) <= 80
    for section in ("Args:", "Returns:", "Raises:", "Example:", "Reference:", "Parameters:"):
        assert section in documentation


@pytest.mark.parametrize("name", BUILDERS)
def test_has_a_test_file_of_its_own(name):
    assert (pathlib.Path(__file__).parent / f"test_{name}.py").exists()


@pytest.mark.parametrize("name", DEEP)
def test_a_network_of_keras_applications_is_a_stage(name):
    shape = (32, 32, 3)
    network = keras.applications.MobileNetV2(shape, 0.35, include_top=False, weights=None)
    trunk = [network, keras.layers.Conv2D(4, 1, name="project")]
    model = architectures.build_model(name, keras.Input(shape), trunk, support.tasks())
    x, _ = support.data(model, rows=2)
    assert all(np.all(np.isfinite(values)) for values in support.predictions(model, x).values())


@pytest.mark.parametrize("given", ["one", "several", "stem"])
@pytest.mark.parametrize("kind", support.SHAPES)
@pytest.mark.parametrize("name", BUILDERS)
def test_builds_and_predicts(name, kind, given):
    model = support.build(name, kind, given, name="built")
    x, _ = support.data(model)
    found = support.predictions(model, x)
    assert model.name == "built"
    assert list(found) == ["first", "second"]
    assert all(values.shape == (16, 1) and np.all(np.isfinite(values)) for values in found.values())
    assert all(values.dtype == "float32" for values in found.values())


@pytest.mark.parametrize("kind", ["dense", pytest.param("transformer", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", BUILDERS)
def test_a_model_file_predicts_the_same(name, kind, tmp_path):
    model = support.build(name, kind, given="several")
    x, _ = support.data(model)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    close(support.predictions(model, x), support.predictions(again, x), 0)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_clone_has_the_same_variables_with_other_values(name):
    model = support.build(name, "convolutional")
    clone = model.clone()
    assert [v.shape for v in clone.variables] == [v.shape for v in model.variables]
    clone.set_weights(model.get_weights())
    x, _ = support.data(model)
    close(support.predictions(model, x), support.predictions(clone, x), 0)


@pytest.mark.parametrize("name", DEEP)
def test_an_exported_model_predicts_the_same(name, tmp_path):
    model = support.build(name, given="several")
    x, _ = support.data(model)
    model.export(str(tmp_path / "served"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"](**x)
    close(support.predictions(model, x), {k: v.numpy() for k, v in served.items()}, 1e-6)


@pytest.mark.parametrize("name", BUILDERS)
def test_it_can_be_listed_and_drawn(name):
    model = support.build(name)
    lines = []
    model.summary(print_fn=lines.append)
    graph = keras.utils.model_to_dot(model, show_shapes=True).to_string()
    assert all(task in "\n".join(lines) and task in graph for task in ("first", "second"))


@pytest.mark.parametrize("name", BUILDERS)
def test_layers_are_named_after_their_task_and_none_is_a_lambda(name):
    layers = list(support.build(name)._flatten_layers())
    assert {"first_tower", "first", "second"} <= {layer.name for layer in layers}
    gates = [layer.name for layer in layers if getattr(layer, "is_gate", False)]
    for task in ("first", "second"):
        assert not gates or any(gate.endswith(f"{task}_gate") for gate in gates)
    assert not any(isinstance(layer, keras.layers.Lambda) for layer in layers)


def kernels(model):
    """Yields the random matrices of a model; of batched experts, each alone."""
    for variable in model.trainable_variables:
        values = variable.numpy()
        drawn = values.ndim > 1 and len(np.unique(values)) > 2
        if drawn:
            yield from [*values] if "experts/" in variable.path else [values]


@pytest.mark.parametrize("name", BUILDERS)
def test_copies_start_from_different_values(name):
    for first, second in itertools.combinations(kernels(support.build(name)), 2):
        assert first.shape != second.shape or not np.allclose(first, second)


@pytest.mark.parametrize(("name", "kind"), KINDS_TO_TRAIN)
def test_every_variable_trains(name, kind):
    model = support.build(name, kind, "stem")
    model.compile(keras.optimizers.Adam(1e-2))
    x, y = support.data(model)
    before = [variable.numpy() for variable in model.trainable_variables]
    model.fit(x, y, batch_size=8, epochs=3, verbose=0)
    for variable, values in zip(model.trainable_variables, before, strict=True):
        assert not np.array_equal(variable.numpy(), values), variable.path
        assert np.all(np.isfinite(variable.numpy()))


def rings_and_corners(rows):
    """Two tasks on a point that no linear model can do: in which corners, or within a ring too.

    The second label is never without the first, as architectures for steps ask.
    """
    x = np.random.default_rng(0).uniform(-1, 1, size=(rows, 2)).astype("float32")
    ring = np.abs(np.linalg.norm(x, axis=1) - 0.6) < 0.25
    corners = x[:, 0] * x[:, 1] > 0
    return x, {"either": (ring | corners).astype(int), "corners": corners.astype(int)}


@pytest.mark.parametrize("name", BUILDERS)
def test_it_learns_two_tasks_that_are_not_linear(name):
    x, y = rings_and_corners(256)
    trunk = [keras.layers.Dense(32, activation="relu", name=f"stage{index}") for index in range(2)]
    heads = {task: BinaryClassification() for task in y}
    model = architectures.build_model(name, keras.Input((2,)), trunk, heads)
    model.compile(keras.optimizers.Adam(2e-2))
    # One epoch over the same batch: what stands around an epoch costs more than its steps.
    model.fit(tf.data.Dataset.from_tensors((x, y)).repeat(150), verbose=0)
    logs = model.evaluate(x, y, batch_size=256, return_dict=True, verbose=0)
    # A constant gets 0.71 and 0.52, a logistic regression 0.71 and 0.68.
    assert logs["either_accuracy"] > 0.9
    assert logs["corners_accuracy"] > 0.9


@pytest.mark.parametrize("name", DEEP)
def test_mixed_precision_trains_and_predicts_float32(name):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = support.build(name, "convolutional")
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(keras.optimizers.SGD(1e-2))
    x, y = support.data(model)
    logs = model.fit(x, y, batch_size=8, verbose=0).history
    assert all(np.isfinite(values[0]) for values in logs.values())
    assert all(tensor.dtype == "float32" for tensor in model.output.values())


def trained(name, **arguments):
    keras.utils.set_random_seed(0)
    # Rounding turns a ReLU near 0 to its other side, and the gradient with it.
    smooth = support.dense_stages("tanh")
    model = architectures.build_model(name, keras.Input((6,)), smooth, support.tasks())
    model.compile(keras.optimizers.SGD(0.1), **arguments)
    x, y = support.data(model)
    if any(isinstance(part, keras.layers.BatchNormalization) for part in model._flatten_layers()):
        # Statistics are those of a replica's rows, as in Keras: let these be those of the batch.
        x, y = keras.tree.map_structure(halves_alike, (x, y))
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return support.predictions(model, x)


def halves_alike(values):
    """The first rows, such that both halves of every batch of 8 are the same four."""
    return values[[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]]


@pytest.mark.parametrize("name", DEEP)
def test_two_replicas_train_as_one_device_does(name, strategy):
    alone = trained(name)
    with strategy.scope():
        together = trained(name)
    close(alone, together, 1e-5)  # sums in another order


@pytest.mark.parametrize("name", DEEP)
def test_compiled_it_trains_as_uncompiled(name):
    close(trained(name), trained(name, jit_compile=True), 1e-5)  # operations in another order


@pytest.mark.parametrize("name", BUILDERS)
def test_padding_changes_nothing(name):
    ids = keras.Input((None,), dtype="int32", name="ids")
    stem = keras.layers.Embedding(9, 4, mask_zero=True, name="words")(ids)
    trunk = [
        keras.layers.LSTM(3, return_sequences=True, name=f"stage{index}") for index in range(2)
    ]
    model = architectures.build_model(name, stem, trunk, support.tasks())
    alone, padded = np.array([[5, 7]]), np.array([[5, 7, 0, 0]])
    close(support.predictions(model, alone), support.predictions(model, padded), 1e-6)


def voiced_frames():
    """Two stages that return frames, and a mask of those whose first number is positive."""
    frames, mask = keras.Input((None, 2), name="x"), keras.Input((None,), dtype="bool", name="mask")
    found = {"x": keras.layers.Conv1D(3, 1)(frames), "mask": frames[..., 0] > 0.0}
    first = keras.Model(frames, found, name="stage1")
    x = keras.Input((None, 3), name="x")
    again = {"x": keras.layers.Conv1D(3, 1)(x), "mask": keras.ops.logical_and(mask, True)}
    return [first, keras.Model({"x": x, "mask": mask}, again, name="stage2")]


@pytest.mark.parametrize("name", BUILDERS)
def test_a_mask_that_the_trunk_returns_reaches_the_heads_or_is_refused(name):
    specs = {key: Task(BinaryClassification(), features="x", mask="mask") for key in "ab"}
    try:
        model = architectures.build_model(name, keras.Input((None, 2)), voiced_frames(), specs)
    except ValueError as error:
        assert "'stage1' returns a dict" in str(error) or "'stage2' returns a dict" in str(error)
        return
    for layer in model.layers:
        if getattr(layer, "is_gate", False):  # which read all frames
            layer.set_weights([np.zeros_like(weights) for weights in layer.get_weights()])
    frames, others = (np.array([[[1.0, 2.0], [-1.0, last]]]) for last in (5.0, 9.0))
    close(support.predictions(model, frames), support.predictions(model, others), 0)


@pytest.mark.parametrize("name", BUILDERS)
def test_copies_may_start_from_the_weights_of_the_trunk(name):
    if "copy_weights" not in inspect.signature(architectures.get(name)).parameters:
        trunk = support.dense_stages()
        model = architectures.build_model(name, keras.Input((6,)), trunk, support.tasks())
        # What copies nothing has the trunk itself.
        assert {id(v) for stage in trunk for v in stage.variables} <= {
            id(v) for v in model.variables
        }
        return
    trunk = support.dense_stages()
    inputs = keras.Input((6,))
    features = inputs
    for stage in trunk:
        features = stage(features)
    model = architectures.build_model(name, inputs, trunk, support.tasks(), copy_weights=True)
    # The last stage: what comes before may be shared.
    kernel = trunk[-1].kernel.numpy()
    copies = [v for v in model.variables if v.shape == kernel.shape and v is not trunk[-1].kernel]
    assert sum(np.array_equal(copy.numpy(), kernel) for copy in copies) > 1


@pytest.mark.parametrize("name", BUILDERS)
def test_a_trunk_that_cannot_be_rebuilt_is_named_or_used_itself(name):
    class Odd(keras.layers.Layer):
        def __init__(self, units):
            super().__init__(name="odd")
            self.dense = keras.layers.Dense(units)

        def call(self, x):
            return self.dense(x)

    trunk = [keras.layers.Dense(4, name="stage1"), Odd(3)]
    inputs = keras.Input((6,))
    if "copy_weights" in inspect.signature(architectures.get(name)).parameters:
        with pytest.raises(ValueError, match="Layer 'odd' of type Odd cannot be rebuilt"):
            architectures.build_model(name, inputs, trunk, support.tasks())
    else:
        model = architectures.build_model(name, inputs, trunk, support.tasks())
        assert "odd" in [layer.name for layer in model.layers]


@pytest.mark.parametrize("name", BUILDERS)
def test_a_misspelt_feature_is_named(name):
    specs = {**support.tasks(), "first": Task(BinaryClassification(), features="s4")}
    with pytest.raises(ValueError, match="'first' chooses the features 's4', but the trunk"):
        architectures.build_model(name, keras.Input((6,)), support.dense_stages(), specs)

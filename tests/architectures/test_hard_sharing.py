import architecture_support as support
import keras
import numpy as np
import pytest

from keras_mtl import Task
from keras_mtl.architectures import hard_sharing
from keras_mtl.core.partition import Partition
from keras_mtl.heads import BinaryClassification, Classification, Regression


def ones(units, **kwargs):
    """A dense layer that returns the sum of its features, `units` times."""
    return keras.layers.Dense(units, kernel_initializer="ones", **kwargs)


def summing(units=1, **kwargs):
    """A head that returns the sum of its features, `units` times."""
    return Regression(units, kernel_initializer="ones", **kwargs)


def two_scales():
    """A trunk that returns its input as "small" and its sum, twice, as "large"."""
    inputs = keras.Input((3,), name="trunk_input")
    return keras.Model(inputs, {"small": inputs + 0.0, "large": ones(2)(inputs)}, name="trunk")


def test_each_task_reads_the_shared_features():
    tasks = {"sum": summing(), "twice": summing(2)}
    model = hard_sharing(keras.Input((3,)), ones(4), tasks)
    predictions = model(np.array([[1.0, 2.0, 3.0]]))
    np.testing.assert_allclose(predictions["sum"], [[24.0]])
    np.testing.assert_allclose(predictions["twice"], [[24.0, 24.0]])


def test_tasks_keep_the_order_given():
    tasks = {"z": summing(), "a": summing(), "m": summing()}
    model = hard_sharing(keras.Input((3,)), ones(4), tasks, name="ordered")
    assert list(model.output) == list(model.tasks) == ["z", "a", "m"]
    assert model.name == "ordered"


def test_parameters_are_those_of_trunk_towers_and_heads_once():
    tasks = {
        "digit": Classification(10),
        "parity": Task(BinaryClassification(), tower=[keras.layers.Dense(5), keras.layers.ReLU()]),
    }
    trunk = [keras.layers.Dense(8), keras.layers.Dense(6)]
    model = hard_sharing(keras.Input((3,)), trunk, tasks)
    stages, heads, tower = (3 + 1) * 8 + (8 + 1) * 6, (6 + 1) * 10 + (5 + 1), (6 + 1) * 5
    assert model.count_params() == stages + heads + tower


def test_parameters_of_a_convolutional_trunk():
    trunk = (9 * 2 + 1) * 4 + 4 * 4 + (9 * 4 + 1) * 6 + 4 * 6
    towers_and_heads = (6 + 1) * 5 + (5 + 1) + (6 + 1)
    model = support.build("hard_sharing", "convolutional")
    assert model.count_params() == trunk + towers_and_heads


def test_the_trunk_is_shared_towers_and_heads_are_private_and_sharing_ends_between():
    model = support.build("hard_sharing", "convolutional")
    partition = Partition(model, dict(model.output))
    found = {task: partition.private(model.trainable_variables, task) for task in model.output}
    found["shared"] = partition.shared(model.trainable_variables)
    assert {key: {v.path.split("/")[0] for v in variables} for key, variables in found.items()} == {
        "first": {"first_tower", "first"},
        "second": {"second"},
        "shared": {"stage1", "stage2"},
    }
    assert [cut._keras_history.operation.name for cut in partition.cuts] == ["stage2"]


def test_layers_are_named_after_their_task():
    tasks = {"a": Task(summing(), tower=ones(2), mask=None), "b": summing()}
    model = hard_sharing(keras.Input((3,), name="x"), ones(4, name="trunk"), tasks)
    assert sorted(layer.name for layer in model.layers) == ["a", "a_tower", "b", "trunk", "x"]


def test_the_trunk_is_the_object_itself():
    trunk = ones(4)
    first = hard_sharing(keras.Input((3,)), trunk, {"a": summing()})
    second = hard_sharing(keras.Input((3,)), lambda: trunk, {"a": summing()})
    assert first.layers[1] is trunk
    assert second.layers[1] is trunk


def test_building_twice_from_one_dict_of_tasks_shares_nothing():
    tasks = {"a": Task(summing(), tower=lambda: ones(2)), "b": Task(summing(), tower=ones(2))}
    first = hard_sharing(keras.Input((3,)), ones(4), tasks)
    second = hard_sharing(keras.Input((5,)), ones(6), tasks)
    assert {id(v) for v in first.variables} & {id(v) for v in second.variables} == set()
    assert not tasks["b"].tower.built


def test_one_head_object_may_serve_two_tasks_and_shares_nothing():
    head = summing()
    model = hard_sharing(keras.Input((3,)), ones(4), {"a": head, "b": head})
    assert len(model.trainable_variables) == 2 + 2 + 2


def test_towers_stand_between_trunk_and_head():
    tasks = {"a": Task(summing(), tower=[ones(2), keras.layers.Rescaling(0.5)])}
    model = hard_sharing(keras.Input((3,)), ones(4), tasks)
    np.testing.assert_allclose(model(np.array([[1.0, 2.0, 3.0]]))["a"], [[24.0]])


@pytest.mark.parametrize("structure", [list, dict])
def test_several_inputs_keep_their_structure(structure):
    inputs = [keras.Input((2,), name="left"), keras.Input((3,), name="right")]
    inputs = {x.name: x for x in inputs} if structure is dict else inputs
    joined = keras.layers.Concatenate()(keras.tree.flatten(inputs))
    trunk = keras.Model(inputs, joined, name="trunk")
    model = hard_sharing(inputs, trunk, {"sum": summing()})
    left, right = np.ones((1, 2)), np.full((1, 3), 2.0)
    given = {"left": left, "right": right} if structure is dict else [left, right]
    assert isinstance(model.input, structure)
    np.testing.assert_allclose(model(given)["sum"], [[8.0]])


def test_a_stem_of_one_input_begins_at_that_input():
    source = keras.Input((3,), name="image")
    model = hard_sharing(ones(2, name="backbone")(source), ones(2), {"sum": summing()})
    assert model.input is source
    np.testing.assert_allclose(model(np.ones((1, 3)))["sum"], [[12.0]])


def test_a_stem_of_several_inputs_begins_at_a_dict_of_them():
    user, item = keras.Input((2,), name="user"), keras.Input((3,), name="item")
    stem = keras.layers.Concatenate()([ones(1)(user), item])
    model = hard_sharing(stem, ones(1), {"sum": summing()})
    assert set(model.input) == {"user", "item"}
    given = {"user": np.ones((1, 2)), "item": np.full((1, 3), 2.0)}
    np.testing.assert_allclose(model(given)["sum"], [[8.0]])


def test_the_inputs_of_a_deep_residual_stem_are_found():
    source = keras.Input((2,), name="image")
    x = source
    for _ in range(60):  # 2**60 paths: a walk that does not remember nodes never ends
        x = keras.layers.Add()([x, x])
    assert hard_sharing(x, ones(1), {"sum": summing()}).input is source


class Join(keras.layers.Layer):
    """A tower of the user's that reads two features and is not registered."""

    def call(self, features):
        return keras.ops.concatenate([features["large"], features["small"]], axis=-1)


def test_tasks_choose_from_a_trunk_that_returns_a_dict():
    tasks = {
        "small": Task(summing(), features="small"),
        "both": Task(summing(), features=["large", "small"], tower=Join()),
    }
    predictions = hard_sharing(keras.Input((3,)), two_scales(), tasks)(np.ones((1, 3)))
    np.testing.assert_allclose(predictions["small"], [[3.0]])
    np.testing.assert_allclose(predictions["both"], [[9.0]])


def test_a_dict_of_one_entry_needs_no_choice():
    inputs = keras.Input((3,), name="trunk_input")
    trunk = keras.Model(inputs, {"only": ones(2)(inputs)}, name="trunk")
    model = hard_sharing(keras.Input((3,)), trunk, {"sum": summing()})
    np.testing.assert_allclose(model(np.ones((1, 3)))["sum"], [[6.0]])


def text_trunk():
    return keras.Sequential(
        [
            keras.layers.Embedding(9, 3, mask_zero=True),
            keras.layers.LSTM(2, return_sequences=True),
        ],
        name="text",
    )


def test_the_keras_mask_reaches_pooled_and_unpooled_heads():
    tasks = {"intent": summing(), "slots": summing(pooling=None)}
    model = hard_sharing(keras.Input((None,), dtype="int32"), text_trunk(), tasks)
    alone, padded = model(np.array([[5, 7]])), model(np.array([[5, 7, 0, 0]]))
    np.testing.assert_allclose(padded["intent"], alone["intent"], rtol=1e-6)
    np.testing.assert_array_equal(padded["slots"]._keras_mask, [[True, True, False, False]])
    assert not hasattr(padded["intent"], "_keras_mask")


def test_a_mask_among_the_inputs_reaches_the_head_and_not_the_trunk():
    inputs = {
        "frames": keras.Input((None, 2), name="frames"),
        "frames_mask": keras.Input((None,), dtype="bool", name="frames_mask"),
    }
    tasks = {"words": Task(summing(), mask="frames_mask"), "all": summing()}
    model = hard_sharing(inputs, ones(1), tasks)
    given = {
        "frames": np.array([[[1.0, 1.0], [3.0, 3.0]]]),
        "frames_mask": np.array([[True, False]]),
    }
    predictions = model(given)
    np.testing.assert_allclose(predictions["words"], [[2.0]])
    np.testing.assert_allclose(predictions["all"], [[4.0]])


def test_a_trunk_with_an_input_of_the_masks_name_gets_the_mask():
    frames = keras.Input((None, 2), name="frames")
    mask = keras.Input((None,), dtype="bool", name="mask")
    inputs = [frames, mask]
    kept = keras.layers.GlobalAveragePooling1D()(frames, mask=mask)
    trunk = keras.Model(inputs, {"kept": kept, "frames": frames + 0.0}, name="trunk")
    tasks = {"a": Task(summing(), features="frames", mask="mask")}
    tasks["b"] = Task(summing(), features="kept")
    model = hard_sharing(inputs, trunk, tasks)
    predictions = model([np.array([[[1.0, 1.0], [3.0, 3.0]]]), np.array([[False, True]])])
    np.testing.assert_allclose([predictions["a"], predictions["b"]], [[[6.0]], [[6.0]]])


def test_a_mask_may_be_an_output_of_the_trunk():
    frames = keras.Input((None, 1), name="trunk_input")
    trunk = keras.Model(frames, {"x": frames * 1.0, "voiced": frames[..., 0] > 1.0}, name="trunk")
    tasks = {"words": Task(summing(), features="x", mask="voiced")}
    model = hard_sharing(keras.Input((None, 1)), trunk, tasks)
    np.testing.assert_allclose(model(np.array([[[1.0], [2.0], [4.0]]]))["words"], [[3.0]])


def test_predictions_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = hard_sharing(keras.Input((3,)), keras.layers.Dense(4), {"a": Classification(3)})
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.layers[1].compute_dtype == "float16"
    assert model.output["a"].dtype == "float32"
    assert keras.backend.standardize_dtype(model(np.ones((2, 3)))["a"].dtype) == "float32"


def test_any_layer_is_a_head_when_its_task_gives_the_loss():
    tasks = {"a": Task(ones(1), loss="mse"), "b": summing()}
    model = hard_sharing(keras.Input((3,)), ones(1), tasks)
    model.compile(keras.optimizers.SGD(0.0))
    x, zeros = np.ones((2, 3)), np.zeros((2, 1))
    logs = model.evaluate(x, {"a": zeros, "b": zeros}, return_dict=True, verbose=0)
    assert logs["a_loss"] == logs["b_loss"] == 9.0


def test_training_moves_the_trunk_and_every_head():
    tasks = {"a": summing(), "b": Task(summing(), tower=ones(2))}
    model = hard_sharing(keras.Input((3,)), ones(2), tasks)
    model.compile(keras.optimizers.SGD(1e-3))
    before = [v.numpy() for v in model.trainable_variables]
    zeros = np.zeros((4, 1))
    model.fit(np.ones((4, 3)), {"a": zeros, "b": zeros}, verbose=0)
    after = [v.numpy() for v in model.trainable_variables]
    assert all(not np.array_equal(x, y) for x, y in zip(before, after, strict=True))
    assert len(before) == 2 + 2 + 4


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_saved_model_predicts_the_same(tmp_path):
    tasks = {"small": Task(summing(), features="small"), "large": Task(summing(), features="large")}
    model = hard_sharing(keras.Input((3,)), two_scales(), tasks)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(again(x)["large"], model(x)["large"])

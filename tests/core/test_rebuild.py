import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.core.rebuild import rebuild, resolve_tower, resolve_trunk


class Scale(keras.layers.Layer):
    """A layer of the user's that is not registered with Keras."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        return self.factor * inputs

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


class Nameless(keras.layers.Layer):
    """A layer that cannot be made again: its argument is neither simple nor in the config."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function


class Late(keras.layers.Layer):
    """A layer that makes another one only when it is built."""

    def build(self, shape):
        self.inner = keras.layers.Normalization(name="inner")
        self.inner.build(shape)

    def call(self, inputs):
        return self.inner(inputs)


def adapted(layer, data):
    layer.adapt(data)
    return layer


def functional():
    inputs = keras.Input((3,), name="x")
    return keras.Model(inputs, Scale(2.0)(keras.layers.Dense(4)(inputs)), name="body")


def shared_variables(first, second):
    return {id(v) for v in first.variables} & {id(v) for v in second.variables}


def test_a_layer_is_rebuilt_unbuilt_with_its_arguments():
    layer = keras.layers.Dense(4, activation="relu", name="body")
    layer.build((None, 3))
    again = rebuild(layer)
    assert (again.units, again.activation, again.name) == (4, keras.activations.relu, "body")
    assert (again.built, layer.built) == (False, True)


@pytest.mark.parametrize("make", [functional, lambda: keras.Sequential([functional(), Scale(3.0)])])
def test_a_model_is_rebuilt_with_fresh_values(make):
    model = make()
    again = rebuild(model, "other")
    x = np.ones((2, 3), "float32")
    assert again.name == "other"
    assert not np.array_equal(again(x), model(x))
    assert len(again.variables) == len(model.variables) == 2
    assert not shared_variables(again, model)


def test_a_rebuilt_layer_takes_features_of_another_size():
    layer = keras.layers.Dense(2)
    layer(np.ones((1, 3)))
    assert rebuild(layer)(np.ones((1, 7))).shape == (1, 2)


@pytest.mark.parametrize("seed", [7, None])
def test_copies_of_one_layer_start_from_different_values(seed):
    layer = keras.layers.Dense(4, kernel_initializer=keras.initializers.HeNormal(seed=seed))
    copies = [rebuild(layer, f"copy_{offset}", seed_offset=offset) for offset in range(2)]
    for copy in copies:
        copy.build((None, 3))
    assert not np.array_equal(copies[0].kernel, copies[1].kernel)


def test_a_seed_is_kept_without_an_offset():
    layer = keras.layers.Dense(4, kernel_initializer=keras.initializers.HeNormal(seed=7))
    copies = [rebuild(layer), rebuild(layer)]
    for copy in copies:
        copy.build((None, 3))
    np.testing.assert_array_equal(copies[0].kernel, copies[1].kernel)


def test_seeds_inside_a_model_move_too():
    model = keras.Sequential([keras.layers.Dropout(0.5, seed=3), keras.layers.Dense(2)])
    again = rebuild(model, seed_offset=10)
    assert again.layers[0].get_config()["seed"] == 13
    assert model.layers[0].get_config()["seed"] == 3


@pytest.mark.parametrize(
    "layer", [Nameless(abs, name="odd"), keras.layers.Lambda(lambda x: x, name="odd")]
)
def test_a_layer_that_cannot_be_rebuilt_is_named(layer):
    with pytest.raises(ValueError, match=r"Layer 'odd' of type .* cannot be rebuilt"):
        rebuild(layer)


NUMBERS = np.float32([[1, 2], [3, 6], [8, 1]])
WORDS = np.array([["a", "b c"], ["a", "d\ne"]])
ADAPTED = {
    "Normalization": lambda: adapted(keras.layers.Normalization(), NUMBERS),
    "Discretization": lambda: adapted(keras.layers.Discretization(num_bins=3), NUMBERS),
    "IntegerLookup": lambda: adapted(keras.layers.IntegerLookup(), NUMBERS.astype("int64")),
    "StringLookup": lambda: adapted(keras.layers.StringLookup(mask_token="a"), WORDS),
    "tf_idf": lambda: adapted(
        keras.layers.StringLookup(output_mode="tf_idf", max_tokens=9, pad_to_max_tokens=True), WORDS
    ),
    "TextVectorization": lambda: adapted(keras.layers.TextVectorization(), WORDS[:, 1:]),
}


@pytest.mark.parametrize("name", ADAPTED)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside"])
def test_what_a_layer_has_adapted_to_is_kept(name, inside):
    layer = ADAPTED[name]()
    data = NUMBERS.astype("int64") if name == "IntegerLookup" else NUMBERS
    if layer.input_dtype == "string":
        data = tf.constant([["b c"], ["d\ne"], ["x"]] if name == "TextVectorization" else WORDS)
    layer = keras.Sequential([layer]) if inside else layer
    again = rebuild(layer, seed_offset=1)
    np.testing.assert_array_equal(again(data), layer(data))
    assert not shared_variables(again, layer)


def test_what_was_adapted_too_late_to_be_kept_is_refused():
    layer = Late(name="odd")
    assert not rebuild(layer).built
    layer(NUMBERS)
    layer.inner.adapt(NUMBERS)
    with pytest.raises(ValueError, match=r"'odd' .* adapted to: 'inner' of type Normalization"):
        rebuild(layer)


def test_a_trunk_is_the_objects_themselves():
    layer, model = keras.layers.Dense(2), functional()
    assert resolve_trunk(layer) == [layer]
    assert resolve_trunk([layer, model]) == [layer, model]
    assert resolve_trunk(lambda: model) == [model]
    assert resolve_trunk(lambda: [layer, model]) == [layer, model]


@pytest.mark.parametrize(
    "trunk", ["resnet", None, 3, keras.layers.Dense, lambda x: x, lambda: "resnet", {"a": 1}]
)
def test_other_trunks_are_refused(trunk):
    with pytest.raises(TypeError, match="`trunk` must be a layer, a model, a list of layers, or"):
        resolve_trunk(trunk)


def test_stages_must_be_layers():
    with pytest.raises(TypeError, match="Entry 1 of `trunk` must be a Keras layer, received 'no'"):
        resolve_trunk([keras.layers.Dense(2), "no"])


def test_the_input_of_a_model_is_no_stage():
    inputs = keras.Input((3,), name="frames")
    layers = keras.Model(inputs, keras.layers.Dense(2)(inputs)).layers
    with pytest.raises(ValueError, match="Entry 0 of `trunk` must not be an input, received 'fra"):
        resolve_trunk(layers)


def test_an_empty_trunk_is_refused():
    with pytest.raises(ValueError, match=r"`trunk` must be .* received an empty list"):
        resolve_trunk([])


@pytest.mark.parametrize("form", [lambda tower: tower, lambda tower: lambda: tower])
def test_a_tower_is_rebuilt_and_named_after_its_task(form):
    tower = keras.layers.Dense(3)
    (again,) = resolve_tower(form(tower), "digit")
    assert (again.name, again.units, again is tower) == ("digit_tower", 3, False)


def test_the_layers_of_a_tower_are_numbered():
    layers = resolve_tower([keras.layers.Dense(3), keras.layers.ReLU()], "digit")
    assert [layer.name for layer in layers] == ["digit_tower_0", "digit_tower_1"]


def test_no_tower_is_no_layer():
    assert resolve_tower(None, "digit") == []

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.core.rebuild import rebuild, resolve_tower, resolve_trunk
from keras_mtl.heads import Regression


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


class Keeping(keras.layers.Layer):
    """A layer that keeps the config of the one inside, as it was given."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.inner = keras.saving.deserialize_keras_object(config)

    def call(self, inputs):
        return self.inner(inputs)

    def get_config(self):
        return {**super().get_config(), "config": self.config}


class Late(keras.layers.Layer):
    """A layer that makes another one only when it is built."""

    def build(self, shape):
        self.inner = keras.layers.Normalization(name="inner")
        self.inner.build(shape)

    def call(self, inputs):
        return self.inner(inputs)


def relu(x):
    """A function of the user's that has the name of one of Keras'."""
    return 0 * x + 7


def twos(shape, dtype=None):
    return 2 * keras.ops.ones(shape, dtype)


def times(factor, name="Block"):
    """A class of the user's of that name, such as of a cell that ran again."""
    call = {"call": lambda self, inputs: factor * inputs}
    return type(name, (keras.layers.Layer,), call)


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


@pytest.mark.parametrize(
    "activation", [relu, twos, keras.ops.gelu, keras.ops.square], ids=lambda f: f.__name__
)
@pytest.mark.parametrize(
    "make", [keras.layers.Activation, lambda f: Regression(activation=f)], ids=["layer", "head"]
)
def test_a_function_as_activation_stays_that_function(make, activation):
    assert rebuild(make(activation)).activation is activation


@pytest.mark.parametrize(
    "part", ["kernel_initializer", "bias_initializer", "kernel_regularizer", "kernel_constraint"]
)
def test_other_functions_stay_too(part):
    assert getattr(rebuild(keras.layers.Dense(2, **{part: twos})), part) is twos


def test_a_function_inside_a_model_and_one_of_keras_of_its_name_stay_apart():
    model = keras.Sequential([keras.layers.Dense(2, relu), keras.layers.Dense(2, "relu")])
    assert [layer.activation for layer in rebuild(model).layers] == [relu, keras.activations.relu]


def test_values_as_initializer_stay():
    again = rebuild(keras.layers.Dense(1, kernel_initializer=np.float32([[3], [4]])))
    np.testing.assert_array_equal(again(np.eye(2)), [[3], [4]])


def test_classes_of_one_name_stay_apart():
    first, second = times(2.0), times(100.0)
    again = rebuild(keras.Sequential([first(), second(), first()]))
    assert [type(layer) for layer in again.layers] == [first, second, first]
    assert float(again(np.ones((1, 1)))[0, 0]) == 2 * 100 * 2


def test_a_class_with_a_name_of_keras_stays_apart():
    own = times(2.0, "Dense")
    again = rebuild(keras.Sequential([own(), keras.layers.Dense(2)]))
    assert [type(layer) for layer in again.layers] == [own, keras.layers.Dense]


def test_a_class_that_was_registered_again_stays_the_old_one():
    old, new = times(2.0), times(3.0)
    for cls in (old, new):
        keras.saving.register_keras_serializable("test_rebuild")(cls)
    again = rebuild(keras.Sequential([old(), new()]))
    assert [type(layer) for layer in again.layers] == [old, new]
    assert keras.saving.get_registered_name(old) == "test_rebuild>Block"


def test_a_config_that_a_layer_has_kept_still_means_its_class():
    with keras.saving.custom_object_scope({"Scale": Scale}):
        layer = Keeping(keras.saving.serialize_keras_object(Scale(3.0)))
    again = rebuild(keras.Sequential([layer]))
    assert float(again(np.ones((1, 1)))[0, 0]) == 3


def test_names_are_as_before_afterwards():
    keras_relu = keras.layers.Dense(2, "relu").get_config()
    rebuild(keras.layers.Dense(2, relu))
    assert keras.saving.get_registered_name(relu) == "relu"
    assert keras.layers.Dense.from_config(keras_relu).activation is keras.activations.relu


def test_a_function_without_a_name_is_refused():
    layer = keras.layers.Dense(2, functools.partial(relu), name="odd")
    with pytest.raises(ValueError, match=r"Layer 'odd' .* functions with a name \(`def`\)"):
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

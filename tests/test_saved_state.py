"""What is saved beside the weights, and that weights stay those of a plain Keras model."""

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import keras_mtl

FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}
# The same graph on the same numbers: only the order of parallel sums can differ.
ROUNDING = 1e-6
# Two replicas add in another order.
REORDERED = 1e-5
METHODS = {"loss_weighting": "uncertainty", "gradient_balancing": "pcgrad"}


@keras.saving.register_keras_serializable(package="test_saved_state")
class Noise(layers.Layer):
    """A user's layer with random states in a list."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generators = [keras.random.SeedGenerator() for _ in range(2)]

    def call(self, inputs, training=False):
        for generator in self.generators if training else []:
            noise = keras.random.normal(keras.ops.shape(inputs), dtype=inputs.dtype, seed=generator)
            inputs += 0.1 * noise
        return inputs


def make_graph(tasks=("size", "age", "color")):
    """Dropout in a Sequential in a nested model, in a head, and random states of a user's."""
    inner = layers.Input((6,))
    block = keras.Sequential([layers.Dropout(0.3), Noise(), layers.Dense(6, "tanh")], name="block")
    trunk = keras.Model(inner, block(inner), name="trunk")
    inputs = keras.Input((5,), name="x")
    hidden = trunk(layers.Dense(6, "tanh", name="stem")(inputs))
    outputs = {}
    for task in tasks:
        outputs[task] = layers.Dense(1, name=f"{task}_out")(layers.Dropout(0.3)(hidden))
    return inputs, outputs


def make_model(seed=0, **given):
    keras.utils.set_random_seed(seed)
    model = keras_mtl.MultiTaskModel(*make_graph())
    model.compile(keras.optimizers.Adam(0.01), loss="mse", **given)
    return model


def make_data():
    random = np.random.default_rng(0)
    x = random.normal(size=(16, 5)).astype("float32")
    return x, {
        task: random.normal(size=(16, 1)).astype("float32") for task in ("size", "age", "color")
    }


def numbers(model):
    return [variable.numpy() for variable in [*model.weights, *model.optimizer.variables]]


def assert_same(found, expected, tolerance=ROUNDING):
    assert len(found) == len(expected)
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("file", ["model.keras", "model.weights.h5"])
def test_random_states_of_nested_layers_go_on_where_they_were(file, tmp_path):
    x, y = make_data()
    whole = make_model(**METHODS)
    whole.fit(x, y, epochs=4, **FIT)
    half = make_model(**METHODS)
    half.fit(x, y, epochs=2, **FIT)
    if file == "model.keras":
        half.save(tmp_path / file)
        loaded = keras.saving.load_model(tmp_path / file)
    else:
        half.save_weights(tmp_path / file)
        loaded = make_model(seed=9, **METHODS)
        loaded.load_weights(tmp_path / file)
    loaded.fit(x, y, epochs=2, **FIT)
    assert_same(numbers(loaded), numbers(whole))


def test_random_states_matter_to_the_test_above():
    x, y = make_data()
    runs = [make_model(), make_model()]
    for generator in runs[1]._list_seed_generators():
        generator.state.assign(generator.state + 1)
    for model in runs:
        model.fit(x, y, **FIT)
    difference = np.abs(runs[0].get_weights()[0] - runs[1].get_weights()[0])
    assert np.max(difference) > 100 * ROUNDING


def test_weights_are_those_of_the_plain_model():
    model = make_model(**METHODS)
    model.fit(*make_data(), **FIT)
    plain = keras.Model(*make_graph())
    assert [w.shape for w in model.weights] == [w.shape for w in plain.weights]
    assert model.count_params() == plain.count_params()
    assert len(model.trainable_variables) == len(plain.trainable_variables)
    assert model.layers[1].name == "stem"


def test_plain_model_loads_the_weights_and_gives_them_back(tmp_path):
    x, y = make_data()
    model = make_model(**METHODS)
    model.fit(x, y, **FIT)
    model.save_weights(tmp_path / "mtl.weights.h5")
    plain = keras.Model(*make_graph())
    plain.load_weights(tmp_path / "mtl.weights.h5")
    assert_same(plain.get_weights(), model.get_weights(), 0.0)
    plain.save_weights(tmp_path / "plain.weights.h5")
    untrained = keras_mtl.MultiTaskModel(*make_graph())
    untrained.load_weights(tmp_path / "plain.weights.h5")
    assert_same(untrained.get_weights(), model.get_weights(), 0.0)


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")  # as plain Keras
def test_compiled_model_loads_the_weights_of_a_plain_one(tmp_path):
    keras.utils.set_random_seed(1)
    plain = keras.Model(*make_graph())
    plain.save_weights(tmp_path / "plain.weights.h5")
    model = make_model(loss_weighting="uncertainty")
    model.load_weights(tmp_path / "plain.weights.h5")
    assert_same(model.get_weights(), plain.get_weights(), 0.0)
    model.fit(*make_data(), **FIT)


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_state_of_another_weighting_is_not_taken_for_ones_own(tmp_path):
    uncertain = make_model(loss_weighting="uncertainty")
    uncertain._training_state.loss_weighting.log_variances.assign([1.0, 2.0, 3.0])
    uncertain.save_weights(tmp_path / "uncertain.weights.h5")
    learned = make_model(loss_weighting="learned")
    with pytest.warns(UserWarning, match=r"log_variances.*expected.*logits.*Learned"):
        learned.load_weights(tmp_path / "uncertain.weights.h5")
    np.testing.assert_array_equal(learned._training_state.loss_weighting.logits, np.zeros(3))
    assert_same(learned.get_weights(), uncertain.get_weights(), 0.0)


def test_order_of_tasks_survives(tmp_path):
    model = make_model(loss_weights={"age": 0.5})
    model.save(tmp_path / "model.keras")
    for other in (keras.saving.load_model(tmp_path / "model.keras"), model.clone()):
        assert list(other.tasks) == ["size", "age", "color"]
        assert list(other.output) == ["size", "age", "color"]
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert dict(loaded.loss_weights) == {"size": 1.0, "age": 0.5, "color": 1.0}


def test_a_clone_keeps_functions_of_the_user_and_what_layers_have_adapted_to():
    def relu(x):
        return 0.0 * x + 7.0

    x = np.random.default_rng(0).normal(20.0, 5.0, size=(64, 3)).astype("float32")
    scaling = keras.layers.Normalization()
    scaling.adapt(x)
    inputs = keras.Input((3,))
    scaled = scaling(inputs)
    outputs = {
        "scaled": keras.layers.Identity()(scaled),
        "sevens": keras.layers.Activation(relu)(scaled),
    }
    clone = keras_mtl.MultiTaskModel(inputs, outputs).clone()
    answers = clone.predict(x, verbose=0)
    np.testing.assert_allclose(answers["scaled"], (x - x.mean(axis=0)) / x.std(axis=0), atol=1e-4)
    np.testing.assert_array_equal(answers["sevens"], np.full((64, 3), 7.0))


def test_constants_and_stopped_tasks_are_saved(tmp_path):
    x, y = make_data()
    model = make_model()
    model.loss_weights["color"] = 0.125
    model.stop_task("age")
    model.fit(x, y, **FIT)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert dict(loaded.loss_weights) == {"size": 1.0, "age": 1.0, "color": 0.125}
    assert dict(loaded.task_weights) == {"size": 1.0, "age": 0.0, "color": 0.125}
    head = loaded.get_layer("age_out").kernel.numpy()
    loaded.fit(x, y, **FIT)
    np.testing.assert_array_equal(loaded.get_layer("age_out").kernel, head)


def test_second_compile_replaces_the_weighting(tmp_path):
    x, y = make_data()
    model = make_model(loss_weighting="uncertainty")
    model.fit(x, y, **FIT)
    before = model.get_weights()
    model.compile("sgd", loss="mse", loss_weighting="dynamic_weight_average")
    assert_same(model.get_weights(), before, 0.0)
    model.fit(x, y, epochs=3, **FIT)
    assert sum(model.task_weights.values()) == pytest.approx(3.0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(numbers(loaded), numbers(model), 0.0)
    loaded.fit(x, y, **FIT)
    model.fit(x, y, **FIT)
    assert_same(numbers(loaded), numbers(model))


def test_compile_with_the_same_weighting_keeps_its_state():
    x, y = make_data()
    model = make_model(loss_weighting="uncertainty")
    model.fit(x, y, epochs=2, **FIT)
    weighting = model._training_state.loss_weighting
    state = weighting.log_variances.numpy()
    model.compile("sgd", loss="mse", loss_weighting=weighting)
    np.testing.assert_array_equal(weighting.log_variances, state)
    model.fit(x, y, **FIT)
    assert np.all(weighting.log_variances.numpy() != state)


def test_one_weighting_given_to_two_models_keeps_two_states():
    x, y = make_data()
    weighting = keras_mtl.weighting.Uncertainty()
    balancing = keras_mtl.balancing.PCGrad(seed=1)
    first = make_model(loss_weighting=weighting, gradient_balancing=balancing)
    second = make_model(loss_weighting=weighting, gradient_balancing=balancing)
    first.fit(x, y, **FIT)
    states = [model._training_state.loss_weighting.log_variances for model in (first, second)]
    assert np.all(states[0].numpy() != 0.0)
    assert np.all(states[1].numpy() == 0.0)
    assert second._training_state.gradient_balancing is not balancing
    second.fit(x, y, **FIT)


def test_clone_shares_nothing_and_is_not_compiled():
    model = make_model()
    copy = model.clone()
    assert not copy.compiled
    assert [w.shape for w in copy.weights] == [w.shape for w in model.weights]
    kernel = copy.get_layer("stem").kernel.numpy()
    assert np.any(kernel != model.get_layer("stem").kernel.numpy())
    model.fit(*make_data(), **FIT)
    np.testing.assert_array_equal(copy.get_layer("stem").kernel, kernel)


def test_compile_again_goes_on_from_the_weights():
    x, y = make_data()
    model = make_model()
    losses = model.fit(x, y, epochs=20, **FIT).history["loss"]
    model.compile(keras.optimizers.Adam(1e-6), loss="mse")
    again = model.fit(x, y, **FIT).history["loss"]
    assert again[0] < 0.5 * (losses[0] + losses[-1])


def test_model_saved_on_one_device_goes_on_under_two_replicas(strategy, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), name="x")
    hidden = layers.Dense(6, "tanh")(inputs)
    outputs = {task: layers.Dense(1, name=task)(hidden) for task in ("size", "age", "color")}
    model = keras_mtl.MultiTaskModel(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.5), loss="mse", **METHODS)
    x, y = make_data()
    model.fit(x, y, epochs=2, **FIT)
    model.save(tmp_path / "model.keras")
    with strategy.scope():
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(x, y, epochs=2, **FIT)
    assert_same(numbers(loaded), numbers(model), REORDERED)


def test_loss_scale_of_half_precision_is_saved(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = make_model(**METHODS)
        x, y = make_data()
        model.optimizer.dynamic_scale.assign(2.0**10)
        model.fit(x, y, epochs=2, **FIT)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    assert float(loaded.optimizer.dynamic_scale) == 2.0**10
    assert_same(numbers(loaded), numbers(model), 0.0)
    for each in (model, loaded):
        each.fit(x, y, **FIT)
    assert_same(numbers(loaded), numbers(model))


def make_small(tasks, **given):
    """A model whose tasks come in the order given; plain SGD keeps nothing of its own."""
    inputs = keras.Input((5,), name="x")
    hidden = layers.Dense(4, "tanh")(inputs)
    outputs = {task: layers.Dense(1, name=task)(hidden) for task in tasks}
    model = keras_mtl.MultiTaskModel(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1), loss="mse", **given)
    return model


def reordered(source, tasks, path, **given):
    """Returns a model of `tasks` that has loaded the weights of `source`."""
    source.save_weights(path)
    model = make_small(tasks, **given)
    model.load_weights(path)
    return model


def without_names(path):
    """Makes a file as it was before the names of tasks were saved."""
    with h5py.File(path, "a") as file:
        named = []
        file.visit(lambda key: named.append(key) if key.endswith("vars/tasks") else None)
        for key in named:
            del file[key]
    assert named


def states(model):
    return np.asarray(model._training_state.stopped).tolist()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.weights.h5"


WEIGHTS = {"size": 0.125, "age": 2.0, "color": 4.0}


def test_constants_and_stopped_tasks_go_by_name(path):
    model = make_small(["size", "age", "color"], loss_weights=WEIGHTS)
    model.stop_task("size")
    loaded = reordered(model, ["color", "size", "age"], path)
    assert dict(loaded.loss_weights) == WEIGHTS
    assert states(loaded) == [0.0, 1.0, 0.0]


def test_compile_after_load_weights_starts_with_new_constants_and_all_tasks(path):
    model = make_small(WEIGHTS, loss_weights=WEIGHTS)
    model.stop_task("size")
    model.save_weights(path)
    loaded = make_small(WEIGHTS, loss_weights={"age": 3.0})
    loaded.load_weights(path)
    assert dict(loaded.loss_weights) == WEIGHTS
    assert states(loaded) == [1.0, 0.0, 0.0]
    loaded.compile("sgd", loss="mse", loss_weights={"age": 3.0})
    assert dict(loaded.loss_weights) == {"size": 1.0, "age": 3.0, "color": 1.0}
    assert states(loaded) == [0.0, 0.0, 0.0]
    assert_same(loaded.get_weights(), model.get_weights(), 0.0)


@pytest.mark.parametrize(
    "methods",
    [{"loss_weighting": "dynamic_weight_average"}, {"gradient_balancing": "moco"}],
    ids=["entries", "rows"],
)
def test_state_of_methods_goes_by_name(methods, path):
    x, y = make_data()
    model = make_small(["size", "age", "color"], **methods)
    model.fit(x, y, epochs=3, **FIT)
    loaded = reordered(model, ["color", "size", "age"], path, **methods)
    for each in (model, loaded):
        each.fit(x, y, **FIT)
    assert dict(loaded.task_weights) == pytest.approx(dict(model.task_weights), rel=ROUNDING)
    assert_same(loaded.get_weights(), model.get_weights())


def test_state_of_pairs_of_tasks_goes_by_name(path):
    model = make_small(["size", "age", "color"], gradient_balancing="gradvac")
    balancing = model._training_state.gradient_balancing
    balancing.targets.assign([[0.0, 0.1, 0.2], [0.3, 0.0, 0.5], [0.6, 0.7, 0.0]])
    loaded = reordered(model, ["color", "size", "age"], path, gradient_balancing="gradvac")
    expected = [[0.0, 0.6, 0.7], [0.2, 0.0, 0.1], [0.5, 0.3, 0.0]]
    np.testing.assert_allclose(loaded._training_state.gradient_balancing.targets, expected)


def test_a_file_without_names_goes_by_position(path):
    model = make_small(["size", "age", "color"], loss_weights=WEIGHTS, loss_weighting="uncertainty")
    model._training_state.loss_weighting.log_variances.assign([1.0, 2.0, 3.0])
    model.save_weights(path)
    without_names(path)
    loaded = make_small(["color", "size", "age"], loss_weighting="uncertainty")
    loaded.load_weights(path)
    assert dict(loaded.loss_weights) == {"color": 0.125, "size": 2.0, "age": 4.0}
    variances = loaded._training_state.loss_weighting.log_variances
    np.testing.assert_array_equal(variances, [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("tasks", "weights", "stopped", "variances"),
    [
        (["color", "age"], [4.0, 2.0], [1.0, 0.0], [3.0, 2.0]),
        (["age", "new", "size"], [2.0, 7.0, 0.125], [0.0, 0.0, 0.0], [2.0, 0.0, 1.0]),
    ],
    ids=["fewer", "others"],
)
def test_tasks_in_a_file_of_other_tasks_are_taken(path, tasks, weights, stopped, variances):
    model = make_small(WEIGHTS, loss_weights=WEIGHTS, loss_weighting="uncertainty")
    model._training_state.loss_weighting.log_variances.assign([1.0, 2.0, 3.0])
    model.stop_task("color")
    given = {"loss_weights": dict.fromkeys(tasks, 7.0), "loss_weighting": "uncertainty"}
    model.save_weights(path)
    loaded = make_small(tasks, **given)
    with pytest.warns(UserWarning, match="see that each head has got the weights of its own task"):
        loaded.load_weights(path)
    assert list(loaded.loss_weights.values()) == weights
    assert states(loaded) == stopped
    found = loaded._training_state.loss_weighting.log_variances
    np.testing.assert_array_equal(found, variances)
    np.testing.assert_array_equal(loaded.layers[1].kernel, model.layers[1].kernel)


def test_other_tasks_of_a_file_without_names_start_afresh(path):
    methods = {"loss_weighting": "uncertainty"}
    make_small(["size", "age", "color"], loss_weights=WEIGHTS, **methods).save_weights(path)
    without_names(path)
    loaded = make_small(["size", "age"], loss_weights={"age": 3.0}, **methods)
    with pytest.warns(UserWarning) as record:
        loaded.load_weights(path)
    messages = sorted(str(warning.message) for warning in record)
    assert "of 3 tasks without their names, expected those of ['size', 'age']" in messages[0]
    assert "shape (3,), expected (2,) for Uncertainty, which starts afresh" in messages[1]
    assert dict(loaded.loss_weights) == {"size": 1.0, "age": 3.0}

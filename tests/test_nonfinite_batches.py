"""`on_nonfinite`: a batch with a NaN or infinite loss or gradient stops or is left out, whole."""

import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl.heads import Classification, Regression

BATCH, STEPS = 4, 4
ROWS = BATCH * STEPS
random = np.random.default_rng(0)
X = random.normal(size=(ROWS, 3)).astype("float32")
BAD = slice(BATCH, 2 * BATCH)  # the second batch
GOOD = np.r_[0:BATCH, 2 * BATCH : ROWS]


def labels():
    age = random.normal(size=(ROWS, 1)).astype("float32")
    return {"age": age, "job": np.arange(ROWS) % 3}


def build(trunk=None, optimizer=None, **compile_arguments):
    keras.utils.set_random_seed(3)
    trunk = trunk or (lambda: keras.layers.Dense(4, activation="relu", name="trunk"))
    tasks = {"age": Regression(), "job": Classification(3)}
    model = keras_mtl.architectures.hard_sharing(keras.Input((3,), name="x"), trunk, tasks)
    model.compile(optimizer or keras.optimizers.SGD(0.1), **compile_arguments)
    return model


def normalized():
    return [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.ReLU()]


def fit(model, x, y, **arguments):
    arguments = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(x, y, **arguments).history


def infinite_label():
    y = labels()
    y["age"][BAD] = np.inf
    return X, y


def nan_input():
    x = X.copy()
    x[BAD] = np.nan
    return x, labels()


@pytest.mark.parametrize(
    "arguments", [{}, {"jit_compile": True}, {"jit_compile": True, "steps_per_execution": 4}]
)
def test_raise_names_the_task_and_applies_no_update(arguments):
    x, y = infinite_label()
    model = build(on_nonfinite="raise", **arguments)
    before = model.get_weights()
    bad_first = np.r_[BATCH:ROWS, 0:BATCH]
    with pytest.raises(FloatingPointError, match=r"of task \['age'\] is NaN or infinite; the upd"):
        fit(model, x[bad_first], {task: part[bad_first] for task, part in y.items()})
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert int(model.optimizer.iterations) == 0


def test_a_model_that_raised_trains_on():
    x, y = infinite_label()
    model, twin = build(on_nonfinite="raise"), build()
    with pytest.raises(FloatingPointError, match="is NaN or infinite"):
        fit(model, x, y)
    fit(twin, x[:BATCH], {task: part[:BATCH] for task, part in y.items()})
    for one in (model, twin):
        fit(one, x[GOOD], {task: part[GOOD] for task, part in y.items()})
    for left, right in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6)


def test_a_nan_input_whose_loss_is_finite_is_found_by_its_gradient():
    x, y = nan_input()
    # What a ReLU makes of NaN depends on the machine.
    positive = lambda x: keras.ops.where(x > 0, x, 0.0)  # noqa: E731
    trunk = keras.layers.Dense(4, activation=positive, name="trunk")
    model = build(lambda: trunk, on_nonfinite="raise")
    loss = model.evaluate(x[BAD], {task: part[BAD] for task, part in y.items()}, verbose=0)[0]
    assert np.isfinite(loss)
    with pytest.raises(FloatingPointError, match=r"shared by tasks \['age', 'job'\] is NaN"):
        fit(model, x, y)


WAYS = {
    "plain": {},
    "uncertainty": {"loss_weighting": "uncertainty"},
    "average": {"loss_weighting": "dynamic_weight_average", "optimizer": "adam"},
    "mgda": {"gradient_balancing": "mgda"},
    "xla": {"jit_compile": True},
}


@pytest.mark.parametrize(
    ("way", "make"),
    [
        ("plain", nan_input),
        ("uncertainty", infinite_label),
        ("average", infinite_label),
        ("mgda", nan_input),
        ("xla", infinite_label),
    ],
)
def test_skip_is_as_if_the_batch_had_not_been(way, make):
    x, y = make()
    model = build(normalized, on_nonfinite="skip", **WAYS[way])
    without = build(normalized, **WAYS[way])
    history = fit(model, x, y, epochs=2)
    expected = fit(without, x[GOOD], {task: part[GOOD] for task, part in y.items()}, epochs=2)
    assert history.pop("skipped_updates") == [1.0, 1.0]
    assert history.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5, err_msg=name)
    for left, right in zip(model.get_weights(), without.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


def test_by_default_a_bad_batch_does_what_it_does_in_keras():
    x, y = infinite_label()
    model = build()
    history = fit(model, x, y)
    assert not np.isfinite(history["loss"][0])
    assert "skipped_updates" not in history
    assert np.isnan(model.get_layer("trunk").kernel.numpy()).any()


@keras.saving.register_keras_serializable(package="tests")
class LogSum(keras_mtl.weighting.LossWeighting):
    """Undefined for negative losses, with a state that a refused batch must not move."""

    takes_negative_losses = False

    def build(self, input_shape):
        super().build(input_shape)
        self.last = self.add_task_variable("last")

    def call(self, task_losses, active):
        return keras.ops.sum(active * keras.ops.log(keras.ops.abs(task_losses) + 1e-6))

    def update_state(self, task_losses, active):
        self.last.assign(task_losses)


def signed(y_true, y_pred):
    return keras.ops.mean(y_true + 0.0 * y_pred, axis=-1)


@pytest.mark.parametrize("policy", [None, "raise", "skip"])
@pytest.mark.parametrize("arguments", [{}, {"jit_compile": True, "steps_per_execution": 4}])
def test_a_negative_loss_stops_a_weighting_that_is_undefined_for_it(policy, arguments):
    x, y = X, labels()
    y["age"] = np.abs(y["age"])
    y["age"][BAD] = -1.0
    weighting = LogSum()
    loss = {"age": signed}
    model = build(loss=loss, loss_weighting=weighting, on_nonfinite=policy, **arguments)
    with pytest.raises(ValueError, match=r"LogSum is undefined for negative.*of task 'age' must"):
        fit(model, x, y)
    first = {task: part[:BATCH] for task, part in y.items()}
    twin = build(loss=loss, loss_weighting=LogSum(), **arguments)
    fit(twin, x[:BATCH], first)
    for old, new in zip(twin.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(weighting.last[0], np.mean(y["age"][:BATCH]), rtol=1e-6)
    fit(model, x[:BATCH], first)


def test_losses_known_to_be_nonnegative_are_not_watched():
    assert not build(loss_weighting=LogSum())._step.refuses_negative
    assert build(loss={"age": signed}, loss_weighting=LogSum())._step.refuses_negative

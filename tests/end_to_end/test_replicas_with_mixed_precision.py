"""Two replicas with mixed precision, stopped half-way and resumed from a file."""

import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl.heads import Classification, Regression

ROWS = 16
random = np.random.default_rng(0)
X = random.normal(size=(ROWS, 4)).astype("float32")
Y = {"age": X @ [[1.0], [-1.0], [0.5], [2.0]], "job": np.arange(ROWS) % 3}
Y["age"][[0, 5]] = np.nan


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


def build():
    keras.utils.set_random_seed(2)
    trunk = [
        keras.layers.Dense(8, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.2),
    ]
    tasks = {"age": Regression(), "job": Classification(3)}
    model = keras_mtl.architectures.hard_sharing(keras.Input((4,), name="x"), trunk, tasks)
    model.compile(keras.optimizers.Adam(0.01), loss_weighting="uncertainty")
    return model


def fit(model, first, last):
    arguments = {"batch_size": 8, "shuffle": False, "verbose": 0}
    return model.fit(X, Y, initial_epoch=first, epochs=last, **arguments).history


def test_training_resumes_exactly(policy, strategy, tmp_path):
    with strategy.scope():
        through, halved = build(), build()
    whole = fit(through, 0, 4)
    fit(halved, 0, 2)
    halved.save(tmp_path / "half.keras")
    with strategy.scope():
        resumed = keras.models.load_model(tmp_path / "half.keras")
    rest = fit(resumed, 2, 4)
    assert whole["loss"][-1] < whole["loss"][0]
    for name, values in rest.items():
        # Nothing differs but the order in which two replicas add float32 numbers.
        np.testing.assert_allclose(values, whole[name][2:], rtol=1e-4, err_msg=name)
    assert {v.dtype for v in resumed.trainable_variables} == {"float32"}
    assert resumed.layers[1].compute_dtype == policy.removeprefix("mixed_")
    scaled = isinstance(resumed.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled is (policy == "mixed_float16")
    for left, right in zip(resumed.get_weights(), through.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4)


def test_a_stopped_task_stays_as_it_is_under_replicas(strategy):
    with strategy.scope():
        tower = [keras.layers.Dense(2), keras.layers.BatchNormalization()]
        tasks = {"age": keras_mtl.Task(Regression(), tower=tower), "job": Classification(3)}
        trunk = keras.layers.Dense(4)
        model = keras_mtl.architectures.hard_sharing(keras.Input((4,), name="x"), trunk, tasks)
        model.compile("adam")
    fit(model, 0, 1)
    model.stop_task("age")
    before = {v.path: v.numpy() for v in model.weights}
    fit(model, 1, 2)
    moved = {v.path.split("/")[0] for v in model.weights if (v.numpy() != before[v.path]).any()}
    assert moved == {trunk.name, "job"}

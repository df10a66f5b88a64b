"""What a plain Keras model takes without a word, a multi-task model takes too."""

import contextlib

import keras
import numpy as np
import pytest

import keras_mtl

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = {"age": X[:, :1] * 2.0, "job": (X[:, 0] > 0).astype("int32")}


def build():
    inputs = keras.Input((3,), name="x")
    features = keras.layers.Dense(4)(inputs)
    outputs = {
        "age": keras.layers.Dense(1)(features),
        "job": keras.layers.Dense(2, activation="softmax")(features),
    }
    return keras_mtl.MultiTaskModel(inputs, outputs)


def _squared(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


LOSSES = {"lambda": lambda y, p: keras.ops.square(y - p), "_name": _squared}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_function_may_have_any_name(loss):
    model = build()
    model.compile("sgd", loss={"age": loss, "job": "sparse_categorical_crossentropy"})
    model.fit(X, Y, verbose=0)
    predictions = model.predict(X, verbose=0)["age"]
    measured = model.evaluate(X, Y, return_dict=True, verbose=0)["age_loss"]
    assert measured == pytest.approx(np.mean((predictions - Y["age"]) ** 2), rel=1e-5)


@pytest.mark.parametrize("metric", ["accuracy", "acc", "sparse_categorical_accuracy"])
def test_callbacks_take_accuracy_by_name_to_be_better_where_higher(metric):
    model = build()
    model.compile("sgd", loss={"age": "mse", "job": "ce"}, metrics={"job": metric})
    callback = keras.callbacks.EarlyStopping(f"val_job_{metric}")
    callback.set_model(model)
    callback._set_monitor_op()
    assert bool(callback.monitor_op(1.0, 0.0))


def test_callbacks_ask_for_the_mode_of_a_metric_without_direction():
    model = build()
    model.compile("sgd", loss={"age": "mse", "job": "ce"}, metrics={"age": _squared})
    callback = keras.callbacks.EarlyStopping("val_age__squared")
    callback.set_model(model)
    with pytest.raises(ValueError, match="Pass `mode='max'`"):
        callback._set_monitor_op()
    with pytest.raises(ValueError, match="known direction"):
        model.compile(
            "sgd",
            loss={"age": "mse", "job": "ce"},
            metrics={"age": _squared},
            baselines={"age__squared": 1.0},
        )


def test_outputs_without_a_channel_axis_may_lack_labels_and_be_weighted():
    inputs = keras.Input((3,), name="x")
    age = keras.ops.squeeze(keras.layers.Dense(1)(inputs), axis=-1)
    model = keras_mtl.MultiTaskModel(inputs, {"age": age})
    model.compile("sgd", loss="mse")
    labels = np.array([1.0, np.nan, 2.0, np.nan, 0.0, 1.0, 1.0, 3.0], "float32")
    weights = np.arange(8, dtype="float32")
    predictions = model.predict(X, verbose=0)["age"]
    measured = model.evaluate(
        X, {"age": labels}, sample_weight=weights, return_dict=True, verbose=0
    )
    expected = np.nansum(weights * (predictions - labels) ** 2) / 6
    assert measured["age_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_model_without_an_optimizer_can_be_evaluated():
    model = build()
    model.compile(None, loss={"age": "mse", "job": "ce"})
    assert model.evaluate(X, Y, return_dict=True, verbose=0)["loss"] > 0


def small_model(cls=keras_mtl.MultiTaskModel):
    inputs = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(4, "tanh", name="trunk")(inputs)
    outputs = {task: keras.layers.Dense(1, name=task)(hidden) for task in ("b", "a")}
    return cls(inputs, outputs, tasks={"b": keras_mtl.Task(loss_weight=0.3, auxiliary=True)})


ROWS_X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
ROWS_Y = {task: ROWS_X[:, :1] for task in ("a", "b")}


def test_keras_clones_a_compiled_model_with_its_tasks():
    model = small_model()
    model.compile("sgd", loss="mse")

    clone = keras.models.clone_model(model)

    assert dict(clone.loss_weights) == {"b": pytest.approx(0.3), "a": 1.0}
    assert [task for task, spec in clone.tasks.items() if spec.auxiliary] == ["b"]


@keras.saving.register_keras_serializable(package="test_as_in_keras")
class OneColumn(keras_mtl.MultiTaskModel):
    """A user's model with a constructor and a config of its own."""

    def __init__(self, columns=4, **kwargs):
        inputs = keras.Input((columns,), name="x")
        super().__init__(inputs, {"a": keras.layers.Dense(1, name="a")(inputs)}, **kwargs)
        self.columns = columns

    def get_config(self):
        return {"columns": self.columns}


def test_a_subclass_with_a_constructor_of_its_own_is_saved_and_cloned(tmp_path):
    model = OneColumn(3)
    model.compile("sgd", loss="mse", loss_weights={"a": 0.5})
    model.save(tmp_path / "model.keras")

    loaded = keras.saving.load_model(tmp_path / "model.keras")

    assert type(loaded) is type(model.clone()) is OneColumn
    assert dict(loaded.loss_weights) == {"a": 0.5}
    np.testing.assert_array_equal(loaded.predict(ROWS_X)["a"], model.predict(ROWS_X)["a"])


def test_what_is_frozen_after_compile_and_before_fit_stays():
    model = small_model()
    model.compile("sgd", loss="mse")
    trunk, head = model.get_layer("trunk"), model.get_layer("a")
    trunk.trainable = False
    before, head_before = trunk.get_weights(), head.get_weights()

    model.fit(ROWS_X, ROWS_Y, verbose=0)

    np.testing.assert_array_equal(trunk.get_weights()[0], before[0])
    assert np.abs(head.get_weights()[0] - head_before[0]).max() > 0


def test_what_is_unfrozen_after_compile_asks_to_compile_again():
    model = small_model()
    model.get_layer("trunk").trainable = False
    model.compile("sgd", loss="mse")
    model.get_layer("trunk").trainable = True

    with pytest.raises(RuntimeError, match="Call `compile` again"):
        model.fit(ROWS_X, ROWS_Y, verbose=0)


def test_an_override_that_would_not_be_called_is_refused():
    class Own(keras_mtl.MultiTaskModel):
        def compute_loss(self, *args, **kwargs):
            return 0.0

    with pytest.raises(TypeError, match=r"Own overrides `compute_loss`.*override `train_step`"):
        small_model(Own).compile("sgd", loss="mse")


def test_weight_decay_leaves_learned_task_weights_alone():
    weighting = keras_mtl.weighting.Uncertainty(initial_log_variance=2.0)
    model = small_model()
    optimizer = keras.optimizers.AdamW(weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[model.get_layer("a").bias])
    model.compile(optimizer, loss="mse", loss_weighting=weighting)

    excluded = [weighting.log_variances, model.get_layer("a").bias]
    assert not any(optimizer._use_weight_decay(variable) for variable in excluded)
    assert optimizer._use_weight_decay(model.get_layer("b").kernel)


@pytest.mark.parametrize("clipping", ["clipnorm", "global_clipnorm", "clipvalue"])
@pytest.mark.parametrize("replicated", [False, True], ids=["one device", "two replicas"])
def test_clipping_leaves_learned_task_weights_alone(clipping, replicated, strategy):
    weighting = keras_mtl.weighting.Uncertainty()
    with strategy.scope() if replicated else contextlib.nullcontext():
        model = build()
        optimizer = keras.optimizers.SGD(1.0, **{clipping: 1e-3})
        losses = {"age": "mse", "job": "sparse_categorical_crossentropy"}
        model.compile(optimizer, loss=losses, loss_weighting=weighting)
    before = np.concatenate([np.ravel(array) for array in model.get_weights()])
    mean_losses = model.evaluate(X, Y, batch_size=8, verbose=0, return_dict=True)
    model.fit(X, Y, batch_size=8, epochs=1, verbose=0)

    # At s = 0 the gradient of f exp(-s) L + 0.5 s is 0.5 - f L, with f = 0.5 or 1.
    slopes = [0.5 - 0.5 * mean_losses["age_loss"], 0.5 - mean_losses["job_loss"]]
    np.testing.assert_allclose(weighting.log_variances, np.negative(slopes), rtol=1e-4)
    moved = np.concatenate([np.ravel(array) for array in model.get_weights()]) - before
    if clipping == "global_clipnorm":
        assert np.linalg.norm(moved) == pytest.approx(1e-3, rel=1e-3)
    assert np.abs(moved).max() <= 1e-3 * (1 + 1e-3)


ONE_HOT = np.eye(3, dtype="float32")[np.arange(8) % 3]
UNLABELLED = np.where(np.arange(8)[:, None] < 2, np.nan, ONE_HOT)
STEPS = np.eye(3, dtype="int32")[np.arange(8 * 4).reshape(8, 4) % 3]


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "crossentropy", "mse"])
@pytest.mark.parametrize("labels", [ONE_HOT, UNLABELLED, STEPS], ids=["rows", "missing", "steps"])
def test_the_accuracy_of_a_classification_head_follows_the_labels_of_the_loss(loss, labels):
    shape = labels.shape[1:-1]
    head = keras_mtl.heads.Classification(3, pooling=None)
    trunk = keras.layers.Dense(4, name="trunk")
    model = keras_mtl.architectures.hard_sharing(keras.Input((*shape, 3)), trunk, {"job": head})
    model.compile("sgd", loss={"job": loss})
    x = np.random.default_rng(0).normal(size=(8, *shape, 3)).astype("float32")

    found = model.evaluate(x, {"job": labels}, return_dict=True, verbose=0)

    right = model.predict(x, verbose=0)["job"].argmax(-1) == labels.argmax(-1)
    known = ~np.isnan(labels).any(axis=-1)
    assert found["job_accuracy"] == pytest.approx(right[known].mean())


def compute_in(dtype):
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)


@pytest.fixture
def float64():
    compute_in("float64")
    yield
    compute_in("float32")


@pytest.mark.usefixtures("float64")
def test_a_model_of_float64_is_trained_and_evaluated():
    inputs = keras.Input((3,), name="x")
    age = keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.1))
    model = keras_mtl.MultiTaskModel(inputs, {"age": age(inputs)})
    metric, gain = {"age": ["mae"]}, {"age_mae": 1.0}
    sgd = keras.optimizers.SGD(0.0)
    model.compile(sgd, loss="mse", weighted_metrics=metric, baselines=gain)
    x, labels, weights = np.float64(X), np.float64(X[:, :2]), np.linspace(0.0, 2.0, 8)
    labels[0, 0] = np.nan

    validation = (x, {"age": labels}, {"age": weights})
    logs = model.fit(x, {"age": labels}, validation_data=validation, verbose=0).history

    errors = model.predict(x, verbose=0)["age"] - labels
    total = np.nansum(weights[:, None] * errors**2) / 15 + 0.1 * np.square(age.kernel).sum()
    assert age.kernel.dtype == "float64"
    assert logs["val_loss"][0] == pytest.approx(total, rel=1e-5)
    mae = np.nansum(weights[:, None] * np.abs(errors)) / (2 * weights.sum() - weights[0])
    assert logs["val_age_mae"][0] == pytest.approx(mae, rel=1e-5)


LATE = {
    "f1": lambda: keras.metrics.F1Score("macro", threshold=0.5),
    "r2": keras.metrics.R2Score,
    "auc": lambda: keras.metrics.AUC(multi_label=True),
}


@pytest.mark.parametrize("metric", LATE.values(), ids=LATE)
def test_metrics_that_make_their_variables_late_are_compiled_by_xla(metric):
    found = []
    labels = (np.random.default_rng(1).uniform(size=(8, 2)) > 0.5).astype("float32")
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,))
        outputs = {"tags": keras.layers.Dense(2, activation="sigmoid")(inputs)}
        model = keras_mtl.MultiTaskModel(inputs, outputs)
        metrics = {"tags": [metric()]}
        model.compile("sgd", "binary_crossentropy", metrics=metrics, jit_compile=jit_compile)
        fitted = model.fit(X, {"tags": labels}, batch_size=4, epochs=2, shuffle=False, verbose=0)
        found.append([values for name, values in fitted.history.items() if name != "loss"])
    np.testing.assert_allclose(*found, rtol=1e-5)

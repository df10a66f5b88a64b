"""Keras' own callbacks monitor per-task values in their default mode."""

import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl.heads import Classification, Regression

random = np.random.default_rng(0)
X = random.normal(size=(12, 3)).astype("float32")
Y = {"age": X @ [[1.0], [2.0], [3.0]], "job": (X[:, 0] > 0).astype("int32")}
MONITORS = [
    ("val_job_accuracy", "up"),
    ("val_job_loss", "down"),
    ("val_age_mae", "down"),
    ("val_loss", "down"),
    ("val_delta_m", "up"),
    ("delta_m", "up"),
    ("val_delta_p", "up"),
]


@pytest.fixture(scope="module")
def model():
    tasks = {"age": Regression(), "job": Classification(2)}
    model = keras_mtl.architectures.hard_sharing(
        keras.Input((3,), name="x"), keras.layers.Dense(4, name="trunk"), tasks
    )
    model.compile(keras.optimizers.SGD(0.0), baselines={"job_accuracy": 0.5, "age_mae": 2.0})
    return model


def fit(model, callbacks, epochs=4):
    validation = (X[6:], {task: y[6:] for task, y in Y.items()})
    return model.fit(
        X, Y, epochs=epochs, verbose=0, validation_data=validation, callbacks=callbacks
    )


@pytest.mark.parametrize(("monitor", "better"), MONITORS)
def test_callbacks_know_what_is_better(model, monitor, better, tmp_path):
    model.optimizer.learning_rate = 1e-6
    stopping = keras.callbacks.EarlyStopping(monitor, patience=1, min_delta=1e3)
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.weights.h5", monitor, save_best_only=True, save_weights_only=True
    )
    plateau = keras.callbacks.ReduceLROnPlateau(monitor, patience=1, min_delta=1e3, min_lr=0.0)
    history = fit(model, [stopping, checkpoint, plateau])
    # Nothing is better by 1000: stopped and reduced after the first epoch without a gain.
    assert len(history.history["loss"]) == 2
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-7)
    for callback in (stopping, checkpoint, plateau):
        assert bool(callback.monitor_op(1e6, 0.0)) is (better == "up")
    assert (tmp_path / "best.weights.h5").exists()


def test_delta_m_is_the_mean_relative_gain_in_percent(model):
    model.optimizer.learning_rate = 0.0
    history = fit(model, [], epochs=1).history
    for prefix in ("", "val_"):
        accuracy, mae = history[f"{prefix}job_accuracy"][0], history[f"{prefix}age_mae"][0]
        expected = 100 * ((accuracy - 0.5) / 0.5 - (mae - 2.0) / 2.0) / 2
        assert history[f"{prefix}delta_m"][0] == pytest.approx(expected, rel=1e-5)


def test_a_callback_list_of_ones_own_is_used_as_it_is_and_may_be_used_again(model):
    model.compile("sgd", loss_weighting="dynamic_weight_average")
    epochs = []
    counter = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(1))
    callbacks = keras.callbacks.CallbackList([counter], model=model)
    for _ in range(2):
        fit(model, callbacks, epochs=1)
    assert len(epochs) == 2
    # The method's epoch begins once a fit, not once for every fit before it.
    assert len(callbacks.callbacks) == 2

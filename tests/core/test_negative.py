import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl.core import negative
from keras_mtl.core.losses import TaskLoss, resolve

random = np.random.default_rng(0)
ROWS = 20_000
SIZES = np.float32(10.0) ** random.integers(-9, 9, size=(ROWS, 1))
RAW = (random.normal(size=(ROWS, 3)) * SIZES).astype("float32")
NEARLY = (RAW * (1 + 1e-7 * random.normal(size=RAW.shape))).astype("float32")
SHARES = random.dirichlet(np.ones(3), ROWS).astype("float32")
YES_NO = np.where(SHARES < 0.3, np.round(SHARES), SHARES)


def is_nonnegative(loss):
    return negative.is_nonnegative(TaskLoss("age", resolve("age", loss)))


def labels_for(function):
    """Returns labels that pass the checks before training: any, where these leave them alone."""
    if function is keras.losses.sparse_categorical_crossentropy:
        return np.arange(ROWS) % 3
    return YES_NO if function is keras.losses.binary_crossentropy else NEARLY


@pytest.mark.parametrize("function", negative.NONNEGATIVE, ids=lambda function: function.__name__)
@pytest.mark.parametrize("predictions", [RAW, NEARLY, SHARES], ids=["raw", "nearly", "shares"])
def test_losses_on_the_list_are_not_negative_by_rounding_either(function, predictions):
    assert is_nonnegative(function)
    assert np.asarray(function(labels_for(function), predictions)).min() >= 0


@pytest.mark.parametrize("size", [1.0, 40.0])
def test_cross_entropies_of_logits_are_not_negative_by_rounding_either(size):
    logits = (size * RAW / SIZES).astype("float32")
    binary = keras.losses.binary_crossentropy(YES_NO, logits, from_logits=True)
    classes = logits.argmax(axis=1)
    sparse = keras.losses.sparse_categorical_crossentropy(classes, logits, from_logits=True)
    assert min(np.asarray(binary).min(), np.asarray(sparse).min()) >= 0


ONE, ROW = np.ones((1, 1), "float32"), np.array([[1.0, -1.0, 0.0]])
P = np.array([[0.9, 0.05, 0.05]])
SMALL = np.linspace(-1e-3, 1e-3, 1001, dtype="float32")[:, None]
CAN_BE_NEGATIVE = {
    "crossentropy": (keras.losses.categorical_crossentropy, ROW, P),
    "categorical_crossentropy": (keras.losses.categorical_crossentropy, ROW, P),
    "categorical_focal_crossentropy": (keras.losses.categorical_focal_crossentropy, ROW, P),
    "binary_focal": (keras.losses.BinaryFocalCrossentropy(gamma=3.0), ONE, 3 * ONE),
    "kl_divergence": (keras.losses.kl_divergence, 0.1 * ONE, 0.5 * ONE),
    "log_cosh": (keras.losses.log_cosh, 0 * SMALL, SMALL),
    "poisson": (keras.losses.poisson, 5 * ONE, 5 * ONE),
    "cosine_similarity": (keras.losses.cosine_similarity, P, P),
    "smoothing": (keras.losses.BinaryCrossentropy(label_smoothing=-1.0), ONE, 0.9 * ONE),
    "delta": (keras.losses.Huber(delta=-1.0), 0 * ONE, 0.1 * ONE),
}


@pytest.mark.parametrize("name", CAN_BE_NEGATIVE)
def test_losses_that_can_be_negative_are_not_taken_for_safe(name):
    loss, labels, predictions = CAN_BE_NEGATIVE[name]
    loss = "crossentropy" if name == "crossentropy" else loss
    assert np.asarray(CAN_BE_NEGATIVE[name][0](labels, predictions)).min() < 0
    assert not is_nonnegative(loss)


def test_rounding_of_a_loss_of_0_is_no_negative_loss():
    losses = np.array([-1e-7, -1e-6, -2e-6, 0.0, 1.0], "float32")
    kept = np.asarray(negative.without_rounding(losses))
    np.testing.assert_array_equal(kept, np.array([0.0, 0.0, -2e-6, 0.0, 1.0], "float32"))


def test_training_goes_on_where_log_cosh_rounds_below_0():
    inputs = keras.Input((1,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("age", "job")}
    model = keras_mtl.MultiTaskModel(inputs, outputs)
    loss = {"age": "log_cosh", "job": "mse"}
    model.compile(keras.optimizers.SGD(0.0), loss, loss_weighting="loss_balanced")
    y = np.asarray(model(SMALL)["age"]) + SMALL
    rows = keras.losses.log_cosh(y, model(SMALL)["age"])
    row = slice(int(np.argmin(rows)), int(np.argmin(rows)) + 1)
    assert negative.ROUNDING <= float(np.min(rows)) < 0
    labels = {"age": y[row], "job": y[row] + 1}
    history = model.fit(SMALL[row], labels, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()

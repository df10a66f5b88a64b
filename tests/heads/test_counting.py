import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl.core import negative
from keras_mtl.core.losses import TaskLoss
from keras_mtl.heads import Counting
from keras_mtl.heads.counting import PoissonDeviance

NAN = np.nan


def identity_head(units=1, **kwargs):
    """A head whose logits are its features."""
    return Counting(units, kernel_initializer="identity", **kwargs)


def softplus(z):
    return np.logaddexp(0.0, np.asarray(z, "float64"))


def deviance(y, rate):
    y, rate = np.asarray(y, "float64"), np.asarray(rate, "float64")
    return rate - y + np.where(y > 0, y * np.log(np.where(y > 0, y, 1.0) / rate), 0.0)


def value_and_gradient(head, logits, labels):
    """The loss of each element and its derivative by the logit, in a graph."""

    @tf.function
    def step(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            values = PoissonDeviance(reduction="none")(tf.constant(labels, tf.float32), head(z))
        return values, tape.gradient(values, z)

    return [part.numpy() for part in step(tf.constant(logits, tf.float32))]


def test_predictions_are_rates():
    features = np.array([[-3.0], [0.0], [5.0]])
    np.testing.assert_allclose(identity_head()(features), softplus(features), rtol=1e-6)
    np.testing.assert_allclose(
        identity_head(activation="exponential")(features), np.exp(features), rtol=1e-6
    )


def test_loss_is_half_the_deviance_by_hand():
    # y = 2, rate 1: 1 - 2 + 2 log 2; y = 0: the rate itself; y = rate: nothing.
    loss = PoissonDeviance()(np.array([[2.0], [0.0], [3.0]]), np.array([[1.0], [0.5], [3.0]]))
    np.testing.assert_allclose(loss, (2 * np.log(2) - 1 + 0.5 + 0.0) / 3, rtol=1e-6)


def test_loss_differs_from_the_likelihood_by_what_no_rate_changes():
    y, rates = np.array([[7.0]]), np.array([[0.1], [1.0], [6.0], [8.0], [900.0]])
    nll = rates - y * np.log(rates)  # of Poisson, without log y!
    losses = PoissonDeviance(reduction="none")(np.repeat(y, 5, 0), rates)
    np.testing.assert_allclose(losses, (nll - (7 - 7 * np.log(7)))[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["softplus", "exponential"])
@pytest.mark.parametrize("y", [0.0, 1e-8, 1.0, 7.0, 1e8])
def test_loss_and_gradient_are_exact_for_any_logit(activation, y):
    z = np.array([-200.0, -80.0, -20.5, -19.5, -3.0, 0.0, 2.0, 50.0])[:, None]
    values, gradients = value_and_gradient(identity_head(activation=activation), z, [[y]] * len(z))
    rate = softplus(z) if activation == "softplus" else np.exp(z)
    slope = 1 / (1 + np.exp(-z)) if activation == "softplus" else rate
    expected = (1 - y / rate) * slope
    # float32: the log of rate / y is known to 2e-6, times y.
    np.testing.assert_allclose(values, deviance(y, rate)[:, 0], rtol=2e-5, atol=1e-30)
    np.testing.assert_allclose(gradients, expected, rtol=2e-5, atol=1e-30)


def test_rates_beyond_float32_stay_finite():
    values, gradients = value_and_gradient(identity_head(activation="exponential"), [[1e4]], [[1]])
    assert np.isfinite(values).all()
    assert np.isfinite(gradients).all()


def test_loss_is_never_negative_near_the_count():
    y = np.random.default_rng(0).uniform(0, 1e6, size=(20000, 1)).astype("float32")
    near = y * np.float32(1 + 1e-7) ** np.arange(-2, 3, dtype="float32")
    labels = np.repeat(y, 5, 1)
    losses = PoissonDeviance(reduction="none").elements(labels, tf.constant(near))
    assert np.min(losses) >= 0.0
    assert negative.is_nonnegative(TaskLoss("cells", PoissonDeviance()))


def test_labels_without_a_last_axis_do_not_spread_over_the_rows():
    rates = np.array([[1.0], [2.0], [4.0]])
    assert float(PoissonDeviance()(np.array([1.0, 2.0, 4.0]), rates)) == 0.0


@pytest.mark.parametrize("activation", ["softplus", "exponential"])
def test_config_round_trip_keeps_every_argument(activation):
    head = Counting(3, activation, None, None, upsampling=2, kernel_initializer="ones", name="n")
    again = Counting.from_config(head.get_config())
    assert again.get_config() == head.get_config()
    assert (again.units, again.pooling, again.upsampling, again.ignore_class) == (3, None, 2, None)
    loss = PoissonDeviance(name="rate")
    assert PoissonDeviance.from_config(loss.get_config()).name == "rate"


def test_parameter_count_is_channels_plus_one_times_units():
    head = Counting(3)
    head.build((None, 4, 7))
    assert head.count_params() == (7 + 1) * 3


@pytest.mark.parametrize("activation", [None, "relu", "softpluss"])
def test_other_activations_are_refused_by_name(activation):
    with pytest.raises(ValueError, match=r"`activation` must be one of \['softplus', 'exponen"):
        Counting(activation=activation)


X = np.random.default_rng(1).normal(size=(6, 4)).astype("float32")
COUNTS = np.array([[3, 0, 1], [NAN, 2, 5], [4, NAN, NAN], [0, 0, 0], [9, 1, 2], [NAN] * 3])


def build(head, optimizer="sgd"):
    trunk = keras.layers.Dense(5, activation="tanh", name="trunk")
    model = keras_mtl.architectures.hard_sharing(keras.Input((4,), name="x"), trunk, {"n": head})
    model.compile(optimizer)
    return model


@pytest.mark.parametrize("missing", [NAN, -1])
def test_missing_counts_reach_neither_loss_nor_metric(missing):
    labels = np.where(np.isnan(COUNTS), missing, COUNTS)
    labels = labels.astype("int32" if missing == -1 else "float32")
    model = build(Counting(3), keras.optimizers.SGD(0.0))

    history = model.fit(X, {"n": labels}, batch_size=4, verbose=0).history

    rates, there = model.predict(X, verbose=0)["n"], ~np.isnan(COUNTS)
    expected = deviance(COUNTS[there], rates[there]).mean()
    np.testing.assert_allclose(history["n_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(history["n_mae"], np.abs(COUNTS - rates)[there].mean(), rtol=1e-5)


def test_missing_counts_reach_no_gradient():
    model, there = build(Counting(3)), ~np.isnan(COUNTS)
    before = model.get_layer("n").dense.kernel.numpy()
    features = keras.Model(model.input, model.get_layer("trunk").output)(X).numpy()
    rates = model.predict(X, verbose=0)["n"]

    model.train_on_batch(X, {"n": COUNTS})

    # d loss / d logit = (1 - y / rate) sigmoid(logit), and sigmoid(z) = 1 - exp(-softplus(z)).
    slopes = np.where(there, (1 - COUNTS / rates) * -np.expm1(-rates), 0.0) / there.sum()
    moved = before - 0.01 * features.T @ slopes
    np.testing.assert_allclose(model.get_layer("n").dense.kernel, moved, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.array([1, 2, -2, 0, 0, 0]),
            r"or -1 where the label is missing.* Received -2\. .*row 2",
        ),
        (np.array([1, 2, 3, 0, -1.0, 0]), r"or NaN where a float label.* Received -1\.0\. .*row 4"),
        (np.array([1, np.inf, 3, 0, 1, 0]), r"Received inf\. First in row 1"),
    ],
)
def test_counts_must_be_finite_and_not_negative(labels, message):
    model = build(Counting())
    with pytest.raises(
        ValueError, match=rf"`y\['n'\]` must hold finite counts >= 0{'.*'}{message}"
    ):
        model.fit(X, {"n": labels}, verbose=0)
    assert int(model.optimizer.iterations) == 0


def test_integer_counts_without_a_marker_may_not_be_negative():
    with pytest.raises(ValueError, match="no integer is declared as missing: set the head's"):
        build(Counting(ignore_class=None)).fit(X, {"n": np.full(6, -1)}, verbose=0)


def test_rates_of_poisson_data_are_learned():
    random = np.random.default_rng(2)
    x = random.normal(size=(2000, 2)).astype("float32")
    rates = np.exp(0.8 + x @ [0.5, -0.3])
    inputs = keras.Input((2,), name="x")
    model = keras_mtl.MultiTaskModel(inputs, {"n": Counting(activation="exponential")(inputs)})
    model.compile(keras.optimizers.Adam(0.2))
    model.fit(x, {"n": random.poisson(rates)}, batch_size=500, epochs=12, verbose=0)
    # Four standard errors of the estimates, each about 1 / sqrt(2000 * mean rate 2.6).
    kernel, bias = model.layers[-1].get_weights()
    np.testing.assert_allclose([*kernel[:, 0], bias[0]], [0.5, -0.3, 0.8], atol=4 * 0.0139)

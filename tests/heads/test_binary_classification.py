import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.heads import BinaryClassification


def identity_head(units=1, **kwargs):
    """A head whose logits are its features."""
    return BinaryClassification(units, kernel_initializer="identity", **kwargs)


def test_predictions_are_probabilities():
    logit = np.log(0.8 / 0.2)
    np.testing.assert_allclose(
        identity_head()(np.array([[logit], [0.0]])), [[0.8], [0.5]], atol=1e-6
    )


def test_several_units_are_independent_labels():
    predictions = identity_head(units=2)(np.array([[0.0, np.log(3.0)]]))
    np.testing.assert_allclose(predictions, [[0.5, 0.75]], atol=1e-6)


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_default_loss_is_the_cross_entropy_of_the_labels(activation):
    head = identity_head(activation=activation)
    loss = head.default_loss()(np.array([[1.0], [0.0]]), head(np.array([[np.log(3.0)], [0.0]])))
    np.testing.assert_allclose(loss, -np.log([0.75, 0.5]).mean(), rtol=1e-6)


@pytest.mark.parametrize("activation", ["sigmoid", None])
@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 1)])
def test_extreme_logits_give_the_exact_loss_and_a_gradient(activation, shape):
    head = identity_head(activation=activation, pooling=None)
    loss = head.default_loss()

    @tf.function
    def step(features):
        with tf.GradientTape() as tape:
            value = loss(tf.zeros(shape), head(features))
        return value, tape.gradient(value, head.dense.kernel.value)

    value, gradient = step(tf.fill(shape, 200.0))
    assert float(value) == 200.0
    np.testing.assert_allclose(gradient, [[200.0]])


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_default_metric_splits_at_probability_one_half(activation):
    head = identity_head(activation=activation)
    (metric,) = head.default_metrics()
    metric.update_state(
        np.array([[1.0], [1], [0], [0]]), head(np.array([[0.3], [-0.3], [-2.0], [-0.1]]))
    )
    assert (metric.name, float(metric.result())) == ("accuracy", 0.75)


def test_parameter_count_is_channels_plus_one_times_units():
    head = BinaryClassification(3)
    head.build((None, 7))
    assert head.count_params() == (7 + 1) * 3


def test_config_round_trip_keeps_every_argument():
    head = BinaryClassification(4, None, None, 9, kernel_initializer="zeros", name="labels")
    again = BinaryClassification.from_config(head.get_config())
    assert again.get_config() == head.get_config()
    assert (again.units, again.activation, again.pooling, again.ignore_class) == (4, None, None, 9)


def test_units_must_be_positive():
    with pytest.raises(ValueError, match="`units` must be an integer >= 1, received 0"):
        BinaryClassification(0)


def test_other_activations_are_refused_by_name():
    with pytest.raises(ValueError, match=r"`activation` must be one of \['sigmoid', None\]"):
        BinaryClassification(activation="softmax")

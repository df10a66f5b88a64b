import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl.core import task_metrics
from keras_mtl.heads import Classification


def identity_head(**kwargs):
    """A head whose logits are its two features."""
    return Classification(2, kernel_initializer="identity", **kwargs)


def test_predictions_are_probabilities():
    features = np.log([[0.2, 0.8], [0.5, 0.5]])
    np.testing.assert_allclose(identity_head()(features), [[0.2, 0.8], [0.5, 0.5]], atol=1e-6)


def test_without_activation_predictions_are_logits():
    np.testing.assert_array_equal(
        identity_head(activation=None)(np.array([[3.0, -4.0]])), [[3.0, -4.0]]
    )


@pytest.mark.parametrize("activation", ["softmax", None])
def test_default_loss_is_the_cross_entropy_of_the_labels(activation):
    head = identity_head(activation=activation)
    loss = head.default_loss()(np.array([1, 0]), head(np.log([[0.25, 0.75], [0.5, 0.5]])))
    np.testing.assert_allclose(loss, -np.log([0.75, 0.5]).mean(), rtol=1e-6)


@pytest.mark.parametrize("activation", ["softmax", None])
def test_extreme_logits_give_the_exact_loss_and_a_gradient(activation):
    head = identity_head(activation=activation)
    loss = head.default_loss()

    @tf.function
    def step(features):
        with tf.GradientTape() as tape:
            value = loss(tf.constant([1]), head(features))
        return value, tape.gradient(value, head.dense.kernel.value)

    value, gradient = step(tf.constant([[200.0, -200.0]]))
    assert float(value) == 400.0
    np.testing.assert_allclose(gradient, [[200.0, -200.0], [-200.0, 200.0]])


@pytest.mark.parametrize("activation", ["softmax", None])
def test_default_metric_counts_right_answers(activation):
    head = identity_head(activation=activation)
    (metric,) = task_metrics.resolve("digit", head.default_metrics())
    metric.update_state(np.array([1, 1, 0, 0]), head(np.array([[0.0, 1], [1, 0], [1, 0], [2, 1]])))
    assert (metric.name, float(metric.result())) == ("accuracy", 0.75)


def test_labels_of_minus_one_are_missing_by_default():
    assert Classification(3).ignore_class == -1
    assert Classification(3, ignore_class=None).ignore_class is None


def test_parameter_count_is_channels_plus_one_times_classes():
    head = Classification(10)
    head.build((None, 5, 5, 7))
    assert head.count_params() == (7 + 1) * 10


def test_config_round_trip_keeps_every_argument():
    head = Classification(4, None, "max", 255, kernel_regularizer="l2", name="digit")
    again = Classification.from_config(head.get_config())
    assert again.get_config() == head.get_config()
    assert (again.num_classes, again.activation, again.ignore_class) == (4, None, 255)


@pytest.mark.parametrize("num_classes", [1, 0])
def test_fewer_than_two_classes_are_refused(num_classes):
    with pytest.raises(ValueError, match="`num_classes` must be an integer >="):
        Classification(num_classes)


def test_number_of_classes_must_be_an_integer():
    with pytest.raises(TypeError, match="`num_classes` must be an integer"):
        Classification(2.5)


def test_other_activations_are_refused_by_name():
    with pytest.raises(ValueError, match=r"`activation` must be one of .*Did you mean 'softmax'"):
        Classification(3, activation="soft_max")


def test_ignored_class_must_be_an_integer():
    with pytest.raises(TypeError, match="`ignore_class` must be an integer"):
        keras_mtl.heads.Classification(3, ignore_class=-1.0)


# Raised inside Keras, which saves variables through an old form of the array protocol.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_probabilities_served_from_a_saved_model_are_the_same(tmp_path):
    inputs = keras.Input((3, 2), name="features")
    model = keras.Model(inputs, Classification(4, name="digit")(inputs))
    features = np.random.default_rng(0).normal(size=(5, 3, 2))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(features), model(features))

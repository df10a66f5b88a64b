import keras
import numpy as np
import pytest

from keras_mtl.heads import Regression


@keras.saving.register_keras_serializable(package="test_regression")
def doubled(values):
    return 2 * values


def test_predictions_are_the_dense_layer_of_the_mean():
    head = Regression(kernel_initializer="ones")
    np.testing.assert_allclose(head(np.array([[[1.0, 2.0], [3.0, 4.0]]])), [[5.0]])


def test_activation_is_applied_last():
    head = Regression(activation="relu", kernel_initializer="identity")
    np.testing.assert_array_equal(head(np.array([[-2.0], [3.0]])), [[0.0], [3.0]])


def test_default_loss_and_metric_are_squared_and_absolute_error():
    head = Regression(kernel_initializer="identity")
    targets, predictions = np.array([[1.0], [5.0]]), head(np.array([[1.0], [2.0]]))
    (metric,) = head.default_metrics()
    metric.update_state(targets, predictions)
    assert float(head.default_loss()(targets, predictions)) == 4.5
    assert (metric.name, float(metric.result())) == ("mae", 1.5)


def test_targets_have_no_class_that_means_missing():
    assert Regression().ignore_class is None


def test_parameter_count_is_channels_plus_one_times_units():
    head = Regression(3)
    head.build((None, 4, 7))
    assert head.count_params() == (7 + 1) * 3


@pytest.mark.parametrize("activation", [None, "softplus", doubled])
def test_config_round_trip_keeps_every_argument(activation):
    head = Regression(2, activation, "max", kernel_initializer="ones", name="boxes")
    again = Regression.from_config(head.get_config())
    assert again.get_config() == head.get_config()
    np.testing.assert_array_equal(again(np.array([[1.0, -3.0]])), head(np.array([[1.0, -3.0]])))


def test_units_must_be_an_integer():
    with pytest.raises(TypeError, match="`units` must be an integer >= 1, received True"):
        Regression(True)


@pytest.mark.parametrize("activation", ["softpluss", 3])
def test_unknown_activations_are_refused(activation):
    with pytest.raises(ValueError, match="`activation` must be None, the name of a Keras activ"):
        Regression(activation=activation)


def test_error_suggests_the_nearest_activation():
    with pytest.raises(ValueError, match="Did you mean 'softplus'"):
        Regression(activation="softpluss")

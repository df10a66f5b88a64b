"""What the heads of one dense layer share: pooling, masks, precision, one tensor."""

import keras
import numpy as np
import pytest

from keras_mtl.heads import BinaryClassification, Classification, Regression
from keras_mtl.heads.base import pool

HEADS = [(Classification, 4), (BinaryClassification, 4), (Regression, 4)]


def tagged(pooling):
    """Tokens to a head of fixed weights, through layers that carry the padding mask."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(9, 3, mask_zero=True)(tokens)
    x = keras.layers.LSTM(2, return_sequences=True)(x)
    head = Regression(1, pooling=pooling, kernel_initializer="ones", name="head")
    return keras.Model(tokens, [x, head(x)])


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_pooled_heads_leave_padding_out(pooling):
    model = tagged(pooling)
    _, alone = model(np.array([[5, 7]]))
    _, padded = model(np.array([[5, 7, 0, 0, 0]]))
    np.testing.assert_allclose(padded, alone, rtol=1e-6)


def test_pooled_head_averages_the_steps_that_are_there():
    steps, predictions = tagged("avg")(np.array([[5, 7, 0], [1, 2, 3]]))
    expected = [np.mean(steps[0, :2], axis=0).sum(), np.mean(steps[1], axis=0).sum()]
    np.testing.assert_allclose(predictions[:, 0], expected, rtol=1e-5)


def test_pooled_predictions_carry_no_mask():
    assert not hasattr(tagged("avg")(np.array([[5, 0]]))[1], "_keras_mask")


def test_unpooled_predictions_carry_the_mask():
    predictions = tagged(None)(np.array([[5, 7, 0]]))[1]
    assert predictions.shape == (1, 3, 1)
    np.testing.assert_array_equal(predictions._keras_mask, [[True, True, False]])


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_a_row_of_padding_only_pools_to_zero(pooling):
    features = np.full((1, 2, 3), -7.0, "float32")
    np.testing.assert_array_equal(pool(features, pooling, np.array([[False, False]])), [[0, 0, 0]])


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_padding_may_hold_anything(pooling):
    features = np.array([[[1.0], [2.0], [np.nan]]], "float32")
    expected = {"avg": 1.5, "max": 2.0}[pooling]
    np.testing.assert_array_equal(
        pool(features, pooling, np.array([[True, True, False]])), [[expected]]
    )


def test_mean_of_many_float16_steps_does_not_overflow():
    features = keras.ops.full((1, 4096, 1), 100.0, dtype="float16")
    assert float(pool(features, "avg", np.ones((1, 4096), bool))[0, 0]) == 100.0


def test_mask_of_steps_covers_the_other_middle_axes():
    features = np.arange(8.0, dtype="float32").reshape(1, 2, 4, 1)
    np.testing.assert_array_equal(pool(features, "avg", np.array([[False, True]])), [[5.5]])


@pytest.mark.parametrize(("head", "units"), HEADS)
@pytest.mark.parametrize("pooling", ["avg", "max", None])
def test_computed_output_shape_is_the_shape_of_the_output(head, units, pooling):
    head = head(units, pooling=pooling)
    assert head(np.zeros((2, 5, 6, 3))).shape == head.compute_output_shape((2, 5, 6, 3))


@pytest.mark.parametrize(("head", "units"), HEADS)
def test_predictions_are_float32_under_mixed_precision(head, units):
    head = head(units, dtype="mixed_float16")
    features = np.full((2, 3), 0.1, "float16")
    symbolic = head(keras.Input((3,)))
    assert head.dense.compute_dtype == "float16"
    assert (symbolic.dtype, keras.backend.standardize_dtype(head(features).dtype)) == (
        "float32",
        "float32",
    )


def test_probabilities_under_mixed_precision_are_finer_than_float16():
    head = BinaryClassification(kernel_initializer="ones", dtype="mixed_float16")
    np.testing.assert_allclose(head(np.array([[-12.0]])), 1 / (1 + np.exp(12.0)), rtol=1e-6)


@pytest.mark.parametrize(("head", "units"), HEADS)
def test_a_dict_of_features_asks_for_a_choice(head, units):
    features = {"s4": keras.Input((8,)), "s32": keras.Input((4,))}
    with pytest.raises(ValueError, match=r"the entries \['s4', 's32'\].*features='s4'"):
        head(units)(features)


@pytest.mark.parametrize(("head", "units"), HEADS)
def test_a_list_of_features_is_refused(head, units):
    with pytest.raises(ValueError, match="reads one tensor, its features are 2 tensors"):
        head(units)([keras.Input((8,)), keras.Input((4,))])


def test_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match=r"`pooling` must be one of .* Did you mean 'avg'"):
        Regression(pooling="avgg")


def test_kernel_regularizer_reaches_the_losses():
    head = Regression(kernel_initializer="ones", kernel_regularizer=keras.regularizers.L2(0.5))
    head(np.zeros((1, 4)))
    assert float(head.losses[0]) == 2.0

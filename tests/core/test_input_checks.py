"""Inputs of another shape or dtype are refused before the first step, by the input's name."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.core import input_checks

IMAGE, AGE = keras.Input((8, 8, 3), name="image"), keras.Input((1,), name="age")
ROWS = np.zeros((5, 8, 8, 3), "float32")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            ROWS[0],
            r"'image' must have shape \('batch', 8, 8, 3\), received \(8, 8, 3\). The axis of ",
        ),
        (ROWS[..., 0], r"received \(5, 8, 8\). The last axis, of channels or features, is missing"),
        (ROWS[..., :1], r"received \(5, 8, 8, 1\). The last axis, .*, must have length 3"),
        (ROWS[:, 1:], r"received \(5, 7, 8, 3\). Reshape or resize"),
        (ROWS.reshape(5, -1), r"received \(5, 192\). Reshape or resize"),
        (np.array(["a.png"]), "'image' must hold numbers, received dtype <U5. Decode"),
        (tf.TensorSpec((None, 8, 8, 1)), r"received \(None, 8, 8, 1\)"),
        (tf.TensorSpec((None,), tf.string), "must hold numbers, received dtype <dtype: 'string'>"),
    ],
)
def test_an_input_that_does_not_fit_is_named(x, message):
    with pytest.raises(ValueError, match=message):
        input_checks.check([IMAGE], x)


@pytest.mark.parametrize("form", ["dict", "list"])
def test_of_several_inputs_the_wrong_one_is_named(form):
    wrong = {"image": ROWS, "age": np.zeros((5, 2))}
    with pytest.raises(
        ValueError, match=r"'age' must have shape \('batch', 1\), received \(5, 2\)"
    ):
        input_checks.check([IMAGE, AGE], wrong if form == "dict" else list(wrong.values()))


@pytest.mark.parametrize(
    "x",
    [
        {"age": np.zeros(5), "image": ROWS.astype("uint8")},  # Keras adds the axis of length 1
        [tf.TensorSpec(None), tf.TensorSpec((None, None))],
        {"age": np.zeros((5, 1), bool), "image": tf.RaggedTensor.from_row_lengths(ROWS[:, 0], [5])},
        {"image": ROWS},  # of a missing name Keras tells
        ROWS,
    ],
)
def test_what_keras_takes_or_refuses_itself_is_left_to_it(x):
    input_checks.check([IMAGE, AGE], x)


def test_strings_reach_an_input_of_strings():
    input_checks.check([keras.Input((1,), dtype="string", name="text")], np.array([["a"], ["b"]]))

"""Checks what a model is given against its inputs, before the first step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


def check(inputs: Sequence[Any], x: Any) -> None:
    """Checks shapes and dtypes of arrays or of the specs of a data set.

    What is ragged, sparse, nested or of another kind is left to Keras, as are missing names.

    Args:
        inputs: The model's symbolic inputs.
        x: Array or spec for a single input, or a list in their order, or a dict by name.

    Raises:
        ValueError: If a shape or dtype does not fit.
    """
    if isinstance(x, Mapping):
        x = [x.get(tensor.name) for tensor in inputs]
    elif not isinstance(x, list | tuple):
        x = [x]
    if len(x) != len(inputs):
        return
    for tensor, values in zip(inputs, x, strict=True):
        if isinstance(values, np.ndarray | tf.Tensor | tf.TensorSpec):
            _check_one(tensor, values)


def _check_one(tensor: Any, values: Any) -> None:
    argument = f"`x` for the input '{tensor.name}'"
    if _is_numeric(tensor.dtype) and not _is_numeric(values.dtype):
        raise ValueError(
            f"{argument} must hold numbers, received dtype {values.dtype}. Decode or look up what "
            "they stand for first."
        )
    shape = tf.TensorShape(values.shape)
    if shape.rank is None:
        return
    received, expected = tuple(shape), tuple(tensor.shape)
    if not any(fits(received, option) for option in _allowed(expected)):
        raise ValueError(
            f"{argument} must have shape {('batch', *expected[1:])}, received {received}. "
            + _advice(received, expected)
        )


def _is_numeric(dtype: Any) -> bool:
    return tf.as_dtype(dtype) != tf.string


def _allowed(expected: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Returns the shapes that Keras takes: the last axis may come and go where it is 1."""
    options = [expected, (*expected, 1)]
    return [*options, expected[:-1]] if expected[-1] == 1 else options


def fits(received: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    """Whether two shapes can be one and the same; `None` is a length not known."""
    return len(received) == len(expected) and all(
        a is None or b is None or a == b for a, b in zip(received, expected, strict=True)
    )


def _advice(received: tuple[Any, ...], expected: tuple[Any, ...]) -> str:
    if fits((None, *received), expected):
        return "The axis of the batch is missing: write `dataset.batch(32)` or `x[np.newaxis]`."
    if fits((*received, None), expected):
        return "The last axis, of channels or features, is missing: stack them along it."
    if fits((*received[:-1], None), expected):
        return f"The last axis, of channels or features, must have length {expected[-1]}."
    return "Reshape or resize what the model is given, or change its `keras.Input`."

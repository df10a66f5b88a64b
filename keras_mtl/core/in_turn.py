"""Works on large parts one after the other, so that what they need in between is needed once."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

# Numbers below which memory does not matter: 1 MiB.
SMALL = 2**18


def in_turn(function: Callable[..., Any], *parts: Sequence[Any]) -> list[Any]:
    """Returns what `function` makes of each part, as `map` would.

    TensorFlow starts all that is ready, and so holds what lies between input and result for all
    parts at once. Here a part waits for the result of the last large one.

    Args:
        function: Function of one entry of each of `parts`, to a tensor, a variable or a structure.
        parts: Lists of one length; the size of the first's entries decides which are large.
    """
    results: list[Any] = []
    last: list[Any] = []
    for entries in zip(*parts, strict=True):
        with tf.control_dependencies(last):
            # A variable among the results is read here: it has no place in an order of operations.
            results.append(keras.tree.map_structure(tf.convert_to_tensor, function(*entries)))
        if _is_large(entries[0]):
            last = keras.tree.flatten(results[-1])
    return results


def rows_in_turn(function: Callable[..., Any], *matrices: Any) -> Any:
    """Returns what `function` makes of matrices, of large ones row by row.

    Args:
        function: Function of matrices, whose rows it maps each to one number or row.
        matrices: Tensors `(num_rows, size)` of one shape.
    """
    if not _is_large(matrices[0]):
        return function(*matrices)
    rows = [tf.split(matrix, matrix.shape[0]) for matrix in matrices]
    return tf.concat(in_turn(function, *rows), axis=0)


def sum_in_turn(function: Callable[..., Any], *parts: Sequence[Any]) -> Any:
    """Returns the sum of what `function` makes of parts of one shape, with one in memory."""
    total = None
    for entries in zip(*parts, strict=True):
        with after([] if total is None else total):
            term = function(*entries)
        total = term if total is None else total + term
    return total


def after(results: Any) -> AbstractContextManager:
    """Returns a context whose operations wait for a structure of results."""
    return tf.control_dependencies(keras.tree.flatten(results))


def _is_large(part: Any) -> bool:
    size = part.shape.num_elements() if hasattr(part.shape, "num_elements") else None
    return size is not None and size >= SMALL

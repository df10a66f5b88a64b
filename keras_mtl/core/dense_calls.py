"""Inner products of the gradients of dense layers, from what these read and the derivatives."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_mtl.core.in_turn import SMALL
from keras_mtl.core.noted_calls import NotedCall, called_once, flat_rows


def gramian(call: NotedCall, backs: Any) -> Any:
    """Returns the inner products of the gradients of several tasks, without forming them.

    Args:
        call: That of a dense layer.
        backs: Tensor `(num_tasks, ...)`, each task's derivative by what was given.

    Returns:
        A tensor `(num_tasks, num_tasks)`, in the dtype of `backs`.
    """
    return products(call, (call.read, backs), (call.read, backs))


def products(call: NotedCall, first: tuple[Any, Any], second: tuple[Any, Any]) -> Any:
    """Returns the inner products of gradients on some rows with gradients on others.

    The gradient of task k is A'D_k for inputs A and derivatives D_k, and so an inner product
    with E_l of inputs B is the sum of the elements of (A B') * (D_k E_l'); the bias is an input
    of 1. In float64: where the gradients of rows cancel, these products are much larger than
    their sum.

    Args:
        call: That of a dense layer.
        first: What was read, and the derivatives `(num_tasks, ...)`, of some rows.
        second: Those of the others.
    """
    (read, backs), (others, other_backs) = first, second
    units, dtype = call.layer.units, backs.dtype
    read, others = (tf.cast(flat_rows(part), tf.float64) for part in (read, others))
    backs, other_backs = (
        tf.reshape(tf.cast(part, tf.float64), (part.shape[0], -1, units))
        for part in (backs, other_backs)
    )
    alike = tf.matmul(read, others, transpose_b=True) + (1.0 if call.layer.use_bias else 0.0)
    mixed = tf.matmul(alike[tf.newaxis], other_backs)
    flat, mixed = (tf.reshape(part, (part.shape[0], -1)) for part in (backs, mixed))
    return tf.cast(tf.matmul(flat, mixed, transpose_b=True), dtype)


def worth_noting(model: Any, shared: Sequence[Any]) -> list[Any]:
    """Returns the dense layers with large gradients that are all there is to their variables.

    None with a GPU, on which whole passes are fast and products in float64 need not be.

    Args:
        model: A functional model.
        shared: List of the variables whose gradients are balanced.
    """
    if tf.config.list_logical_devices("GPU"):
        return []
    return [layer for layer in called_once(model, shared) if is_dense_and_large(layer)]


def is_dense_and_large(layer: Any) -> bool:
    """Whether it is a dense layer, and the memory of a gradient of it matters."""
    return isinstance(layer, keras.layers.Dense) and math.prod(layer.kernel.shape) >= SMALL


def are_cheaper(calls: Sequence[NotedCall], num_tasks: int, num_parts: int = 1) -> Any:
    """Returns whether inner products cost less from the calls than from the gradients.

    A gradient takes rows * inputs * units multiplications for each task; an inner product takes
    rows^2 * units for each task, and rows^2 * inputs once, in float64 at about four times the cost.

    Args:
        calls: Those of dense layers.
        num_tasks: Integer. Number of gradients.
        num_parts: Integer. Parts of the batch between which the products are taken.
    """
    from_calls = from_gradients = 0.0
    for call in calls:
        rows = tf.cast(tf.shape(flat_rows(call.read))[0], tf.float32)
        inputs, units = call.layer.kernel.shape
        from_gradients += rows * (inputs * units)
        from_calls += 4.0 * (rows / num_parts) ** 2 * (units + inputs / num_tasks)
    return from_calls < from_gradients

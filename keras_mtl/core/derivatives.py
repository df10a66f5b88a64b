"""Values and derivatives of small functions, for floors that do not import TensorFlow."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def value_and_gradient(
    function: Callable[[Any], Any], point: Any, variables: Sequence[Any] = ()
) -> tuple[Any, Any, list[Any]]:
    """Returns `function(point)`, its gradient at `point` and with respect to `variables`.

    Args:
        function: A function from a tensor to a scalar tensor.
        point: A float tensor.
        variables: Keras variables that `function` reads.

    Returns:
        The value, the gradient with respect to `point` (zeros where it does not depend on it),
        and a list with the gradient for each variable, in order.
    """
    point = tf.stop_gradient(point)
    with tf.GradientTape() as tape:
        tape.watch(point)
        value = function(point)
    sources = [point, *(variable.value for variable in variables)]
    gradients = tape.gradient(value, sources)
    filled = [
        tf.zeros_like(source) if gradient is None else tf.convert_to_tensor(gradient)
        for source, gradient in zip(sources, gradients, strict=True)
    ]
    return value, filled[0], filled[1:]

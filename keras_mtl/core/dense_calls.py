"""What dense layers read and give in a forward pass, from which inner products are cheap."""

import collections
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from keras_mtl.core import replicas
from keras_mtl.core.in_turn import SMALL
from keras_mtl.core.partition import nodes_in_order


class DenseCall(NamedTuple):
    """One call of a dense layer, whose inputs were `(..., inputs)`.

    Args:
        layer: The layer.
        read: Tensor `(rows, inputs)`.
        given: Tensor `(..., units)`, before the activation.
    """

    layer: Any
    read: Any
    given: Any

    @property
    def variables(self) -> list[Any]:
        """The kernel and, where there is one, the bias."""
        return list(self.layer.variables)

    def gradients(self, back: Any) -> list[Any]:
        """Returns the gradients of the variables.

        Args:
            back: Tensor `(rows, units)`, the derivative by what was given.
        """
        read = tf.cast(self.read, back.dtype)
        found = [tf.matmul(read, back, transpose_a=True)]
        return [*found, tf.reduce_sum(back, axis=0)] if self.layer.use_bias else found

    def gramian(self, backs: Any) -> Any:
        """Returns the inner products of the gradients of several tasks, without forming them.

        The gradient of task k is A'D_k for inputs A and derivatives D_k, and so an inner product
        is the sum of the elements of (A A') * (D_k D_l'); the bias is an input of 1. In float64:
        where the gradients of rows cancel, these products are much larger than their sum.

        Args:
            backs: Tensor `(num_tasks, rows, units)`.

        Returns:
            A tensor `(num_tasks, num_tasks)`, in the dtype of `backs`.
        """
        dtype = backs.dtype
        read, backs = tf.cast(self.read, tf.float64), tf.cast(backs, tf.float64)
        alike = tf.matmul(read, read, transpose_b=True) + (1.0 if self.layer.use_bias else 0.0)
        flat = tf.reshape(backs, (backs.shape[0], -1))
        mixed = tf.reshape(tf.matmul(alike[tf.newaxis], backs), tf.shape(flat))
        return tf.cast(tf.matmul(flat, mixed, transpose_b=True), dtype)


class DenseCalls:
    """Notes the calls of dense layers, as a context around a forward pass.

    `noted` holds them: none under a strategy, where gradients are those of all replicas.

    Args:
        layers: List of `keras.layers.Dense`.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = list(layers)
        self.noted: list[DenseCall] = []

    def __enter__(self) -> "DenseCalls":
        # Replicas trace in turns, and share the layers.
        if replicas.without_strategy():
            for layer in self._layers:
                vars(layer)["call"] = self._noting(layer)
        return self

    def __exit__(self, *error: Any) -> None:
        for layer in self._layers:
            vars(layer).pop("call", None)

    def _noting(self, layer: Any) -> Callable[..., Any]:
        def call(inputs: Any, training: Any = None) -> Any:
            # As keras.layers.Dense does, which does not show what it gives the activation.
            del training
            given = ops.matmul(inputs, layer.kernel)
            if layer.bias is not None:
                given = ops.add(given, layer.bias)
            read = tf.reshape(inputs, (-1, inputs.shape[-1]))
            self.noted.append(DenseCall(layer, read, given))
            return given if layer.activation is None else layer.activation(given)

        return call


def worth_noting(model: Any, shared: Sequence[Any]) -> list[Any]:
    """Returns the dense layers with large gradients that are all there is to their variables.

    They are nodes of the functional graph, called once, and no other node reads their variables.
    None with a GPU, on which whole passes are fast and products in float64 need not be.

    Args:
        model: A functional model.
        shared: List of the variables whose gradients are balanced.
    """
    if tf.config.list_logical_devices("GPU"):
        return []
    nodes = list(_leaves(nodes_in_order(model)))
    read = collections.Counter(id(variable) for node in nodes for variable in _read_by(node))
    known = {id(variable) for variable in shared}
    return [
        node.operation
        for node in nodes
        if _is_plain_and_large(node.operation)
        and all(read[id(x)] == 1 and id(x) in known for x in node.operation.variables)
    ]


def _leaves(nodes: Sequence[Any]) -> Iterator[Any]:
    """Yields the nodes of a graph and, in place of nested ones, those of which they are made."""
    for node in nodes:
        graph = _graph_of(node.operation)
        if graph is None:
            yield node
        else:
            yield from _leaves(nodes_in_order(graph))


def _graph_of(operation: Any) -> Any:
    """Returns the functional graph that the operation does nothing but run, or `None`."""
    if getattr(operation, "_remat_mode", None) is not None:
        return None
    if type(operation) is keras.Sequential:
        return operation._functional
    # A class of its own may have a `call` of its own.
    return operation if type(operation).__name__ == "Functional" else None


def _read_by(node: Any) -> list[Any]:
    arguments = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    given = [x for x in arguments if isinstance(x, keras.Variable)]
    return [*getattr(node.operation, "variables", ()), *given]


def _is_plain_and_large(layer: Any) -> bool:
    return (
        type(layer) is keras.layers.Dense
        and getattr(layer, "_remat_mode", None) is None
        and layer.quantization_mode is None
        and not layer.lora_enabled
        and math.prod(layer.kernel.shape) >= SMALL
    )


def are_cheaper(calls: Sequence[DenseCall], num_tasks: int) -> Any:
    """Returns whether inner products cost less from the calls than from the gradients.

    A gradient takes rows * inputs * units multiplications for each task; an inner product takes
    rows^2 * units for each task, and rows^2 * inputs once, in float64 at about four times the cost.
    """
    from_calls = from_gradients = 0.0
    for call in calls:
        rows = tf.cast(tf.shape(call.read)[0], tf.float32)
        inputs, units = call.layer.kernel.shape
        from_gradients += rows * (inputs * units)
        from_calls += 4.0 * rows * rows * (units + inputs / num_tasks)
    return from_calls < from_gradients

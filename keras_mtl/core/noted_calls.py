"""What dense layers and convolutions read and give in a forward pass."""

import collections
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from keras_mtl.core import replicas
from keras_mtl.core.partition import nodes_in_order

KINDS = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


class NotedCall(NamedTuple):
    """One call of a layer that multiplies by its kernel, adds its bias and activates.

    Args:
        layer: The layer.
        read: Tensor, its inputs.
        given: Tensor, before the activation.
    """

    layer: Any
    read: Any
    given: Any

    @property
    def variables(self) -> list[Any]:
        """The kernel and, where there is one, the bias."""
        return list(self.layer.variables)

    def gradients(self, back: Any, rows: slice = slice(None)) -> list[Any]:
        """Returns the gradients of the variables.

        Args:
            back: Tensor in the shape of `given`, the derivative by it.
            rows: Slice of the batch: the rows that count.
        """
        back = back[rows]
        found = [_kernel_gradient(self.layer, tf.cast(self.read[rows], back.dtype), back)]
        if self.layer.use_bias:
            axis = _channel_axis(self.layer) % len(back.shape)
            others = [other for other in range(len(back.shape)) if other != axis]
            found.append(tf.reduce_sum(back, others))
        return found


def _kernel_gradient(layer: Any, read: Any, back: Any) -> Any:
    if isinstance(layer, keras.layers.Dense):
        return tf.matmul(flat_rows(read), flat_rows(back), transpose_a=True)
    kernel = tf.cast(layer.kernel, back.dtype)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(kernel)
        # The gradient does not read this product, which therefore never runs in a graph.
        product = layer.convolution_op(read, kernel)
    return tape.gradient(product, kernel, output_gradients=back)


def flat_rows(tensor: Any) -> Any:
    """Returns a tensor `(..., channels)` as `(rows, channels)`."""
    return tf.reshape(tensor, (-1, tensor.shape[-1]))


def _channel_axis(layer: Any) -> int:
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


class NotedCalls:
    """Notes the calls of dense layers and convolutions, as a context around a forward pass.

    `noted` holds them: none under a strategy, where gradients are those of all replicas.

    Args:
        layers: List of layers, as `called_once` finds them.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = list(layers)
        self.noted: list[NotedCall] = []

    def __enter__(self) -> "NotedCalls":
        # Replicas trace in turns, and share the layers.
        if replicas.without_strategy():
            for layer in self._layers:
                vars(layer)["call"] = self._noting(layer)
        return self

    def __exit__(self, *error: Any) -> None:
        for layer in self._layers:
            vars(layer).pop("call", None)

    def _noting(self, layer: Any) -> Callable[..., Any]:
        is_dense = isinstance(layer, keras.layers.Dense)
        multiply = ops.matmul if is_dense else layer.convolution_op

        def call(inputs: Any, training: Any = None) -> Any:
            # As Keras does, whose layers do not show what they give the activation.
            del training
            given = multiply(inputs, layer.kernel)
            if layer.bias is not None:
                shape = [1] * len(given.shape)
                shape[_channel_axis(layer)] = -1
                given = ops.add(given, layer.bias if is_dense else ops.reshape(layer.bias, shape))
            self.noted.append(NotedCall(layer, inputs, given))
            return given if layer.activation is None else layer.activation(given)

        return call


class Noting:
    """What backward passes share that note the calls of layers: the first one of the bases."""

    layers: Sequence[Any] = ()

    @classmethod
    def of(cls, layers: Sequence[Any]) -> type:
        """Returns the backward pass that notes the calls of these layers."""
        return type(cls.__name__, (cls,), {"layers": tuple(layers)})

    @property
    def calls(self) -> list[NotedCall]:
        """What was noted in the forward pass."""
        return self._noted.noted

    def __enter__(self) -> Any:
        self._noted = NotedCalls(self.layers)
        self._noted.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._noted.__exit__(*error)


def in_order(
    shared: Sequence[Any],
    others: Sequence[Any],
    calls: Sequence[NotedCall],
    directions: Sequence[Any],
) -> list[Any]:
    """Returns a direction `(size,)` for each shared variable.

    Args:
        shared: List of variables.
        others: Those of them that are no call's.
        calls: List of `NotedCall`.
        directions: The directions of `others`, then the combined derivatives by what each call
            gave, `(number of its elements,)`.
    """
    found = dict(zip(map(id, others), directions, strict=False))
    for call, back in zip(calls, directions[len(others) :], strict=True):
        gradients = call.gradients(tf.reshape(back, tf.shape(call.given)))
        found |= dict(zip(map(id, call.variables), gradients, strict=True))
    return [tf.reshape(found[id(variable)], [-1]) for variable in shared]


def called_once(model: Any, shared: Sequence[Any]) -> list[Any]:
    """Returns the plain layers of `KINDS` that are all there is to their variables.

    They are nodes of the functional graph, called once, and no other node reads their variables.

    Args:
        model: A functional model.
        shared: List of the variables whose gradients are balanced.
    """
    nodes = list(leaves(nodes_in_order(model)))
    if any(isinstance(node.operation, keras.layers.Lambda) for node in nodes):
        return []  # whose functions may read variables that no layer shows
    read = collections.Counter(id(variable) for node in nodes for variable in _read_by(node))
    known = {id(variable) for variable in shared}
    return [
        node.operation
        for node in nodes
        if _is_plain(node.operation)
        and not any(getattr(x, "sparse", False) for x in node.input_tensors)
        and all(read[id(x)] == 1 and id(x) in known for x in node.operation.variables)
    ]


def leaves(nodes: Sequence[Any]) -> Iterator[Any]:
    """Yields the nodes of a graph and, in place of nested ones, those of which they are made."""
    for node in nodes:
        graph = _graph_of(node.operation)
        if graph is None:
            yield node
        else:
            yield from leaves(nodes_in_order(graph))


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


def _is_plain(layer: Any) -> bool:
    return (
        type(layer) in KINDS
        and "call" not in vars(layer)  # one of the user's
        and not isinstance(layer.activation, keras.layers.Layer)  # which may make weights late
        and getattr(layer, "padding", None) != "causal"  # which pads in its `call`
        and getattr(layer, "_remat_mode", None) is None
        and getattr(layer, "quantization_mode", None) is None
        and not layer.lora_enabled
    )

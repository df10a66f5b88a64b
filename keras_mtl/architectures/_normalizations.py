"""Stages with normalizations of a task's own, all other layers shared."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import keras

from keras_mtl.core.rebuild import rebuild

_KINDS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)
# Where the `call` of Sequential and functional models stands; a subclass may have one of its own.
_OF_KERAS = keras.Sequential.__module__.rpartition(".")[0]


def check_normalizations(stages: Iterable[keras.layers.Layer]) -> None:
    """Checks that there are normalizations, all where they can be replaced.

    Raises:
        ValueError: If there are none, or a layer that is neither a Sequential nor a functional
            model has some inside.
    """
    names = [stage.name for stage in stages]
    if not any(_normalizations(stage) for stage in stages):
        kinds = ", ".join(kind.__name__ for kind in _KINDS)
        raise ValueError(
            f"`condition='normalization'` needs a trunk with normalizations ({kinds}), the stages "
            f"{names} have none. Choose another `condition`, such as 'film'."
        )
    for stage in stages:
        for layer in _hiding(stage):
            raise ValueError(
                f"`condition='normalization'` cannot reach the normalizations in '{layer.name}' of "
                f"type {type(layer).__name__}. Build it as a Sequential or functional model, or "
                "choose another `condition`, such as 'film'."
            )


class WithOwnNormalizations:
    """A stage as a task sees it: the stage's layers, with normalizations of the task's own.

    Models are not called but opened up: each of their layers becomes one of the graph in which
    the stage is called.

    Args:
        stage: Layer or model.
        task: String. The normalizations are named `<task>_<layer>`.
    """

    def __init__(self, stage: keras.layers.Layer, task: str) -> None:
        self.name = stage.name
        self._stage = stage
        self._task = task
        self._own: dict[int, keras.layers.Layer] = {}

    def __call__(self, features: Any) -> Any:
        return self._run(self._stage, features)

    def _run(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(operation, _KINDS):
            return self._normalize(operation, *args, **kwargs)
        if not _normalizations(operation):
            return operation(*args, **kwargs)
        # Masks go along with the tensors, and the mode is that of the whole model, as in Keras.
        (features,) = args
        if isinstance(operation, keras.Sequential):
            for layer in operation.layers:
                features = self._run(layer, features)
            return features
        return operation._run_through_graph(
            _in_order(operation, features), lambda inner: partial(self._run, inner)
        )

    def _normalize(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if id(layer) not in self._own:
            self._own[id(layer)] = rebuild(layer, f"{self._task}_{layer.name}")
        own = self._own[id(layer)]
        features = own(*args, **kwargs)
        if layer.built:
            own.set_weights(layer.get_weights())
        return features


def _normalizations(operation: Any) -> list[keras.layers.Layer]:
    if not isinstance(operation, keras.layers.Layer):
        return []  # an operation of `keras.ops`
    return [layer for layer in operation._flatten_layers() if isinstance(layer, _KINDS)]


def _hiding(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yields the layers inside that cannot be opened up and have normalizations inside."""
    if isinstance(layer, _KINDS) or not _normalizations(layer):
        return
    if not type(layer).call.__module__.startswith(_OF_KERAS):
        yield layer
        return
    for inner in layer.layers:
        yield from _hiding(inner)


def _in_order(model: Any, inputs: Any) -> list[Any]:
    """Returns the tensors for the inputs of a functional model, in their order."""
    if isinstance(inputs, dict) and not isinstance(model.input, dict):
        return [inputs[tensor.name] for tensor in model.inputs]
    return keras.tree.flatten(inputs)

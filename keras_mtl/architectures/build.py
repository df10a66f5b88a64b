"""Builders by name."""

from collections.abc import Callable, Mapping
from typing import Any

from keras_mtl.core.registry import BuilderRegistry
from keras_mtl.model import MultiTaskModel

registry = BuilderRegistry("keras_mtl.architectures", "architecture")


def build_model(
    architecture: str | Callable[..., MultiTaskModel],
    inputs: Any,
    trunk: Any,
    tasks: Mapping[str, Any],
    **kwargs: Any,
) -> MultiTaskModel:
    """Builds a multi-task model of the named architecture.

    Every architecture takes the same inputs, trunk and tasks, so that a search can try them by
    name.

    Args:
        architecture: String, one of `keras_mtl.architectures.names()`, or a builder function.
        inputs: Keras inputs, or tensors computed from them.
        trunk: Layer, model, list of layers, or function of no arguments that returns one.
        tasks: Dict from task name to a head or a `keras_mtl.Task`.
        **kwargs: Further arguments of the builder.

    Returns:
        A `keras_mtl.MultiTaskModel`.

    Raises:
        TypeError: If `architecture` is neither name nor function.
        ValueError: If the name is unknown; the message suggests the nearest one.

    Example:

    >>> inputs = keras.Input((8,), name="person")
    >>> tasks = {"age": keras_mtl.heads.Regression(), "job": keras_mtl.heads.Classification(3)}
    >>> model = keras_mtl.build_model("hard_sharing", inputs, keras.layers.Dense(4), tasks)
    >>> sorted(model.output)
    ['age', 'job']
    """
    return registry.get(architecture)(inputs, trunk, tasks, **kwargs)

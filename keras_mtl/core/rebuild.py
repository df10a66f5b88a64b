"""Makes layers anew from their configs, and resolves what stands for a layer."""

import inspect
from collections.abc import Mapping
from typing import Any

import keras

from keras_mtl.core import checks
from keras_mtl.core.adapted import carry_adapted
from keras_mtl.core.unregistered import read_as, unregistered_objects, written_as

_FORMS = "a layer, a model, a list of layers, or a function of no arguments that returns one"


def rebuild(
    layer: keras.layers.Layer, name: str | None = None, *, seed_offset: int = 0
) -> keras.layers.Layer:
    """Returns a copy of a layer or model with fresh values.

    What layers have adapted to, such as the mean of a Normalization or a vocabulary, is kept, and
    so are classes and functions of the user's, whatever their names.

    Args:
        layer: Keras layer or model; it stays as it is.
        name: Optional string. Name of the copy; the layer's own by default.
        seed_offset: Integer. Added to every integer seed in the config, so that several copies
            of a seeded layer start from different values. Without seeds they always do.

    Returns:
        A layer of the same class and config. It shares no variable with `layer`.

    Raises:
        ValueError: If the layer's class cannot make it again from its config, or makes too late
            the layers that have adapted to data.
    """
    # Such as those of a notebook, which are known here all the same.
    own = unregistered_objects(layer)
    try:
        with written_as(own):
            config = {**layer.get_config(), "name": name or layer.name}
        with read_as(own):
            copy = type(layer).from_config(_reseeded(config, seed_offset))
    except Exception as error:
        raise ValueError(
            f"Layer '{layer.name}' of type {type(layer).__name__} cannot be rebuilt from its "
            "config. Give the class a `get_config` that returns every argument of its `__init__`; "
            "put the code of a `Lambda` into a layer of your own; make activations and the like "
            "functions with a name (`def`), or classes with `keras.saving."
            f"register_keras_serializable`. Reason: {error}"
        ) from error
    carry_adapted(layer, copy)
    return copy


def resolve_trunk(trunk: Any) -> list[keras.layers.Layer]:
    """Returns the stages of a trunk: the objects themselves, weights included.

    Args:
        trunk: Layer, model, non-empty list of layers, or function of no arguments that returns
            one of these.

    Raises:
        TypeError: If `trunk` is something else.
        ValueError: If the list is empty, or the input of a model is in it.
    """
    return _layers("trunk", trunk)


def resolve_tower(tower: Any, task: str) -> list[keras.layers.Layer]:
    """Returns the layers of a task's tower, rebuilt and named after the task.

    Args:
        tower: As a trunk, or `None` for no tower.
        task: String. The task's name; the layers become `<task>_tower`, or of a list
            `<task>_tower_0`, `<task>_tower_1` and so on.

    Raises:
        TypeError: If `tower` is something else.
        ValueError: If the list is empty, or a layer cannot be rebuilt.
    """
    if tower is None:
        return []
    layers = _layers("tower", tower)
    if len(layers) == 1:
        return [rebuild(layers[0], f"{task}_tower")]
    return [rebuild(layer, f"{task}_tower_{index}") for index, layer in enumerate(layers)]


def called(value: Any) -> Any:
    """Returns what a function of no arguments returns, and anything else as it is."""
    return value() if _is_function(value) else value


def _layers(argument: str, value: Any) -> list[keras.layers.Layer]:
    value = called(value)
    if isinstance(value, keras.layers.Layer):
        return [value]
    if not isinstance(value, list | tuple):
        raise TypeError(f"`{argument}` must be {_FORMS}, received {checks.describe(value)}.")
    if not value:
        raise ValueError(f"`{argument}` must be {_FORMS}, received an empty list.")
    for position, layer in enumerate(value):
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(
                f"Entry {position} of `{argument}` must be a Keras layer, received "
                f"{checks.describe(layer)}."
            )
        if isinstance(layer, keras.layers.InputLayer):
            raise ValueError(
                f"Entry {position} of `{argument}` must not be an input, received '{layer.name}', "
                "as in the `layers` of a functional model. Leave it out if each layer reads the "
                "one before; else give models, such as `keras.Model(start, end)`."
            )
    return list(value)


def _is_function(value: Any) -> bool:
    if not callable(value) or isinstance(value, keras.layers.Layer | type):
        return False
    try:
        inspect.signature(value).bind()
    except TypeError:
        return False
    return True


def _reseeded(config: Any, offset: int) -> Any:
    if isinstance(config, Mapping):
        return {
            key: value + offset
            if key == "seed" and isinstance(value, int)
            else _reseeded(value, offset)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return type(config)(_reseeded(value, offset) for value in config)
    return config

"""Classes and functions of the user's that Keras does not find by the names in its configs."""

import types
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.saving import object_registration

# Where Keras looks up a name that comes alone, such as "relu"; that of a layer never does.
_OF_KERAS = (keras.activations, keras.constraints, keras.initializers, keras.regularizers)


def found_by_name(value: Any) -> bool:
    """Returns whether Keras finds just this class or function by the name it has in configs."""
    if isinstance(value, type) and str(value.__module__).startswith("keras."):
        return True
    # Only these functions of Keras' own: of `keras.ops.gelu` the config keeps "gelu", another.
    if getattr(keras.activations, value.__name__, None) is value:
        return True
    name = keras.saving.get_registered_name(value)
    return keras.saving.get_custom_objects().get(name) is value


def unregistered_objects(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the classes and functions in a layer that Keras would not find, by names for them.

    Args:
        layer: Keras layer or model; it and its layers are searched, and what they hold, such as
            activations, initializers and regularizers.
    """
    own = {id(value): value for value in _held(layer) if not found_by_name(value)}
    # Two may share their Python name, with one another or with something of Keras'.
    return {f"{value.__name__}#{index}": value for index, value in enumerate(own.values())}


@contextmanager
def written_as(names: Mapping[str, Any]) -> Iterator[None]:
    """Lets configs made inside name each object as given."""
    known = object_registration.GLOBAL_CUSTOM_NAMES
    before = {value: known[value] for value in names.values() if value in known}
    known.update({value: name for name, value in names.items()})
    try:
        yield
    finally:
        for value in names.values():
            known.pop(value, None)
        known.update(before)


def read_as(names: Mapping[str, Any]) -> keras.saving.CustomObjectScope:
    """Returns a scope in which configs mean by each name the object given.

    Python names are known in it too, for configs that a layer has kept from before, except those
    that could mean another object.
    """
    counts = Counter(value.__name__ for value in names.values())
    plain = {
        value.__name__: value
        for value in names.values()
        if counts[value.__name__] == 1
        and not any(hasattr(module, value.__name__) for module in _OF_KERAS)
    }
    return keras.saving.custom_object_scope({**plain, **names})


def _held(layer: keras.layers.Layer) -> Iterator[Any]:
    """Yields the functions that a layer holds, and the classes of objects that have a config."""
    seen: set[int] = set()
    waiting: list[Any] = list(layer._flatten_layers())
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, types.FunctionType):
            yield value
        elif hasattr(value, "get_config") and not isinstance(value, type):
            yield type(value)
            waiting += getattr(value, "__dict__", {}).values()

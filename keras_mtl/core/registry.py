"""Finds methods by name: what a package exports is what can be named."""

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import keras

from keras_mtl.core import checks


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def exported(package: ModuleType, accepts: Callable[[Any], bool]) -> dict[str, Any]:
    """Returns the exports of `package` that `accepts` admits, keyed by their file's name."""
    found = {}
    for value in vars(package).values():
        if callable(value) and accepts(value):
            module = getattr(value, "__module__", "")
            if module.startswith(f"{package.__name__}."):
                found[module.rpartition(".")[2]] = value
    return dict(sorted(found.items()))


class Registry:
    """Names, and gets by name, the methods a package exports.

    A method's string name is the name of its file, so the export line is its registration.

    Args:
        package: String. The package's import name.
        base: Class. The base class of the methods, left out of the names itself.
        argument: String. What `get` resolves, for its messages.
        default: Optional string. What `None` and `"none"` stand for; `None` for no method.
    """

    def __init__(self, package: str, base: type, argument: str, default: str | None = None) -> None:
        self._package = package
        self._base = base
        self._argument = argument
        self._default = default

    def classes(self) -> dict[str, type]:
        """Returns the exported method classes, keyed by name."""
        return exported(
            sys.modules[self._package],
            lambda value: (
                isinstance(value, type)
                and issubclass(value, self._base)
                and value.__module__ != self._base.__module__
            ),
        )

    def names(self) -> list[str]:
        """Lists the names that `get` understands, in alphabetical order."""
        return list(self.classes())

    def get(self, identifier: Any) -> Any:
        """Returns a method from its name, class, config or instance.

        Args:
            identifier: A name (case and underscores are ignored), a class, a Keras config,
                an instance (returned as it is), or `None` / `"none"` for the default.

        Raises:
            ValueError: If the name is unknown; the message suggests the nearest one.
            TypeError: If `identifier` is none of these.
        """
        if identifier is None or (isinstance(identifier, str) and _plain(identifier) == "none"):
            identifier = self._default
        if identifier is None or isinstance(identifier, self._base):
            return identifier
        if isinstance(identifier, type) and issubclass(identifier, self._base):
            return identifier()
        if isinstance(identifier, str):
            return self._by_name(identifier)()
        if isinstance(identifier, Mapping):
            return self.get(keras.saving.deserialize_keras_object(dict(identifier)))
        raise TypeError(
            f"`{self._argument}` must be a name, a {self._base.__name__}, its config or None, "
            f"received {checks.describe(identifier)}. Names: {self.names()}."
        )

    def _by_name(self, name: str) -> type:
        classes = self.classes()
        for key, value in classes.items():
            if _plain(key) == _plain(name):
                return value
        raise ValueError(
            f"`{self._argument}` has no method named '{name}'."
            f"{checks.suggestion(name, classes)} Names: {list(classes)}."
        )

"""Finds methods by name: what a package exports is what can be named."""

import inspect
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


class _Exports:
    """Names what a package exports.

    Args:
        package: String. The package's import name.
        argument: String. What `get` resolves, for its messages.
        kind: String. What the names stand for, for its messages.
    """

    def __init__(self, package: str, argument: str, kind: str) -> None:
        self._package = package
        self._argument = argument
        self._kind = kind

    def _accepts(self, value: Any) -> bool:
        raise NotImplementedError

    def found(self) -> dict[str, Any]:
        """Returns the exports, keyed by name."""
        return exported(sys.modules[self._package], self._accepts)

    def names(self) -> list[str]:
        """Lists the names that `get` understands, in alphabetical order."""
        return list(self.found())

    def _by_name(self, name: str) -> Any:
        found = self.found()
        for key, value in found.items():
            if _plain(key) == _plain(name):
                return value
        advice = self._place_of(name) or checks.suggestion(name, found)
        raise ValueError(
            f"`{self._argument}` has no {self._kind} named '{name}'.{advice} Names: {list(found)}."
        )

    def _place_of(self, identifier: Any) -> str:
        """Returns what to write where another registry has it, or an empty string."""
        del identifier
        return ""


# Each method belongs to one argument of `compile`, and is easily passed as another.
_registries: list["Registry"] = []


class Registry(_Exports):
    """Names, and gets by name, the methods a package exports.

    A method's string name is the name of its file, so the export line is its registration.

    Args:
        package: String. The package's import name.
        base: Class. The base class of the methods. What stands in its file, or in files that begin
            with its file's name and an underscore, is left out of the names.
        argument: String. What `get` resolves, for its messages.
        default: Optional string. What `None` and `"none"` stand for; `None` for no method.
    """

    def __init__(self, package: str, base: type, argument: str, default: str | None = None) -> None:
        super().__init__(package, argument, "method")
        self._base = base
        self._default = default
        _registries.append(self)

    def _accepts(self, value: Any) -> bool:
        if not isinstance(value, type) or not issubclass(value, self._base):
            return False
        # Neither what stands in `base`, nor in `base_...` beside it.
        base = self._base.__module__
        return value.__module__ != base and not value.__module__.startswith(f"{base}_")

    def _place_of(self, identifier: Any) -> str:
        for other in _registries:
            name = None if other._package not in sys.modules else other._name_of(identifier)
            if name is not None and other._argument != self._argument:
                return f" It is one for `{other._argument}`: pass `{other._argument}='{name}'`."
        return ""

    def _name_of(self, identifier: Any) -> str | None:
        """Returns the name of what is given as a name, a class or an instance, or `None`."""
        for name, method in self.found().items():
            if isinstance(identifier, str) and _plain(identifier) == _plain(name):
                return name
            if identifier is method or type(identifier) is method:
                return name
        return None

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
            f"received {checks.describe(identifier)}.{self._place_of(identifier)} Names: "
            f"{self.names()}."
        )


class BuilderRegistry(_Exports):
    """Names, and gets by name, the builder functions a package exports.

    A builder is a function that stands in a file of its own name.

    Args:
        package: String. The package's import name.
        argument: String. What `get` resolves, for its messages.
    """

    def __init__(self, package: str, argument: str) -> None:
        super().__init__(package, argument, "builder")

    def _accepts(self, value: Any) -> bool:
        return inspect.isfunction(value) and value.__module__.endswith(f".{value.__name__}")

    def get(self, identifier: Any) -> Callable[..., Any]:
        """Returns a builder from its name.

        Args:
            identifier: A name (case and underscores are ignored), or a function with a
                builder's arguments, which is returned as it is.

        Raises:
            ValueError: If the name is unknown; the message suggests the nearest one.
            TypeError: If `identifier` is neither.
        """
        if isinstance(identifier, str):
            return self._by_name(identifier)
        if callable(identifier) and not isinstance(identifier, type):
            return identifier
        raise TypeError(
            f"`{self._argument}` must be a name or a builder function, received "
            f"{checks.describe(identifier)}. Names: {self.names()}."
        )

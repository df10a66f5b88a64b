import functools
import sys
import types

import pytest

from keras_mtl.core.registry import BuilderRegistry, Registry


class Base:
    """The base class of the toy methods below."""


Base.__module__ = "toy_package.base"


@pytest.fixture
def package(monkeypatch):
    """A package that exports a base class, one method, one builder and a helper function."""
    module = types.ModuleType("toy_package")
    method = type("PlainSum", (Base,), {"__module__": "toy_package.plain_sum"})
    module.Base, module.PlainSum = Base, method
    module.WeightedBase = type("WeightedBase", (Base,), {"__module__": "toy_package.base_weighted"})
    module.two_rooms = lambda *arguments: arguments
    module.helper = lambda: None
    for name in ("two_rooms", "helper"):
        function = getattr(module, name)
        function.__name__ = name
        function.__module__ = {"two_rooms": "toy_package.two_rooms", "helper": "toy_package.build"}[
            name
        ]
    monkeypatch.setitem(sys.modules, "toy_package", module)
    return module


def methods():
    return Registry("toy_package", Base, "method")


def builders():
    return BuilderRegistry("toy_package", "building")


def test_methods_are_the_exported_subclasses_by_file_name(package):
    assert methods().found() == {"plain_sum": package.PlainSum}


def test_builders_are_the_exported_functions_in_files_of_their_name(package):
    assert builders().found() == {"two_rooms": package.two_rooms}


@pytest.mark.parametrize("name", ["two_rooms", "TwoRooms", "TWOROOMS"])
def test_a_builder_is_got_by_any_spelling(package, name):
    assert builders().get(name) is package.two_rooms


def test_a_function_is_returned_as_it_is(package):
    given = functools.partial(package.two_rooms, 1)
    assert builders().get(given) is given


def test_an_unknown_builder_suggests_the_nearest(package):
    with pytest.raises(
        ValueError, match=r"`building` has no builder named 'two_room'\. Did you mea"
    ):
        builders().get("two_room")


@pytest.mark.parametrize("identifier", [3, None, Base])
def test_a_builder_that_is_neither_name_nor_function_is_refused(package, identifier):
    with pytest.raises(TypeError, match="`building` must be a name or a builder function"):
        builders().get(identifier)


def test_a_method_is_got_by_name_class_and_instance(package):
    instance = package.PlainSum()
    assert type(methods().get("plainsum")) is package.PlainSum
    assert type(methods().get(package.PlainSum)) is package.PlainSum
    assert methods().get(instance) is instance


@pytest.mark.parametrize("identifier", [None, "none", "None"])
def test_none_stands_for_the_default(package, identifier):
    assert methods().get(identifier) is None
    default = Registry("toy_package", Base, "method", default="plain_sum")
    assert type(default.get(identifier)) is package.PlainSum


def test_a_method_of_another_type_is_refused(package):
    with pytest.raises(TypeError, match="`method` must be a name, a Base, its config or None"):
        methods().get(3)

import functools
import sys
import types

import keras
import pytest

import keras_mtl
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


PCGrad, Uncertainty = keras_mtl.balancing.PCGrad, keras_mtl.weighting.Uncertainty


@pytest.mark.parametrize(
    ("get", "identifier", "error", "advice"),
    [
        (keras_mtl.weighting.get, "PC_Grad", ValueError, "gradient_balancing='pcgrad'"),
        (keras_mtl.balancing.get, "uncertainty", ValueError, "loss_weighting='uncertainty'"),
        (keras_mtl.weighting.get, PCGrad, TypeError, "gradient_balancing='pcgrad'"),
        (keras_mtl.balancing.get, Uncertainty(), TypeError, "loss_weighting='uncertainty'"),
    ],
)
def test_a_method_of_the_other_kind_is_told_apart(get, identifier, error, advice):
    argument = advice.partition("=")[0]
    expected = rf"\. It is one for `{argument}`: pass `{advice}`\. Names: \["
    with pytest.raises(error, match=expected) as found:
        get(identifier)
    assert "Did you mean" not in str(found.value)


def test_a_config_of_the_other_kind_is_told_apart():
    config = keras.saving.serialize_keras_object(PCGrad())
    with pytest.raises(TypeError, match="pass `gradient_balancing='pcgrad'`"):
        keras_mtl.weighting.get(config)


def test_a_registry_whose_package_is_gone_tells_nothing():
    Registry("no_package", Base, "method")
    with pytest.raises(ValueError, match=r"named 'pcgard'\. Did you mean 'pcgrad'"):
        keras_mtl.balancing.get("pcgard")

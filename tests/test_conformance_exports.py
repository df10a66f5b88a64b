"""What every exported method must be, found by discovery: nobody registers a test."""

import inspect
import pathlib

import keras
import pytest

import keras_mtl

TESTS = pathlib.Path(__file__).parent
PACKAGES = {"weighting": keras_mtl.weighting, "balancing": keras_mtl.balancing}
METHODS = [
    pytest.param(package, name, id=f"{kind}-{name}")
    for kind, package in PACKAGES.items()
    for name in package.names()
]
SECTIONS = ("Input shape:", "Output shape:", "Example:", "Reference:")


def class_of(package, name):
    return type(package.get(name))


@pytest.mark.parametrize(("package", "name"), METHODS)
def test_config_round_trip(package, name):
    method = package.get(name)
    restored = type(method).from_config(method.get_config())
    assert restored.get_config() == method.get_config()


@pytest.mark.parametrize(("package", "name"), METHODS)
def test_serialised_form_round_trip(package, name):
    method = package.get(name)
    restored = package.get(keras.saving.serialize_keras_object(method))
    assert type(restored) is type(method)
    assert restored.get_config() == method.get_config()


@pytest.mark.parametrize(("package", "name"), METHODS)
def test_config_holds_every_argument(package, name):
    signature = inspect.signature(class_of(package, name).__init__)
    arguments = {
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    assert arguments - {"self"} <= set(package.get(name).get_config())


@pytest.mark.parametrize(("package", "name"), METHODS)
def test_registered_with_keras(package, name):
    cls = class_of(package, name)
    registered = keras.saving.get_registered_name(cls)
    # Two kinds of methods may bear one name; then one is registered with its kind behind it.
    assert registered.startswith(f"keras_mtl>{cls.__name__}")
    assert keras.saving.get_registered_object(registered) is cls


@pytest.mark.parametrize(("package", "name"), METHODS)
def test_name_is_the_class_and_the_file(package, name):
    cls = class_of(package, name)
    assert cls.__module__ == f"{package.__name__}.{name}"
    assert cls.__name__.lower() == name.replace("_", "")
    assert getattr(package, cls.__name__) is cls


@pytest.mark.parametrize(("package", "name"), METHODS)
def test_names_ignore_case_and_underscores(package, name):
    assert class_of(package, name.upper().replace("_", "")) is class_of(package, name)


@pytest.mark.parametrize(("package", "name"), METHODS)
def test_docstring_has_the_sections(package, name):
    documentation = inspect.cleandoc(class_of(package, name).__doc__)
    summary = documentation.splitlines()[0]
    assert len(summary) <= 80
    assert summary.endswith(".")
    assert [section for section in SECTIONS if section not in documentation] == []
    assert ">>> " in documentation


@pytest.mark.parametrize(("package", "name"), METHODS)
def test_has_a_test_file_of_its_own(package, name):
    kind = package.__name__.rpartition(".")[2]
    assert (TESTS / kind / f"test_{name}.py").exists()


@pytest.mark.parametrize("package", PACKAGES.values(), ids=PACKAGES)
def test_an_unknown_name_suggests_the_nearest(package):
    name = package.names()[0]
    with pytest.raises(ValueError, match=f"Did you mean '{name}'"):
        package.get(f"{name}x")

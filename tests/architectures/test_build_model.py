import inspect

import keras
import numpy as np
import pytest

from keras_mtl import architectures
from keras_mtl.heads import Regression

BUILDERS = architectures.names()


def test_names_are_the_builders_and_nothing_else():
    assert "hard_sharing" in BUILDERS
    assert not {"build_model", "names", "get", "build"} & set(BUILDERS)


@pytest.mark.parametrize("name", BUILDERS)
def test_every_builder_takes_the_same_three_things(name):
    parameters = list(inspect.signature(architectures.get(name)).parameters.values())
    assert [parameter.name for parameter in parameters[:3]] == ["inputs", "trunk", "tasks"]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[3:])


@pytest.mark.parametrize(
    "architecture", ["hard_sharing", "HardSharing", architectures.hard_sharing]
)
def test_an_architecture_is_named_or_given(architecture):
    head = Regression(kernel_initializer="ones")
    trunk = keras.layers.Dense(2, kernel_initializer="ones")
    model = architectures.build_model(
        architecture, keras.Input((3,)), trunk, {"sum": head}, name="by_name"
    )
    np.testing.assert_allclose(model(np.ones((1, 3)))["sum"], [[6.0]])
    assert model.name == "by_name"


def test_an_unknown_architecture_suggests_the_nearest():
    with pytest.raises(ValueError, match="no builder named 'hard_shared'"):
        architectures.build_model("hard_shared", None, None, None)


def test_an_architecture_of_another_type_is_refused():
    with pytest.raises(TypeError, match="`architecture` must be a name or a builder function"):
        architectures.build_model(3, None, None, None)

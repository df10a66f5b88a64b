"""Numbers as NumPy has them are numbers, and are kept as Python's."""

import json

import numpy as np
import pytest

from keras_mtl import heads
from keras_mtl.core import checks


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers_of_numpy_are_integers(value):
    assert type(checks.positive_integer("units", value)) is int
    assert type(checks.nonnegative_integer("units", value)) is int


@pytest.mark.parametrize("value", [True, np.bool_(True), 3.0, np.float32(3), "3", None])
def test_other_values_are_not(value):
    with pytest.raises(TypeError, match="`units` must be an integer >= 1, received"):
        checks.positive_integer("units", value)


@pytest.mark.parametrize("value", [3, 0.5, np.float32(0.5), np.float64(0.5), np.int64(3)])
def test_numbers_of_numpy_are_numbers(value):
    assert type(checks.finite_number("rate", value)) is float
    assert checks.positive_number("rate", value) == float(value)


@pytest.mark.parametrize("value", [True, np.bool_(True), "3", None, np.ones(1), 1j])
def test_other_values_are_no_numbers(value):
    with pytest.raises(TypeError, match="`rate` must be a finite number"):
        checks.positive_number("rate", value)


@pytest.mark.parametrize("head", [heads.Classification, heads.Segmentation, heads.Tagging])
def test_a_head_for_the_labels_at_hand_has_a_config_of_plain_numbers(head):
    number = np.array([0, 4, 2]).max() + 1
    config = head(number, ignore_class=np.int64(0)).get_config()
    assert json.loads(json.dumps(config)) == config
    assert 5 in config.values()

"""The ways to the Gramian that the benchmark times are ways to the same numbers."""

import importlib
import pathlib

import numpy as np
import pytest
import tensorflow as tf

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def gramians():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("gramians")


@pytest.mark.parametrize("way", ["twice", "activations"])
def test_gramian_direction_and_heads_are_those_of_the_gradients(gramians, way):
    network = gramians.Network(3, 12, 2)
    random = np.random.default_rng(0)
    x = tf.constant(random.random((7, gramians.INPUTS)), tf.float32)
    labels = tf.constant(random.integers(0, gramians.CLASSES, (7, 3)))
    expected = gramians.from_gradients(network, x, labels)
    found = gramians.WAYS[way](network, x, labels)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    assert len(found[1]) == 4  # kernel and bias of two layers
    for parts, others in zip(found[1:], expected[1:], strict=True):
        for part, other in zip(parts, others, strict=True):
            np.testing.assert_allclose(part, other, rtol=1e-3, atol=1e-5)


def test_weights_make_the_norms_equal(gramians):
    gramian = tf.constant([[4.0, 0.0], [0.0, 9.0]])
    np.testing.assert_allclose(gramians.weights_of(gramian), [1 / 2, 1 / 3], rtol=1e-6)

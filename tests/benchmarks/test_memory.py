"""The memory benchmark divides by the size of a real gradient, and does not hide failures."""

import importlib
import pathlib

import keras
import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def memory():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("memory")


def test_unit_is_one_gradient_of_what_all_tasks_share(memory):
    model = memory.build(keras.Model, 3, 16, 4)
    shared = model.trainable_variables[: -2 * 3]  # kernel and bias of three heads
    in_mb = sum(variable.shape.num_elements() for variable in shared) * 4 / 2**20
    assert memory.gradient_mb(16, 4) == pytest.approx(in_mb)


def test_method_that_fails_is_an_error_with_its_message(memory):
    with pytest.raises(RuntimeError, match=r"pcgard with 2 tasks failed:[\s\S]*pcgrad"):
        memory.peak("pcgard", 2, 16, 4, 8)

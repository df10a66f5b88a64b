"""The input benchmark times the pipelines it names, and steps on their batches."""

import importlib
import pathlib

import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("input_throughput")


def test_mixtures_carry_both_tasks_and_one_data_set_none_to_miss(benchmark):
    pipelines = benchmark.pipelines(rows=32, batch=8)
    _, labels = next(iter(pipelines["one data set"]))
    assert (labels.numpy() >= 0).all()
    for by in ("row", "batch"):
        _, y = next(iter(pipelines[f"mix by {by}"]))
        present = np.stack([y["first"] >= 0, y["second"] >= 0])
        np.testing.assert_array_equal(present.sum(axis=0), np.ones(8))


def test_rates_count_rows(benchmark):
    dataset = benchmark.tf.data.Dataset.range(10**6).batch(10)
    one, two = (benchmark.rows_a_second(dataset, batch, 50, 5) for batch in (10, 10**6))
    assert two > 1000 * one > 0


def test_the_ratio_is_that_of_steps_on_one_model(benchmark):
    dataset = benchmark.pipelines(rows=32, batch=8)["mix by row"]
    ratios, seconds = benchmark.cost(dataset, pairs=2, steps=1)
    assert len(ratios) == 2
    assert min(ratios) > 0
    assert seconds > 0

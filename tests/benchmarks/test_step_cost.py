"""The step benchmark measures what it says against plain Keras."""

import importlib
import pathlib

import keras
import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def step_cost():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("step_cost")


def test_interval_of_the_median_by_ranks(step_cost):
    # 100 values: ranks 50 -+ 9.8.
    assert step_cost.median_interval([float(value) for value in range(100)]) == (40.0, 59.0)


def test_limits_by_kind_of_method(step_cost):
    assert step_cost.limit("uncertainty", 8) == 1.03
    assert step_cost.limit("mgda:features", 8) == 1.15
    assert step_cost.limit("mgda:parameters", 4) == pytest.approx(3 * 1.1)
    assert step_cost.limit("mgda:parameters:4", 4) is None
    assert step_cost.limit("famo", 2) is None


def test_methods_are_named_with_scope_and_refresh(step_cost):
    method = step_cost.parse_method("mgda:features:4")["gradient_balancing"]
    assert (type(method).__name__, method.scope, method.refresh_every) == ("MGDA", "features", 4)
    assert step_cost.parse_method("uncertainty") == {"loss_weighting": "uncertainty"}
    assert {"mgda:parameters", "mgda:features"} < set(step_cost.all_methods())
    assert step_cost.solver_times(2, repeats=3)["mgda"] > 0


def test_method_that_needs_auxiliary_tasks_gets_all_but_the_first(step_cost):
    assert list(step_cost.roles_for({"loss_weighting": "auxilearn"}, 3)["tasks"]) == [
        "task1",
        "task2",
    ]
    assert step_cost.roles_for({"loss_weighting": "auto_lambda"}, 3) == {}
    assert step_cost.roles_for({"gradient_balancing": "pcgrad"}, 3) == {}


@pytest.mark.slow
def test_both_models_of_a_pair_train_from_the_same_weights(step_cost):
    models = [
        step_cost.build(cls, "mlp", 2) for cls in (keras.Model, step_cost.keras_mtl.MultiTaskModel)
    ]
    for model in models:
        step_cost.stepper(model, 2, jit_compile=False)(1)
    for plain, own in zip(*(model.get_weights() for model in models), strict=True):
        assert abs(plain - own).max() < 1e-5
    assert len(step_cost.measure("mlp", 2, ["fixed"], 2, 1, jit_compile=False)["fixed"]) == 2

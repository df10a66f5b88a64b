"""One dict of tasks makes any number of models that share nothing."""

import keras
import numpy as np
import pytest

import keras_mtl

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = {"age": X[:, :1], "job": np.arange(8) % 3}


def make_tasks():
    return {
        "age": keras_mtl.Task(
            keras_mtl.heads.Regression(),
            tower=[keras.layers.Dense(2)],
            loss=keras.losses.Huber(),
            metrics=[keras.metrics.MeanAbsoluteError(name="mae")],
        ),
        "job": keras_mtl.heads.Classification(3),
    }


def build(tasks):
    trunk = keras.layers.Dense(4)
    return keras_mtl.architectures.hard_sharing(keras.Input((3,), name="x"), trunk, tasks)


def test_training_one_model_leaves_the_other_as_it_was():
    tasks = make_tasks()
    first, second = build(tasks), build(tasks)
    for model in (first, second):
        model.compile("adam")
    before, logs = second.get_weights(), second.evaluate(X, Y, return_dict=True, verbose=0)
    first.loss_weights["age"] = 0.1
    first.stop_task("job")
    first.fit(X, Y, epochs=2, verbose=0)
    for old, new in zip(before, second.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert second.loss_weights["age"] == 1.0
    assert second.evaluate(X, Y, return_dict=True, verbose=0) == logs
    assert {id(v) for v in first.variables}.isdisjoint(id(v) for v in second.variables)


def test_the_metrics_of_one_model_do_not_add_to_the_others():
    tasks = make_tasks()
    first, second = build(tasks), build(tasks)
    for model in (first, second):
        model.compile("adam")
    second.set_weights(first.get_weights())
    wanted = first.test_on_batch(X, Y, return_dict=True)["age_mae"]
    shifted = {**Y, "age": Y["age"] + 100.0}
    second.test_on_batch(X, shifted, return_dict=True)
    assert float(first.get_metrics_result()["age_mae"]) == pytest.approx(wanted, rel=1e-6)


def test_one_metric_object_of_two_tasks_is_refused():
    metric = keras.metrics.MeanAbsoluteError()
    regression = keras_mtl.heads.Regression()
    tasks = {name: keras_mtl.Task(regression, metrics=[metric]) for name in ("age", "size")}
    with pytest.raises(ValueError, match="gives one object, 'mean_absolute_error', to the tasks"):
        build(tasks).compile("sgd")


def test_one_method_object_given_to_two_models_is_copied():
    weighting, balancing = keras_mtl.weighting.Uncertainty(), keras_mtl.balancing.MGDA()
    first, second = build(make_tasks()), build({**make_tasks(), "sex": make_tasks()["job"]})
    first.compile("sgd", loss_weighting=weighting, gradient_balancing=balancing)
    second.compile("sgd", loss_weighting=weighting, gradient_balancing=balancing)
    first.fit(X, Y, verbose=0)
    second.fit(X, {**Y, "sex": Y["job"]}, verbose=0)
    assert list(first.task_weights) == ["age", "job"]
    assert list(second.task_weights) == ["age", "job", "sex"]
    assert weighting.num_tasks == 2


def test_a_clone_is_a_new_model_of_the_same_graph():
    model = build(make_tasks())
    model.compile("sgd")
    model.fit(X, Y, verbose=0)
    clone = model.clone()
    clone.compile("sgd")
    assert [v.path for v in clone.weights] == [v.path for v in model.weights]
    assert {id(v) for v in clone.variables}.isdisjoint(id(v) for v in model.variables)
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(clone.get_weights(), model.get_weights(), strict=True)
    )
    clone.set_weights(model.get_weights())
    assert clone.evaluate(X, Y, verbose=0) == model.evaluate(X, Y, verbose=0)

"""What every exported metric must be, found by discovery: nobody registers a test."""

import inspect

import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl import MultiTaskModel, Task

TAGS = ["O", "B-LOC", "I-LOC"]
# What metrics cannot do without; one with another such argument adds it here.
ARGUMENTS = {"tags": TAGS}
METRICS = [
    value
    for value in vars(keras_mtl.metrics).values()
    if inspect.isclass(value) and issubclass(value, keras.metrics.Metric)
]
# Ids of a token each, at whose end 0 pads; and scores, of which some choose another id.
EXPECTED = np.array([[1, 2, 1, 0], [1, 1, 2, 2], [2, 0, 0, 0], [1, 2, 2, 0]])
FOUND = np.array([[1, 2, 1, 0], [1, 2, 2, 1], [2, 1, 0, 0], [0, 0, 2, 0]])
SCORES = (np.eye(3)[FOUND] * 4).astype("float32")

for_each_metric = pytest.mark.parametrize("kind", METRICS)


def new(kind, **arguments):
    parameters = inspect.signature(kind).parameters.values()
    needed = [part.name for part in parameters if part.default is inspect.Parameter.empty]
    return kind(**{name: ARGUMENTS[name] for name in needed}, **arguments)


def measured(metric, *batches):
    for rows in batches:
        metric.update_state(EXPECTED[rows], SCORES[rows])
    return float(metric.result())


def test_metrics_are_found():
    assert keras_mtl.metrics.EntityF1 in METRICS


@for_each_metric
def test_config_round_trip(kind):
    metric = new(kind, name="own")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(again) is kind
    assert again.get_config() == metric.get_config()
    assert again.name == "own"
    assert measured(again, slice(None)) == measured(metric, slice(None))


@for_each_metric
def test_config_holds_every_argument(kind):
    assert set(inspect.signature(kind).parameters) <= set(new(kind).get_config())


@for_each_metric
def test_registered_under_its_name(kind):
    assert keras.saving.get_registered_name(kind) == f"keras_mtl>{kind.__name__}"


@for_each_metric
def test_callbacks_know_in_which_direction_it_improves(kind):
    assert new(kind)._direction in {"up", "down"}


@for_each_metric
def test_state_resets(kind):
    metric = new(kind)
    first = measured(metric, slice(None))
    assert first != float(new(kind).result())
    metric.reset_state()
    assert float(metric.result()) == float(new(kind).result())
    assert measured(metric, slice(None)) == first


@for_each_metric
def test_it_is_exact_over_batches_and_no_mean_of_theirs(kind):
    batches = slice(0, 1), slice(1, 4)
    whole = measured(new(kind), slice(None))
    assert measured(new(kind), *batches) == pytest.approx(whole, abs=1e-6)
    assert np.mean([measured(new(kind), rows) for rows in batches]) != pytest.approx(
        whole, abs=0.01
    )


@for_each_metric
def test_rows_of_weight_0_do_not_count(kind):
    metric = new(kind)
    metric.update_state(EXPECTED, SCORES, sample_weight=np.array([0.0, 1.0, 1.0, 0.0]))
    assert float(metric.result()) == pytest.approx(measured(new(kind), slice(1, 3)), abs=1e-6)


@for_each_metric
def test_a_model_that_carries_it_in_compile_loads_again(kind, tmp_path):
    inputs = keras.Input((4, 3), name="scores")
    outputs = {"steps": keras.layers.Softmax(name="softmax")(inputs)}
    tasks = {"steps": Task(loss="sparse_categorical_crossentropy")}
    model = MultiTaskModel(inputs, outputs, tasks=tasks)
    model.compile("sgd", metrics={"steps": [new(kind, name="own")]})
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    data = {"x": SCORES, "y": {"steps": EXPECTED}, "batch_size": 3, "verbose": 0}
    logs = [each.evaluate(**data, return_dict=True) for each in (model, again)]
    assert logs[0] == logs[1]
    assert logs[0]["steps_own"] == pytest.approx(measured(new(kind), slice(None)), abs=1e-6)


@for_each_metric
@pytest.mark.parametrize("section", ["Args:", "Call arguments:", "Example:"])
def test_docstring_has_the_section(kind, section):
    assert section in inspect.getdoc(kind)

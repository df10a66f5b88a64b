"""Every row once, and each task measured on the rows that have its label."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl.data import concatenate
from keras_mtl.heads import Classification, Regression

rows_of = tf.data.Dataset.from_tensor_slices
X = np.linspace(-1, 1, 75, dtype="float32")[:, None]
AGES, JOBS = np.sin(np.arange(35.0)).astype("float32"), np.arange(40) % 3


def datasets():
    return {"age": rows_of((X[:35], AGES)), "job": rows_of((X[35:], {"job": JOBS}))}


@pytest.mark.parametrize("small", [2**16, 0])
def test_every_row_comes_once_and_in_order(small, monkeypatch):
    # Large rows are filled one by one.
    monkeypatch.setattr("keras_mtl.data._specs._SMALL", small)
    batches = concatenate(datasets(), batch_size=10)
    read = list(batches.as_numpy_iterator())
    assert [len(x) for x, _ in read] == [10] * 7 + [5]
    assert len(batches) == 8
    np.testing.assert_array_equal(np.concatenate([x for x, _ in read]), X)
    ages = np.concatenate([y["age"] for _, y in read])
    jobs = np.concatenate([y["job"] for _, y in read])
    np.testing.assert_array_equal(ages, np.concatenate([AGES, np.full(40, np.nan, "float32")]))
    np.testing.assert_array_equal(jobs, np.concatenate([np.full(35, -1), JOBS]))


def test_each_task_is_measured_on_its_own_data_set():
    tasks = {"age": Regression(), "job": Classification(3)}
    trunk = keras.layers.Dense(4, activation="tanh")
    model = keras_mtl.architectures.hard_sharing(keras.Input((1,)), trunk, tasks)
    model.compile("sgd")
    logs = model.evaluate(concatenate(datasets(), batch_size=16), return_dict=True, verbose=0)

    ages = model.predict(X[:35], verbose=0)["age"][:, 0]
    jobs = model.predict(X[35:], verbose=0)["job"]
    # float32 in another order
    assert logs["age_mae"] == pytest.approx(np.abs(ages - AGES).mean(), rel=1e-5)
    picked = jobs[np.arange(40), JOBS]
    assert logs["job_loss"] == pytest.approx(-np.log(picked).mean(), rel=1e-5)


def test_a_data_set_that_does_not_know_its_size_is_read_to_its_end():
    filtered = {name: rows.filter(lambda x, y: x[0] > -2) for name, rows in datasets().items()}
    batches = concatenate(filtered, batch_size=50)
    assert [len(x) for x, _ in batches] == [50, 25]


def test_rows_of_different_length_are_padded():
    words = tf.data.Dataset.range(1, 4).map(
        lambda n: (tf.ones([n]), {"tag": tf.ones([n], "int32")})
    )
    x, y = next(iter(concatenate({"words": words}, batch_size=3)))
    np.testing.assert_array_equal(x, [[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(y["tag"], [[1, -1, -1], [1, 1, -1], [1, 1, 1]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be an integer >= 1"),
        ({"missing": {"jobs": 255}}, r"`missing` must have only task names"),
        ({"datasets": {"age": rows_of((X, X)).take(0)}}, r"`datasets\['age'\]` must have rows"),
        (
            {"datasets": {**datasets(), "age": rows_of((X, X)).repeat()}},
            r"`datasets\['age'\]` must end, .* received an endless .* Leave out `.repeat\(\)`",
        ),
        ({"datasets": {"age": rows_of(X)}}, r"`datasets\['age'\]` must have elements"),
    ],
)
def test_values_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        concatenate(**{"datasets": datasets(), "batch_size": 4, **arguments})

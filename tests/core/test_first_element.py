"""Looking at the first element of a data set leaves all of it to those who read it later."""

import keras
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl.core.first_element import first_element, is_free_to_look
from keras_mtl.data._sizes import sizes_of

ROWS = 4000


def cached():
    """Returns rows that are read ahead and cached, as those of `tfds.load(...).cache()` are."""

    def slowly(row):
        # The cache has to wait for rows, as it does for those of files.
        noise = tf.random.normal((48, 48))
        x = tf.cast(row, "float32")[None] + 0.0 * tf.reduce_sum(noise @ noise)
        return x, {"a": x}

    return tf.data.Dataset.range(ROWS).map(slowly).prefetch(2).cache()


def batches(dataset):
    return dataset.batch(256).prefetch(2)


def count(dataset):
    return sum(1 for _ in dataset)


def test_first_element_is_that_or_none():
    assert int(first_element(tf.data.Dataset.range(3, 9))) == 3
    assert first_element(tf.data.Dataset.range(0)) is None


@pytest.mark.parametrize("_", range(5))
def test_cache_is_whole_after_a_look(_):
    rows = cached()
    data = batches(rows)
    first_element(data)
    assert count(data) == -(-ROWS // 256)
    assert count(rows) == ROWS


def test_cache_is_whole_after_the_data_set_is_gone():
    rows = cached()
    data = batches(rows)
    first_element(data)
    assert count(data) == -(-ROWS // 256)
    del data
    assert count(rows) == ROWS


def test_fit_validates_on_every_row_of_a_cached_data_set():
    inputs = keras.Input((1,))
    model = keras_mtl.MultiTaskModel(inputs, {"a": keras.layers.Dense(1, name="a")(inputs)})
    model.compile("sgd", loss={"a": "mse"}, metrics={"a": CountOfRows()})
    rows = cached()
    history = model.fit(
        batches(rows.take(256)), validation_data=batches(rows), epochs=2, verbose=0
    ).history
    assert history["val_a_rows"] == [ROWS, ROWS]


class CountOfRows(keras.metrics.Metric):
    """Counts the rows it is given."""

    def __init__(self, name="rows", **kwargs):
        super().__init__(name=name, **kwargs)
        self.rows = self.add_weight(shape=(), initializer="zeros", name="rows")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.rows.assign_add(keras.ops.cast(keras.ops.shape(y_true)[0], "float32"))

    def result(self):
        return self.rows


def test_question_for_a_size_leaves_the_cache_whole():
    rows = cached()
    opened = batches(rows.filter(lambda *_: True))
    assert sizes_of({"a": opened}, {}) == {"a": None}
    assert count(rows) == ROWS


@pytest.mark.parametrize("change", [lambda data: data, batches, lambda data: data.zip(data)])
def test_cache_in_a_file_is_not_looked_into(change, tmp_path):
    assert is_free_to_look(change(cached()))
    assert not is_free_to_look(change(cached().cache(str(tmp_path / "cache"))))


def test_files_that_are_read_are_no_caches(tmp_path):
    path = tmp_path / "lines"
    path.write_text("one\ntwo\n")
    assert is_free_to_look(tf.data.TextLineDataset(str(path)).batch(2))


def test_question_for_a_size_leaves_a_cache_in_a_file_alone(tmp_path):
    opened = cached().filter(lambda *_: True).cache(str(tmp_path / "cache"))
    assert sizes_of({"a": opened}, {}) == {"a": None}
    assert count(opened) == ROWS

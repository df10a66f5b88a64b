"""Looking at the first element of a data set leaves all of it to those who read it later."""

import keras
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl.core.first_element import before_shuffle, first_element, is_free_to_look
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


def generated(count, read):
    """Returns rows of a generator, which adds each one that it makes to `read`."""

    def rows():
        for row in range(count):
            read.append(row)
            yield row, {"a": row}

    spec = tf.TensorSpec((), tf.float32)
    return tf.data.Dataset.from_generator(rows, output_signature=(spec, {"a": spec}))


SHUFFLED = {
    "last": lambda rows: rows.shuffle(500),
    "mapped": lambda rows: rows.shuffle(500).map(lambda x, y: (x + 1, y)).prefetch(1),
    "mapped in parallel": lambda rows: rows.shuffle(500).repeat(2).map(lambda *e: e, 2),
    "with options": lambda rows: rows.shuffle(500).with_options(tf.data.Options()),
    "twice": lambda rows: rows.shuffle(400).shuffle(500),
}


@pytest.mark.parametrize("shuffle", SHUFFLED.values(), ids=SHUFFLED)
def test_question_for_a_size_fills_no_shuffle(shuffle):
    read = []
    assert sizes_of({"a": shuffle(generated(600, read))}, {}) == {"a": None}
    assert 1 <= len(read) <= 3  # generators are read ahead
    with pytest.raises(ValueError, match=r"`datasets\['a'\]` must have rows"):
        sizes_of({"a": shuffle(generated(0, read))}, {})


def test_a_shuffle_below_what_may_drop_rows_is_left_alone():
    read = []
    rows = generated(600, read).shuffle(500)
    for opened in (rows.filter(lambda x, y: x > 3), rows.batch(4), rows.zip(rows), rows.cache()):
        assert before_shuffle(opened) is opened
        assert sizes_of({"a": opened}, {}) == {"a": None}
    assert read == []


def test_without_a_shuffle_the_data_set_itself_is_looked_into():
    rows = tf.data.Dataset.range(4).map(lambda x: x).prefetch(1).repeat(2)
    assert before_shuffle(rows) is rows


def test_fit_fills_no_shuffle_of_validation_data_before_it_validates():
    inputs = keras.Input((1,))
    model = keras_mtl.MultiTaskModel(inputs, {"a": keras.layers.Dense(1, name="a")(inputs)})
    model.compile("sgd", loss="mse")
    read, counts = [], []
    rows = generated(60, read).shuffle(50).batch(20).map(lambda x, y: (x[:, None], y))
    count = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: counts.append(len(read)))
    fit = {"validation_data": rows, "validation_steps": 3, "callbacks": [count], "verbose": 0}
    x = tf.zeros((4, 1))
    model.fit(x, {"a": x}, **fit)
    assert counts == [0]
    assert read == list(range(60))

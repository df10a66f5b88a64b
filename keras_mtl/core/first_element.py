"""Reads the first element of a data set without harm to what it caches or shuffles."""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

# Those that are empty where what they are made of is.
_AS_EMPTY_AS_BEFORE = {
    "_MapDataset",
    "_OptionsDataset",
    "_ParallelMapDataset",
    "_PrefetchDataset",
    "_RepeatDataset",
    "_ShuffleDataset",
}


def first_element(dataset: tf.data.Dataset) -> Any:
    """Returns the first element of a data set, `None` if it is empty.

    The iterator lives as long as the data set. One that is dropped while it still reads ahead cuts
    `dataset.prefetch(...).cache()` short without a word: TensorFlow takes the read that it calls
    off for the end of the data, and the cache, which stops there, for complete.
    """
    iterator = iter(dataset)
    dataset._first_element_iterator = iterator
    return next(iterator, None)


def is_free_to_look(dataset: tf.data.Dataset) -> bool:
    """Returns whether `first_element` may be asked: not where it would harm or cost.

    As long as one iterator writes a cache in a file, TensorFlow lets no other one read. And a
    shuffle reads its whole buffer for one element, and keeps it as long as the iterator lives.
    """
    return not any(_lies_in_file(part) or _shuffles(part) for part in _parts(dataset))


def before_shuffle(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a data set that is empty where `dataset` is, as far as can be without its shuffle."""
    while type(dataset).__name__ in _AS_EMPTY_AS_BEFORE and any(map(_shuffles, _parts(dataset))):
        (dataset,) = dataset._inputs()
    return dataset


def _parts(dataset: tf.data.Dataset) -> Iterator[tf.data.Dataset]:
    """Yields the data set and all that it is made of."""
    waiting = [dataset]
    while waiting:
        dataset = waiting.pop()
        yield dataset
        waiting.extend(dataset._inputs())


def _lies_in_file(dataset: tf.data.Dataset) -> bool:
    return bool(tf.get_static_value(getattr(dataset, "_filename", tf.constant(""))))


def _shuffles(dataset: tf.data.Dataset) -> bool:
    return "Shuffle" in type(dataset).__name__

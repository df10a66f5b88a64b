"""Reads the first element of a data set without harm to what it caches."""

from typing import Any

import tensorflow as tf


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
    """Returns whether `first_element` may be asked: not where a cache lies in a file.

    As long as one iterator writes the file, TensorFlow lets no other one read.
    """
    waiting = [dataset]
    while waiting:
        dataset = waiting.pop()
        if tf.get_static_value(getattr(dataset, "_filename", tf.constant(""))):
            return False
        waiting.extend(dataset._inputs())
    return True

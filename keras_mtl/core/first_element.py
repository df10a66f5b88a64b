"""Reads the first element of a data set without harm to what it caches."""

from typing import Any

import tensorflow as tf


def first_element(dataset: tf.data.Dataset, default: Any = None) -> Any:
    """Returns the first element of a data set, `default` if it is empty.

    The iterator lives as long as the data set. One that is dropped while it still reads ahead cuts
    `dataset.prefetch(...).cache()` short without a word: TensorFlow takes the read that it calls
    off for the end of the data, and the cache, which stops there, for complete.
    """
    iterator = iter(dataset)
    dataset._first_element_iterator = iterator
    return next(iterator, default)

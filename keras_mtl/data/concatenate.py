"""All rows of several data sets, once."""

import math
from collections.abc import Mapping

import tensorflow as tf

from keras_mtl.core import checks
from keras_mtl.data._sizes import sizes_of
from keras_mtl.data._sources import Sources


def concatenate(
    datasets: Mapping[str, tf.data.Dataset],
    *,
    batch_size: int,
    missing: Mapping[str, int] | None = None,
    padding: Mapping[str, float] | None = None,
) -> tf.data.Dataset:
    """Puts data sets that each carry the labels of some tasks one behind the other.

    Every row comes once, in order: for `evaluate` and `validation_data`, where `mix`, which
    draws at random, is for `fit`. For the tasks its data set does not have, a row gets the
    marker of a missing label, so that each task is measured on the rows that have its label.

    Args:
        datasets: Dict from name to a `tf.data.Dataset` of rows, as in `keras_mtl.data.mix`.
        batch_size: Integer >= 1. The last batch has the rows that are left.
        missing: Optional dict from task to the `ignore_class` of its head, as in
            `keras_mtl.data.mix`.
        padding: Optional dict from task to what pads its labels, as there.

    Returns:
        A `tf.data.Dataset` of batches `(x, {task: label})` with the labels of all tasks.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If inputs or labels of the data sets differ in structure, dtype or shape, a
            data set is empty or endless, or labels that must be filled have no marker.

    Example:

    >>> import tensorflow as tf
    >>> rows = tf.data.Dataset.from_tensor_slices
    >>> x = np.zeros((2, 4))
    >>> datasets = {"age": rows((x, [31.0, 48.0])), "job": rows((x, [0, 2]))}
    >>> _, y = next(iter(keras_mtl.data.concatenate(datasets, batch_size=4)))
    >>> y["job"]
    [-1, -1, 0, 2]
    """
    batch_size = checks.positive_integer("batch_size", batch_size)
    sources = Sources(
        datasets,
        {} if missing is None else missing,
        {} if padding is None else padding,
    )
    _check_ends(datasets)
    sizes = list(sizes_of(datasets, {}).values())
    first, *others = sources.rows(endless=False)
    for rows in others:
        first = first.concatenate(rows)
    batches = sources.batch(first, batch_size, drop_remainder=False)
    if None not in sizes:
        length = math.ceil(sum(size for size in sizes if size is not None) / batch_size)
        batches = batches.apply(tf.data.experimental.assert_cardinality(length))
    return batches.prefetch(tf.data.AUTOTUNE)


def _check_ends(datasets: Mapping[str, tf.data.Dataset]) -> None:
    for name, dataset in datasets.items():
        if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                f"`datasets['{name}']` must end, since every row comes once, received an endless "
                "data set. Leave out `.repeat()`."
            )

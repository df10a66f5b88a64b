"""One stream of batches from several data sets."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mtl.core import checks
from keras_mtl.data._proportions import proportions
from keras_mtl.data._sizes import known, sizes_of
from keras_mtl.data._sources import Sources

_UNITS = ("row", "batch")


def mix(
    datasets: Mapping[str, tf.data.Dataset],
    weights: Any = "proportional",
    *,
    batch_size: int,
    by: str = "row",
    steps_per_epoch: int | None = None,
    epochs: int = 1,
    sizes: Mapping[str, int] | None = None,
    missing: Mapping[str, int] | None = None,
    padding: Mapping[str, float] | None = None,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Mixes data sets that each carry the labels of some tasks, to train one model.

    Each row (or batch) comes from data set i with probability p_i, p_i proportional to
    n_i^(1/T) for n_i rows and a temperature T. A row keeps its inputs and labels; for the tasks
    its data set does not have it gets the marker of a missing label, which reaches neither loss
    nor metric nor gradient. A data set that ends begins again. The mixture does not shuffle:
    shuffle the data sets, with a seed where training is to be repeated. For evaluation
    `keras_mtl.data.concatenate` gives every row once.

    In a new process all draws begin anew, and so do annealed weights: a `fit` that is resumed
    there, as by `keras.callbacks.BackupAndRestore`, sees the rows of the first epochs again and
    does not end exactly where one that was never stopped does. A loop of your own can:
    `tf.train.Checkpoint(iterator=iterator)` saves the state of an iterator, and the one restored
    goes on as the one saved.

    Args:
        datasets: Dict from name to a `tf.data.Dataset` of rows, not of batches: elements are
            `(x, {task: label})`, or `(x, label)` where the data set's name is its task. The
            inputs of all have one structure, dtype and shape. Rows that differ in length are
            padded to the longest of the batch: inputs with 0 or "", labels as missing. A missing
            label of no fixed length is as long as the row's inputs along the same axis (a tag a
            word), or 1 where those have a fixed length. Labels in several parts follow only
            inputs that are open along exactly their axes.
        weights: `"proportional"` to the numbers of rows (T = 1, the default), `"uniform"`, a
            temperature T > 0, `"annealed"` from proportional nearly to uniform over the
            epochs, or a dict from data set to its share, in any unit.
        batch_size: Integer >= 1. Every batch has so many rows.
        by: `"row"` (default) puts rows of several data sets into one batch. `"batch"` takes a
            whole batch from one data set: where data sets have one task each, a step then sees
            one task, and gradient balancing and loss weighting have nothing to weigh there.
        steps_per_epoch: Optional integer >= 1. Batches an epoch; by default as many as hold all
            rows of all data sets.
        epochs: Integer >= 1. With 1, the default, the mixture is one epoch long, and every
            epoch of `fit(mixture, epochs=...)` begins each data set anew. With more it is so
            many epochs long: `fit(mixture, epochs=epochs, steps_per_epoch=len(mixture) //
            epochs)` runs through it once, and a data set larger than its part of an epoch
            comes to its last rows too.
        sizes: Optional dict from data set to its number of rows: for those that do not know it,
            such as generators, and to count a large one as smaller than it is.
        missing: Optional dict from task to the `ignore_class` of its head, where labels are
            integers. By default -1: they are taken for class ids, so cast targets of a
            regression to float. Float labels are always missing where they are NaN.
        padding: Optional dict from task to what its labels are padded with where rows differ in
            length, if that does not mean missing: -1 for `Detection`, 0 for `Transcription`.
        seed: Optional integer. Makes the choice of data sets repeatable. It differs from epoch
            to epoch all the same.

    Returns:
        A `tf.data.Dataset` of batches `(x, {task: label})` with the labels of all tasks, of
        length `steps_per_epoch * epochs`.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If inputs or labels of the data sets differ in structure, dtype or shape, a
            data set is empty, a size is needed and not known, a name is unknown, labels that
            must be filled have no marker, or a value is out of range.

    Example:

    >>> import tensorflow as tf
    >>> rows = tf.data.Dataset.from_tensor_slices
    >>> datasets = {
    ...     "age": rows((np.zeros((2, 4)), [31.0, 48.0])),
    ...     "job": rows((np.ones((6, 4)), {"job": [0, 1, 2, 0, 1, 2]})),
    ... }
    >>> mixture = keras_mtl.data.mix(datasets, batch_size=4, seed=0)
    >>> len(mixture)
    2
    >>> x, y = next(iter(mixture))
    >>> np.isnan(y["age"]).tolist() == [job >= 0 for job in y["job"]]
    True

    Reference:
        Arivazhagan et al. 2019, Massively multilingual neural machine translation in the wild,
        arXiv:1907.05019 (temperature). Raffel et al. 2020, Exploring the limits of transfer
        learning with a unified text-to-text transformer, arXiv:1910.10683, section 3.5.2 (the
        same; its limit on the size of a data set is `sizes`). Stickland, Murray 2019, BERT and
        PALs, arXiv:1902.02671 (annealed: p_i proportional to n_i^alpha, with alpha =
        1 - 0.8 (e - 1) / (E - 1) in epoch e of E).
    """
    batch_size = checks.positive_integer("batch_size", batch_size)
    epochs = checks.positive_integer("epochs", epochs)
    checks.one_of("by", by, _UNITS)
    sources = Sources(
        datasets,
        {} if missing is None else missing,
        {} if padding is None else padding,
    )
    rows = sizes_of(datasets, {} if sizes is None else sizes)
    chances = proportions(weights, rows, epochs)
    steps = _steps(steps_per_epoch, rows, batch_size)
    choices = _choices(chances, steps, batch_size if by == "row" else 1, checks.seed("seed", seed))
    streams = sources.rows(endless=True) if by == "row" else sources.batches(batch_size)
    mixture = tf.data.Dataset.choose_from_datasets(streams, choices)
    if by == "row":
        mixture = sources.batch(mixture, batch_size)
    length = tf.data.experimental.assert_cardinality(steps * epochs)
    return mixture.apply(length).prefetch(tf.data.AUTOTUNE)


def _steps(given: int | None, sizes: Mapping[str, int | None], batch_size: int) -> int:
    if given is not None:
        return checks.positive_integer("steps_per_epoch", given)
    rows = known(sizes, "without which an epoch has no length; or give `steps_per_epoch`")
    return math.ceil(sum(rows.values()) / batch_size)


def _choices(chances: np.ndarray, steps: int, draws: int, seed: int | None) -> tf.data.Dataset:
    """Returns indices of data sets, `draws` of them for each step of each epoch."""
    with np.errstate(divide="ignore"):
        # -inf is never drawn
        logits = tf.constant(np.log(chances))

    def draw(step: Any, state: Any) -> Any:
        chosen = logits[step // steps][None]
        return tf.random.stateless_categorical(chosen, draws, state, dtype=tf.int64)[0]

    # Drawn for a step at once, since a call for each row would cost more than the row.
    states = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    pairs = states.batch(2, drop_remainder=True)
    numbered = tf.data.Dataset.zip((tf.data.Dataset.range(len(chances) * steps), pairs))
    return numbered.map(tf.autograph.experimental.do_not_convert(draw)).unbatch()

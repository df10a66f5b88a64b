"""What a step measures of a batch: losses over all replicas, and by what each is divided."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_mtl.core import negative, replicas
from keras_mtl.core.losses import LossSum


class Measured(NamedTuple):
    """A batch's losses over all replicas, each of shape `(num_tasks,)` but the last two.

    A replica's extra terms hold one part in their number. Means over its rows, of activities, are
    those over all rows only if they count by rows: times its `share`, where equal shares are 1.
    """

    losses: Any
    denominators: Any
    present: Any
    extra: Any
    share: Any


def measure(
    sums: Sequence[LossSum], extra: Any = None, x: Any = None, *, refuses_negative: bool = False
) -> Measured:
    """Returns the losses over all replicas, with the extra terms weighted by rows of `x`.

    Args:
        sums: This replica's sum of each task.
        extra: Scalar of this replica's extra terms, or `None`.
        x: Optional inputs of this replica.
        refuses_negative: Boolean. Whether a loss must not be negative by rounding alone.
    """
    columns = [tf.stack(column) for column in zip(*sums, strict=True)]
    local = [tf.stop_gradient(column) for column in columns]
    alone = x is None or replicas.count() == 1
    rows = tf.ones(()) if alone else tf.cast(batch_size(x), tf.float32)
    extra = tf.zeros(()) if extra is None else tf.stop_gradient(extra)
    found = replicas.total([*local, extra * rows, rows])
    totals, denominators, labelled, extra, all_rows = found
    per_row = tf.math.divide_no_nan(float(replicas.count()), all_rows)
    present = tf.cast(labelled > 0, tf.float32)
    losses = tf.math.divide_no_nan(totals, denominators) * present
    if refuses_negative:
        losses = negative.without_rounding(losses)
    return Measured(losses, denominators, present, extra * per_row, rows * per_row)


def extra_terms(model: Any, x: Any) -> Any:
    """Returns this replica's part of what layers add to the loss, or `None` for nothing."""
    # Before any sum over replicas: replica threads share the layers' lists of losses.
    terms = [tf.cast(term, tf.float32) for term in model.losses]
    if not terms:
        return None
    extra = tf.add_n([tf.reduce_sum(term) for term in terms]) / replicas.count()
    if replicas.count() > 1:
        # A mean over no rows is NaN, which a share of 0 would not undo.
        extra = tf.where(batch_size(x) > 0, extra, 0.0)
    return extra


def by_rows(extra: Any, share: Any, tape: Any) -> Any:
    """Returns a replica's extra terms times its share of the rows, recorded by the tape."""
    if extra is None or replicas.count() == 1:
        return extra
    # The share comes with the losses of all replicas: it was not known while the tape ran.
    with tape:
        return extra * share


def batch_size(x: Any) -> Any:
    """Returns the number of rows of inputs, of which some may be `None`."""
    return tf.shape(next(part for part in keras.tree.flatten(x) if part is not None))[0]

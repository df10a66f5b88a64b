"""What stands for a missing label in each part of a task's labels."""

from numbers import Integral
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mtl.core import checks


def markers_of(task: str, labels: Any, given: Any) -> Any:
    """Returns what stands for a missing label in each part of a task's labels, or `None`."""
    if given is not None:
        _check_marker(task, labels, given)

    def marker(spec: Any) -> Any:
        if spec.dtype.is_floating:
            return np.nan
        if not spec.dtype.is_integer or (given is None and spec.dtype.is_unsigned):
            return None
        return -1 if given is None else given

    return tf.nest.map_structure(marker, labels)


def _check_marker(task: str, labels: Any, given: Any) -> None:
    if isinstance(given, bool) or not isinstance(given, Integral):
        raise TypeError(
            f"`missing['{task}']` must be an integer, received {checks.describe(given)}."
        )
    dtypes = [spec.dtype for spec in tf.nest.flatten(labels)]
    integers = [dtype for dtype in dtypes if dtype.is_integer]
    if not integers or not all(dtype.min <= given <= dtype.max for dtype in integers):
        raise ValueError(
            f"`missing['{task}']` must be a class id that labels of dtype "
            f"{[dtype.name for dtype in dtypes]} can hold, received {given}. Float labels are "
            "missing where they are NaN."
        )


def missing_to_the_end(labels: Any, marker: Any) -> Any:
    """Returns a batch in which a missing label is so to its end, whatever it was padded with."""
    first = labels[:, :1]
    missing = tf.math.is_nan(first) if labels.dtype.is_floating else first == marker
    missing = tf.reduce_any(missing, axis=range(1, labels.shape.rank), keepdims=True)
    return tf.where(missing, tf.constant(marker, labels.dtype), labels)


def check_fillable(task: str, labels: Any, markers: Any) -> None:
    """Checks that each part of the labels has a marker, for rows that have none of them."""
    for spec, marker in zip(tf.nest.flatten(labels), tf.nest.flatten(markers), strict=True):
        if marker is None:
            raise ValueError(_no_marker(task, spec, "some rows have none"))


def check_paddable(task: str, spec: Any, marker: Any) -> None:
    """Checks that a part of labels of no fixed length has a marker, which pads them."""
    if marker is None:
        raise ValueError(_no_marker(task, spec, "rows differ in length and are padded with them"))


def _no_marker(task: str, spec: Any, reason: str) -> str:
    given = f", or give `missing={{'{task}': ...}}`" if spec.dtype.is_integer else ""
    return (
        f"The labels of task '{task}' must have a dtype that can mark missing ones, since "
        f"{reason}, received {spec.dtype.name}. Cast them to 'int32' (-1 is missing) or a float "
        f"dtype (NaN){given}."
    )
